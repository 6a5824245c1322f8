//! Cases of exports and of importing them. Uses: the seam.

use super::{DataHarness, keys, put_all, write};
use crate::Keyspace::{ApplyState, Data, Index, Ttl};
use crate::{
    AppBatch, ApplicationDataStorage, DataRead, Error, KeyRange, check_export, export_data,
    import_data,
};

fn export(data: &dyn DataRead, range: &KeyRange) -> Vec<u8> {
    let mut bytes = Vec::new();
    export_data(data, range, &mut bytes).expect("export");
    bytes
}

fn import(data: &dyn ApplicationDataStorage, mut bytes: &[u8]) -> crate::Result<u64> {
    import_data(data, &KeyRange::all(), &mut bytes)
}

fn check(mut bytes: &[u8]) -> crate::Result<u64> {
    check_export(&KeyRange::all(), &mut bytes)
}

pub(super) fn an_export_comes_back_whole(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    put_all(h.store(), Index, "i");
    put_all(h.store(), Ttl, "b");
    put_all(h.store(), ApplyState, "mine");
    let view = h.store().view().expect("view");
    put_all(h.store(), Data, "later");
    let bytes = export(&*view, &KeyRange::all());
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::new("b", ""));
        batch.put(Data, "x", "gone after the import");
        batch.delete(Ttl, "b");
    });
    assert_eq!(check(&bytes).expect("whole"), 5);
    let count = import(h.store(), &bytes).expect("import");
    assert_eq!(count, 5);
    assert_eq!(keys(h.store(), Data), "a b c");
    assert_eq!(keys(h.store(), Index), "i");
    assert_eq!(keys(h.store(), Ttl), "b");
    assert_eq!(keys(h.store(), ApplyState), "mine");
    assert_eq!(export(h.store(), &KeyRange::all()), bytes);
}

pub(super) fn an_export_is_of_its_range(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d");
    let bytes = export(h.store(), &KeyRange::new("b", "d"));
    write(h.store(), |batch: &mut AppBatch| {
        batch.delete_range(Data, &KeyRange::all());
    });
    let (all, mut rest) = (KeyRange::new("c", "d"), bytes.as_slice());
    let got = import_data(h.store(), &all, &mut rest);
    assert!(matches!(got, Err(Error::InvalidArgument { .. })), "{got:?}");
    let got = check_export(&all, &mut bytes.as_slice());
    assert!(matches!(got, Err(Error::InvalidArgument { .. })), "{got:?}");
    assert_eq!(keys(h.store(), Data), "", "nothing of it");
    import(h.store(), &bytes).expect("import");
    assert_eq!(keys(h.store(), Data), "b c");
}

pub(super) fn a_damaged_export_changes_nothing(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b");
    put_all(h.store(), Ttl, "a");
    let bytes = export(h.store(), &KeyRange::all());
    put_all(h.store(), Data, "c");
    let refused = |bytes: &[u8]| {
        let got = import(h.store(), bytes);
        let typed = matches!(
            got,
            Err(Error::Corruption { .. }
                | Error::UnsupportedVersion { .. }
                | Error::InvalidArgument { .. })
        );
        assert!(typed, "{bytes:02x?}: {got:?}");
        assert!(check(bytes).is_err(), "{bytes:02x?}");
        assert_eq!(keys(h.store(), Data), "a b c");
    };
    for length in 0..bytes.len() {
        refused(&bytes[..length]);
    }
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x41;
        refused(&damaged);
    }
    import(h.store(), &bytes).expect("the whole one");
    assert_eq!(keys(h.store(), Data), "a b");
}
