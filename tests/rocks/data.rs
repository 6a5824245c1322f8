//! The data: batches, views, scans, imports.

use std::ops::ControlFlow;

use peerstore::rocks::RocksData;
use peerstore::{
    AppBatch, ApplicationDataStorage, DataImport, DataRead, Durability::*, Error, KeyRange,
    Keyspace,
};

use super::*;

fn open(dir: &Path) -> RocksData {
    RocksData::open(dir, &options()).unwrap()
}

fn put(data: &RocksData, keyspace: Keyspace, pairs: &[(&str, &str)]) {
    let mut batch = AppBatch::default();
    pairs
        .iter()
        .for_each(|(key, value)| batch.put(keyspace, key, value));
    data.write(&batch, Buffered).unwrap();
}

fn scan(data: &dyn DataRead, keyspace: Keyspace, range: &KeyRange) -> Vec<String> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
        Ok(ControlFlow::Continue(()))
    };
    data.scan(keyspace, range, &mut visit).unwrap();
    seen
}

#[test]
fn keyspaces_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    for keyspace in Keyspace::ALL {
        put(&data, keyspace, &[("key", keyspace.name())]);
    }
    drop(data);
    let data = open(dir.path());
    for keyspace in Keyspace::ALL {
        let value = data.get(keyspace, b"key").unwrap().unwrap();
        assert_eq!(value, keyspace.name().as_bytes());
    }
}

#[test]
fn scans_are_half_open_ascending_and_stop_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(
        &data,
        Keyspace::Data,
        &[("c", "3"), ("a", "1"), ("b", "2"), ("\u{7f}", "4")],
    );
    let all = scan(&data, Keyspace::Data, &KeyRange::all());
    assert_eq!(all, ["a=1", "b=2", "c=3", "\\x7f=4"]);
    assert_eq!(
        scan(&data, Keyspace::Data, &KeyRange::new("a", "c")),
        ["a=1", "b=2"]
    );
    assert_eq!(
        scan(&data, Keyspace::Data, &KeyRange::new("c", "")).len(),
        2
    );
    assert!(scan(&data, Keyspace::Data, &KeyRange::new("c", "b")).is_empty());
    assert!(scan(&data, Keyspace::Index, &KeyRange::all()).is_empty());
    let mut seen = 0;
    let mut first = |_: &[u8], _: &[u8]| {
        seen += 1;
        Ok(ControlFlow::Break(()))
    };
    data.scan(Keyspace::Data, &KeyRange::all(), &mut first)
        .unwrap();
    assert_eq!(seen, 1);
    let mut fail = |_: &[u8], _: &[u8]| Err(Error::WorkerGone { worker: "test" });
    let error = data
        .scan(Keyspace::Data, &KeyRange::all(), &mut fail)
        .unwrap_err();
    assert!(matches!(error, Error::WorkerGone { .. }));
}

#[test]
fn multi_get_answers_in_the_order_of_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, Keyspace::Data, &[("a", "1"), ("b", "")]);
    let keys: [&[u8]; 4] = [b"b", b"missing", b"a", b"b"];
    let values = data.multi_get(Keyspace::Data, &keys).unwrap();
    let expected = [Some(vec![]), None, Some(b"1".to_vec()), Some(vec![])];
    assert_eq!(values, expected);
    assert!(data.multi_get(Keyspace::Data, &[]).unwrap().is_empty());
}

#[test]
fn a_view_does_not_move() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, Keyspace::Data, &[("a", "1"), ("b", "2")]);
    let view = data.view().unwrap();
    let mut batch = AppBatch::default();
    batch.delete_range(Keyspace::Data, &KeyRange::all());
    batch.put(Keyspace::Data, "c", "3");
    data.write(&batch, Buffered).unwrap();
    let seen = std::thread::spawn(move || {
        let keys: [&[u8]; 2] = [b"a", b"c"];
        let values = view.multi_get(Keyspace::Data, &keys).unwrap();
        assert_eq!(values, [Some(b"1".to_vec()), None]);
        assert_eq!(view.get(Keyspace::Data, b"c").unwrap(), None);
        scan(view.as_ref(), Keyspace::Data, &KeyRange::all())
    });
    assert_eq!(seen.join().unwrap(), ["a=1", "b=2"]);
    assert_eq!(scan(&data, Keyspace::Data, &KeyRange::all()), ["c=3"]);
}

#[test]
fn a_range_without_end_takes_the_last_key_and_what_the_batch_put_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    let last = [0xff; 40];
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, "a", "kept");
    batch.put(Keyspace::Data, last, "goes");
    batch.put(Keyspace::Index, last, "kept");
    data.write(&batch, Buffered).unwrap();
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, [0xff; 50], "goes");
    batch.delete_range(Keyspace::Data, &KeyRange::new("b", ""));
    batch.put(Keyspace::Data, "b", "put behind it");
    data.write(&batch, Buffered).unwrap();
    let left = scan(&data, Keyspace::Data, &KeyRange::all());
    assert_eq!(left, ["a=kept", "b=put behind it"]);
    assert_eq!(scan(&data, Keyspace::Index, &KeyRange::all()).len(), 1);
}

#[test]
fn an_empty_batch_neither_writes_nor_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    data.write(&AppBatch::default(), Synced).unwrap();
    assert_eq!(data.stats(), Default::default());
    put(&data, Keyspace::Data, &[("key", "value")]);
    let stats = data.stats();
    assert_eq!((stats.writes, stats.syncs, stats.bytes), (1, 0, 8));
    data.sync().unwrap();
    assert_eq!(data.stats().syncs, 1);
}

fn fill(import: &mut dyn DataImport) {
    import.put(Keyspace::Data, b"b1", b"new").unwrap();
    import.put(Keyspace::Data, b"b2", b"new").unwrap();
    import.put(Keyspace::Ttl, b"b1", b"new").unwrap();
}

#[test]
fn an_import_replaces_its_range_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    for keyspace in Keyspace::ALL {
        put(
            &data,
            keyspace,
            &[("a", "old"), ("b1", "old"), ("b3", "old"), ("c", "old")],
        );
    }
    let view = data.view().unwrap();
    let mut import = data.begin_import(&KeyRange::new("b", "c")).unwrap();
    fill(import.as_mut());
    assert_eq!(data.get(Keyspace::Data, b"b1").unwrap().unwrap(), b"old");
    import.finish().unwrap();
    let check = |data: &RocksData| {
        let all = KeyRange::all();
        assert_eq!(
            scan(data, Keyspace::Data, &all),
            ["a=old", "b1=new", "b2=new", "c=old"]
        );
        assert_eq!(scan(data, Keyspace::Index, &all), ["a=old", "c=old"]);
        assert_eq!(
            scan(data, Keyspace::Ttl, &all),
            ["a=old", "b1=new", "c=old"]
        );
        assert_eq!(scan(data, Keyspace::RegionState, &all).len(), 4);
    };
    check(&data);
    assert_eq!(
        scan(view.as_ref(), Keyspace::Data, &KeyRange::all()).len(),
        4
    );
    assert!(
        fs::read_dir(dir.path().join("import"))
            .unwrap()
            .next()
            .is_none()
    );
    drop((view, data));
    check(&open(dir.path()));
}

#[test]
fn an_import_without_bounds_clears_everything_and_can_be_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(
        &data,
        Keyspace::Data,
        &[("a", "old"), ("\u{10ffff}", "old")],
    );
    put(&data, Keyspace::Index, &[("a", "old")]);
    for _ in 0..2 {
        let mut import = data.begin_import(&KeyRange::all()).unwrap();
        fill(import.as_mut());
        import.finish().unwrap();
        assert_eq!(
            scan(&data, Keyspace::Data, &KeyRange::all()),
            ["b1=new", "b2=new"]
        );
        assert!(scan(&data, Keyspace::Index, &KeyRange::all()).is_empty());
    }
    data.begin_import(&KeyRange::all())
        .unwrap()
        .finish()
        .unwrap();
    assert!(scan(&data, Keyspace::Data, &KeyRange::all()).is_empty());
}

#[test]
fn a_large_import_is_split_into_tables() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    let mut import = data.begin_import(&KeyRange::all()).unwrap();
    let mut state = 1u64;
    let mut noise = vec![0; 1 << 16];
    for i in 0..1500u64 {
        for chunk in noise.chunks_mut(8) {
            state = state.wrapping_mul(0x5851F42D4C957F2D).wrapping_add(1);
            chunk.copy_from_slice(&(state ^ state >> 31).to_be_bytes());
        }
        import
            .put(Keyspace::Data, &i.to_be_bytes(), &noise)
            .unwrap();
    }
    let staged = files(&dir.path().join("import/0"), "sst");
    assert_eq!(staged.len(), 2);
    import.finish().unwrap();
    drop(data);
    let data = open(dir.path());
    assert_eq!(
        data.get(Keyspace::Data, &1499u64.to_be_bytes())
            .unwrap()
            .unwrap(),
        noise
    );
    let mut count = 0;
    let mut visit = |_: &[u8], _: &[u8]| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    };
    data.scan(Keyspace::Data, &KeyRange::all(), &mut visit)
        .unwrap();
    assert_eq!(count, 1500);
}

#[test]
fn an_import_out_of_order_or_out_of_range_is_refused_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    let mut import = data.begin_import(&KeyRange::new("b", "c")).unwrap();
    import.put(Keyspace::Index, b"b5", b"1").unwrap();
    for (keyspace, key) in [
        (Keyspace::Index, "b5"),
        (Keyspace::Index, "b4"),
        (Keyspace::Index, "c"),
        (Keyspace::Index, "a"),
        (Keyspace::Data, "b6"),
        (Keyspace::RegionState, "b6"),
    ] {
        let error = import.put(keyspace, key.as_bytes(), b"2").unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    import.put(Keyspace::Index, b"b6", b"3").unwrap();
    import.finish().unwrap();
    assert_eq!(
        scan(&data, Keyspace::Index, &KeyRange::all()),
        ["b5=1", "b6=3"]
    );
}

#[test]
fn an_import_that_is_given_up_leaves_nothing_also_across_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, Keyspace::Data, &[("b1", "old")]);
    let mut import = data.begin_import(&KeyRange::all()).unwrap();
    fill(import.as_mut());
    assert!(!tree(&dir.path().join("import/0")).is_empty());
    drop(import);
    assert!(!dir.path().join("import/0").exists());
    assert_eq!(scan(&data, Keyspace::Data, &KeyRange::all()), ["b1=old"]);
    drop(data);
    fs::create_dir_all(dir.path().join("import/7")).unwrap();
    fs::write(dir.path().join("import/7/000000.sst"), "half a table").unwrap();
    let data = open(dir.path());
    assert!(!dir.path().join("import").exists());
    assert_eq!(scan(&data, Keyspace::Data, &KeyRange::all()), ["b1=old"]);
}
