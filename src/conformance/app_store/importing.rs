//! Cases of imports. Uses: the seam.

use super::{DataHarness, keys, put_all, scan, value};
use crate::Keyspace::{ApplyState, Data, Index, RegionState, SnapshotState, Store, Ttl};
use crate::{ApplicationDataStorage, DataImport, Error, KeyRange, Keyspace};

fn begin(data: &dyn ApplicationDataStorage, start: &str, end: &str) -> Box<dyn DataImport> {
    let import = data.begin_import(&KeyRange::new(start, end));
    import.expect("begin_import")
}

/// Adds each of `keys`, with "new" as its value.
fn add(import: &mut dyn DataImport, keyspace: Keyspace, keys: &str) {
    for key in keys.split(' ') {
        let added = import.put(keyspace, key.as_bytes(), b"new");
        added.expect("put");
    }
}

fn refused(got: crate::Result<()>, what: &str) {
    let right = matches!(got, Err(Error::InvalidArgument { .. }));
    assert!(right, "{what}: {got:?}");
}

pub(super) fn an_import_replaces_exactly_its_range(h: &mut DataHarness) {
    for keyspace in Keyspace::ALL {
        put_all(h.store(), keyspace, "a b c d e");
    }
    let mut import = begin(h.store(), "b", "d");
    add(import.as_mut(), Data, "b bb");
    add(import.as_mut(), Ttl, "cc");
    import.finish().expect("finish");
    assert_eq!(keys(h.store(), Data), "a b bb d e");
    assert_eq!(value(h.store(), Data, "a").as_deref(), Some("va"));
    assert_eq!(value(h.store(), Data, "b").as_deref(), Some("new"));
    assert_eq!(value(h.store(), Data, "c"), None);
    assert_eq!(value(h.store(), Data, "d").as_deref(), Some("vd"));
    assert_eq!(keys(h.store(), Index), "a d e");
    assert_eq!(keys(h.store(), Ttl), "a cc d e");
    for keyspace in [ApplyState, RegionState, SnapshotState, Store] {
        assert_eq!(keys(h.store(), keyspace), "a b c d e", "{keyspace:?}");
    }
}

pub(super) fn an_import_of_everything_leaves_the_states(h: &mut DataHarness) {
    for keyspace in Keyspace::ALL {
        put_all(h.store(), keyspace, "a z");
    }
    let mut import = begin(h.store(), "", "");
    import.put(Data, b"", b"the empty key").expect("put");
    add(import.as_mut(), Index, "m");
    import.finish().expect("finish");
    assert_eq!(scan(h.store(), Data, &KeyRange::all()).len(), 1);
    assert_eq!(value(h.store(), Data, "").as_deref(), Some("the empty key"));
    assert_eq!(keys(h.store(), Index), "m");
    assert_eq!(keys(h.store(), Ttl), "");
    for keyspace in [ApplyState, RegionState, SnapshotState, Store] {
        assert_eq!(keys(h.store(), keyspace), "a z", "{keyspace:?}");
    }
}

pub(super) fn an_import_of_nothing_clears_the_range(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    begin(h.store(), "b", "").finish().expect("finish");
    assert_eq!(keys(h.store(), Data), "a");
}

pub(super) fn an_import_shows_nothing_before_it_ends(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let mut import = begin(h.store(), "", "");
    add(import.as_mut(), Data, "x y");
    assert_eq!(keys(h.store(), Data), "a b c");
    assert_eq!(value(h.store(), Data, "x"), None);
    import.finish().expect("finish");
    assert_eq!(keys(h.store(), Data), "x y");
}

pub(super) fn a_dropped_import_changes_nothing(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let mut import = begin(h.store(), "", "");
    add(import.as_mut(), Data, "x y");
    drop(import);
    assert_eq!(keys(h.store(), Data), "a b c");
    if h.reopen().expect("reopen") {
        assert_eq!(keys(h.store(), Data), "a b c");
    }
}

pub(super) fn an_import_can_be_done_again(h: &mut DataHarness) {
    for _ in 0..3 {
        let mut import = begin(h.store(), "a", "n");
        add(import.as_mut(), Data, "a b c");
        add(import.as_mut(), Index, "a");
        import.finish().expect("finish");
        assert_eq!(keys(h.store(), Data), "a b c");
        assert_eq!(keys(h.store(), Index), "a");
    }
    put_all(h.store(), Data, "b d");
    assert_eq!(value(h.store(), Data, "b").as_deref(), Some("vb"));
    assert_eq!(keys(h.store(), Data), "a b c d");
}

pub(super) fn a_large_import_arrives_whole(h: &mut DataHarness) {
    let (count, data) = (20_000, vec![7; 500]);
    let key = |n: u32| format!("key {n:08}").into_bytes();
    put_all(h.store(), Data, "key zzz");
    let mut import = begin(h.store(), "key", "l");
    for n in 0..count {
        import.put(Data, &key(n), &data).expect("put");
    }
    import.finish().expect("finish");
    for n in [0, 1, count / 2, count - 1] {
        let found = h.store().get(Data, &key(n)).expect("get");
        assert_eq!(found.as_ref(), Some(&data), "key {n}");
    }
    let all = scan(h.store(), Data, &KeyRange::new("key", "l"));
    assert_eq!(all.len(), count as usize);
}

pub(super) fn an_import_refuses_keys_out_of_order(h: &mut DataHarness) {
    let mut import = begin(h.store(), "", "");
    add(import.as_mut(), Data, "b");
    refused(import.put(Data, b"a", b""), "a smaller key");
    refused(import.put(Data, b"b", b""), "the same key again");
    add(import.as_mut(), Ttl, "a");
    refused(import.put(Data, b"c", b""), "a keyspace that is over");
}

pub(super) fn an_import_refuses_keys_outside_its_range(h: &mut DataHarness) {
    let mut import = begin(h.store(), "b", "d");
    refused(import.put(Data, b"a", b""), "below the start");
    add(import.as_mut(), Data, "b cz");
    refused(import.put(Data, b"d", b""), "the end");
    refused(import.put(Data, b"e", b""), "behind the end");
}

pub(super) fn an_import_refuses_the_states(h: &mut DataHarness) {
    for keyspace in [ApplyState, RegionState, SnapshotState, Store] {
        let mut import = begin(h.store(), "", "");
        refused(import.put(keyspace, b"a", b""), keyspace.name());
    }
}

pub(super) fn a_view_does_not_see_an_import(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let view = h.store().view().expect("view");
    let mut import = begin(h.store(), "", "");
    add(import.as_mut(), Data, "b x");
    import.finish().expect("finish");
    assert_eq!(keys(view.as_ref(), Data), "a b c");
    assert_eq!(value(view.as_ref(), Data, "b").as_deref(), Some("vb"));
    assert_eq!(keys(h.store(), Data), "b x");
}
