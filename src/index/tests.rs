//! The records of indexes, and what split and merge make of them.

use super::*;
use crate::app_store::{AppOp, ApplicationDataStorage as _};
use crate::memory::MemoryData;
use crate::types::Durability;

fn names(names: &[&str]) -> Declared {
    Declared(names.iter().map(|name| name.to_string()).collect())
}

/// The record that `batch` puts under `start`.
fn put_under(batch: &AppBatch, start: &[u8]) -> Option<Declared> {
    batch.ops().find_map(|op| match op {
        AppOp::Put { key, value, .. } if key == start => {
            Some(Declared::under(key, Some(value)).unwrap())
        }
        _ => None,
    })
}

/// The names under each key, and what `carry_indexes` makes of them.
fn carried(under: &[(&str, &[&str])], old: KeyRange, new: KeyRange) -> AppBatch {
    let (data, mut batch) = (MemoryData::new(), AppBatch::new());
    for (key, those) in under {
        names(those).put(&mut batch, key.as_bytes());
    }
    data.write(&batch, Durability::Buffered).unwrap();
    batch.clear();
    carry_indexes(&data, &old, &new, &mut batch).unwrap();
    batch
}

#[test]
fn a_record_keeps_its_bytes() {
    let mut batch = AppBatch::new();
    names(&["b", "a"]).put(&mut batch, b"key");
    let expected = b"\xfePSindexes\x01\x01\0\0\0a\x01\0\0\0b";
    let AppOp::Put { key, value, .. } = batch.op(0) else {
        panic!("a record is put")
    };
    assert_eq!((key, value), (&b"key"[..], &expected[..]));
    assert_eq!(
        Declared::under(key, Some(value)).unwrap(),
        names(&["a", "b"])
    );
}

#[test]
fn other_bytes_name_nothing_and_damaged_ones_are_corruption() {
    assert_eq!(Declared::under(b"", None).unwrap(), names(&[]));
    assert_eq!(Declared::under(b"", Some(b"red")).unwrap(), names(&[]));
    for damaged in [&b"\x01"[..], b"\xff\xff\xff\xffa", b"\x01\0\0\0\xff"] {
        let bytes = [HEAD, damaged].concat();
        let error = Declared::under(b"k", Some(&bytes)).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
    }
}

#[test]
fn both_halves_of_a_split_have_the_indexes_of_the_whole() {
    let (old, new) = (KeyRange::new("a", "z"), KeyRange::new("a", "m"));
    let batch = carried(&[("a", &["x"])], old.clone(), new.clone());
    assert_eq!(put_under(&batch, b"m"), Some(names(&["x"])));
    assert_eq!(batch.len(), 1);
    // What an earlier region left there does not count.
    let batch = carried(&[("m", &["y"])], old.clone(), new.clone());
    assert!(matches!(batch.op(0), AppOp::Delete { key: b"m", .. }));
    assert!(carried(&[], old, new).is_empty());
}

#[test]
fn a_merged_region_has_the_indexes_of_both() {
    for (old, new) in [
        (KeyRange::new("a", "m"), KeyRange::new("a", "z")),
        (KeyRange::new("m", "z"), KeyRange::new("a", "z")),
    ] {
        let batch = carried(&[("a", &["x"]), ("m", &["y"])], old.clone(), new.clone());
        assert_eq!(put_under(&batch, b"a"), Some(names(&["x", "y"])));
        assert!(matches!(batch.op(0), AppOp::Delete { key: b"m", .. }));
        assert!(carried(&[], old, new).is_empty());
    }
}
