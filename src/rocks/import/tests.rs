//! An import that is cut behind each of its steps, or fails there.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::app_store::{AppBatch, ApplicationDataStorage, DataRead as _};
use crate::index::IndexQuery;
use crate::indexed::{Extractor, IndexedData};
use crate::rocks::{RocksData, RocksOptions, RocksTransactions};
use crate::transaction::TransactionalStorage as _;

type Content = Vec<(Keyspace, Vec<u8>, Vec<u8>)>;

fn open(dir: &Path) -> Arc<RocksData> {
    Arc::new(RocksData::open(dir, &RocksOptions::default()).expect("opens"))
}

/// Every key of every keyspace, but for what RocksDB's open writes by itself.
fn content(data: &dyn ApplicationDataStorage) -> Content {
    let mut found = Vec::new();
    for keyspace in Keyspace::ALL {
        let mut take = |key: &[u8], value: &[u8]| {
            if (keyspace, key) != (Keyspace::Store, crate::keys::FORMAT_KEY) {
                found.push((keyspace, key.to_vec(), value.to_vec()));
            }
            Ok(ControlFlow::Continue(()))
        };
        data.scan(keyspace, &KeyRange::all(), &mut take)
            .expect("scan");
    }
    found
}

fn old_data(data: &dyn ApplicationDataStorage) {
    let mut batch = AppBatch::new();
    for keyspace in Keyspace::ALL {
        for key in ["a", "b1", "b2", "c"] {
            batch.put(keyspace, key, "old");
        }
    }
    data.write(&batch, Durability::Synced).expect("write");
}

/// An import of `[b, c)` with a table for each keyspace, the first of which has two.
fn import(data: &RocksData) -> RocksImport {
    let range = KeyRange::new("b", "c");
    let (engine, reclaim) = (data.engine.clone(), data.reclaim.clone());
    let tables = RocksOptions::default().import_tables();
    let mut import = RocksImport::begin(engine, reclaim, &AtomicU64::new(7), &tables, &range);
    import.put(Keyspace::Data, b"b1", b"new").expect("put");
    import.end_table().expect("a table");
    import.put(Keyspace::Data, b"b3", b"new").expect("put");
    import.put(Keyspace::Index, b"b3", b"new").expect("put");
    import.put(Keyspace::Ttl, b"b4", b"new").expect("put");
    import
}

/// What `dir` is when its process is killed now.
fn image(dir: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for item in fs::read_dir(from)? {
            let from = item?.path();
            let to = to.join(from.file_name().expect("a name"));
            match from.is_dir() {
                true => copy(&from, &to)?,
                false => drop(fs::copy(&from, &to)?),
            }
        }
        Ok(())
    }
    loop {
        let image = tempfile::tempdir().expect("a directory");
        match copy(dir, image.path()) {
            // RocksDB has removed a file meanwhile: what was copied is of no one moment.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            copied => {
                copied.expect("copy");
                return image;
            }
        }
    }
}

/// The store before the import, after it, and the images behind each step.
fn images() -> (Content, Content, Vec<(Step, tempfile::TempDir)>) {
    let dir = tempfile::tempdir().expect("a directory");
    let data = open(dir.path());
    old_data(&*data);
    let before = content(&*data);
    let mut images = Vec::new();
    let mut import = import(&data);
    let mut keep = |step| {
        images.push((step, image(dir.path())));
        Ok(())
    };
    import.finish_in_steps(&mut keep).expect("finished");
    (before, content(&*data), images)
}

const STEPS: [Step; 7] = [
    Step::Staged,
    Step::Decided,
    Step::TakenIn(0),
    Step::TakenIn(1),
    Step::TakenIn(2),
    Step::TakenIn(3),
    Step::Settled,
];

#[test]
fn an_import_that_is_killed_behind_any_step_is_there_whole_or_not_at_all() {
    let (before, after, images) = images();
    assert_ne!(before, after);
    assert_eq!(
        images.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        STEPS
    );
    for (step, image) in images {
        let expected = if step == Step::Staged {
            &before
        } else {
            &after
        };
        let data = open(image.path());
        assert_eq!(content(&*data), *expected, "killed behind {step:?}");
        assert!(!image.path().join(IMPORT).exists(), "{step:?}");
        // What is written now must not be overwritten by another open.
        let mut batch = AppBatch::new();
        batch.put(Keyspace::Data, "b1", "newer");
        data.write(&batch, Durability::Buffered).expect("write");
        drop(data);
        let value = open(image.path()).get(Keyspace::Data, b"b1");
        assert_eq!(value.expect("read"), Some(b"newer".to_vec()), "{step:?}");
    }
}

#[test]
fn an_import_that_is_killed_in_the_middle_of_a_rename_goes_on() {
    let (_, after, images) = images();
    for (step, image) in images {
        if step != Step::Decided {
            continue;
        }
        // Under its second name, of which RocksDB had not heard yet.
        let staging = decided::staging(image.path(), 7);
        fs::rename(
            staging.join("000001.sst"),
            staging.with_extension("000001.sst"),
        )
        .expect("rename");
        assert_eq!(content(&*open(image.path())), after);
    }
}

#[test]
fn whoever_opens_next_brings_the_import_to_its_end() {
    let (_, after, images) = images();
    let (_, image) = &images[2];
    let data = RocksTransactions::open(image.path(), &RocksOptions::default()).expect("opens");
    let read = data.begin_read_transaction().expect("a transaction");
    for (key, value) in [
        (b"b1", Some(b"new".to_vec())),
        (b"b2", None),
        (b"b3", Some(b"new".to_vec())),
    ] {
        assert_eq!(read.get(key).expect("read"), value);
    }
    drop((read, data));
    assert_eq!(content(&*open(image.path())), after);
}

#[test]
fn a_failure_behind_any_step_stops_the_store_and_the_next_open_makes_it_whole() {
    for failing in &STEPS[..STEPS.len() - 1] {
        let dir = tempfile::tempdir().expect("a directory");
        let data = open(dir.path());
        old_data(&*data);
        let before = content(&*data);
        let mut import = import(&data);
        let mut fail = |step| match step == *failing {
            true => Err(Error::StoreStopped),
            false => Ok(()),
        };
        assert!(matches!(
            import.finish_in_steps(&mut fail),
            Err(Error::StoreStopped)
        ));
        drop(import);
        let mut batch = AppBatch::new();
        batch.put(Keyspace::Data, "b1", "newer");
        let written = data.write(&batch, Durability::Synced);
        let is_decided = *failing != Step::Staged;
        match is_decided {
            true => assert!(
                matches!(written, Err(Error::Poisoned { .. })),
                "{failing:?}: {written:?}"
            ),
            false => assert!(written.is_ok(), "{failing:?}: {written:?}"),
        }
        drop(data);
        let now = content(&*open(dir.path()));
        let value = |content: &Content, key: &str| {
            let found = content
                .iter()
                .find(|(k, own, _)| *k == Keyspace::Data && own == key.as_bytes());
            found.map(|(_, _, value)| String::from_utf8_lossy(value).into_owned())
        };
        match is_decided {
            true => {
                assert_eq!(value(&now, "b1").as_deref(), Some("new"), "{failing:?}");
                assert_eq!(value(&now, "b2"), None, "{failing:?}");
            }
            false => {
                assert_eq!(value(&now, "b1").as_deref(), Some("newer"));
                assert_eq!(now.len(), before.len());
            }
        }
    }
}

#[test]
fn a_staged_table_that_vanished_is_an_error_and_not_an_empty_range() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = open(dir.path());
    let mut import = import(&data);
    let table = decided::staged(dir.path(), 7, 1);
    let mut lose = |step| {
        if step == Step::Decided {
            fs::remove_file(&table).expect("remove");
        }
        Ok(())
    };
    let error = import
        .finish_in_steps(&mut lose)
        .expect_err("a table is gone");
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
}

#[test]
fn a_damaged_record_is_corruption() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = open(dir.path());
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Store, Decided::key(1), [4]);
    data.write(&batch, Durability::Synced).expect("write");
    drop(data);
    let error = RocksData::open(dir.path(), &RocksOptions::default()).map(drop);
    assert!(matches!(error, Err(Error::Corruption { .. })), "{error:?}");
}

#[test]
fn indexes_follow_an_import_that_is_killed_behind_any_step() {
    let words: Extractor = Arc::new(|_, value| vec![value.to_vec()]);
    let indexed = |dir: &Path| {
        let data = IndexedData::open(open(dir), [("words", words.clone())]);
        data.expect("opens")
    };
    let found = |data: &IndexedData, word: &str| {
        let page = data
            .query("words", &IndexQuery::exact(word))
            .expect("found");
        page.keys()
            .map(|key| key.escape_ascii().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let dir = tempfile::tempdir().expect("a directory");
    let data = indexed(dir.path());
    old_data(&data);
    data.create_index("words").expect("created");
    drop(data);
    // As an import of indexed data does it: the indexes are said to be incomplete before the first step.
    let data = open(dir.path());
    let catalogue = [b"\xfeindex/\0".as_slice(), b"words"].concat();
    let mut value = data
        .get(Keyspace::Store, &catalogue)
        .expect("read")
        .expect("an index");
    *value.last_mut().expect("a state") = 0;
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Store, &catalogue, &value);
    data.write(&batch, Durability::Synced).expect("write");
    let mut images = Vec::new();
    let mut keep = |step| {
        images.push((step, image(dir.path())));
        Ok(())
    };
    import(&data).finish_in_steps(&mut keep).expect("finished");
    for (step, image) in images {
        let data = indexed(image.path());
        let expected = match step {
            Step::Staged => ("a b1 b2 c", ""),
            _ => ("a c", "b1 b3"),
        };
        let got = (found(&data, "old"), found(&data, "new"));
        assert_eq!((got.0.as_str(), got.1.as_str()), expected, "{step:?}");
    }
}
