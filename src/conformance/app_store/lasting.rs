//! Cases of many threads and of stores that are opened again. Uses: the seam.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{DataHarness, keys, put_all, scan, value, write, write_as};
use crate::Keyspace::{ApplyState, Data, Index};
use crate::{ApplicationDataStorage, Durability, KeyRange, Keyspace};

pub(super) fn readers_never_see_half_a_batch(h: &mut DataHarness) {
    let data = h.store();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| watch(data, &done))).collect();
        for n in 0..200_u32 {
            write(data, |batch| {
                for key in ["a", "b", "c"] {
                    batch.put(Data, key, n.to_string());
                }
                batch.put(ApplyState, "a", n.to_string());
            });
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().expect("reader"), None, "torn");
        }
    });
}

/// Reads until `done`; returns what no single moment had.
fn watch(data: &dyn ApplicationDataStorage, done: &AtomicBool) -> Option<String> {
    loop {
        let last_round = done.load(Ordering::Acquire);
        let got = data.multi_get(Data, &[b"a", b"b", b"c"]);
        let got = got.expect("multi_get");
        if got[0] != got[1] || got[1] != got[2] {
            return Some(format!("multi_get: {got:?}"));
        }
        let pairs = scan(data, Data, &KeyRange::all());
        if pairs.iter().any(|(_, value)| *value != pairs[0].1) {
            return Some(format!("scan: {pairs:?}"));
        }
        let view = data.view().expect("view");
        let (state, value) = (
            value(view.as_ref(), ApplyState, "a"),
            value(view.as_ref(), Data, "c"),
        );
        if state != value {
            return Some(format!("view: {state:?} and {value:?}"));
        }
        if last_round {
            return None;
        }
    }
}

pub(super) fn writers_do_not_disturb_each_other(h: &mut DataHarness) {
    let data = h.store();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            scope.spawn(move || {
                for n in 0..30_u32 {
                    let (key, old) = (format!("{writer}/{n}"), format!("{writer}/{}", n / 2));
                    write(data, |batch| {
                        batch.put(Data, &key, &key);
                        batch.put(Index, &old, &key);
                    });
                    assert_eq!(value(data, Data, &key), Some(key));
                }
            });
        }
    });
    for writer in 0..6 {
        for n in 0..30 {
            let key = format!("{writer}/{n}");
            assert_eq!(value(data, Data, &key), Some(key));
        }
        let last = format!("{writer}/29");
        assert_eq!(value(data, Index, &format!("{writer}/14")), Some(last));
    }
}

pub(super) fn reopening_keeps_everything(h: &mut DataHarness) {
    for keyspace in Keyspace::ALL {
        put_all(h.store(), keyspace, "a b");
        write(h.store(), |batch| batch.put(keyspace, "b", keyspace.name()));
    }
    for _ in 0..2 {
        if !h.reopen().expect("reopen") {
            return;
        }
        for keyspace in Keyspace::ALL {
            assert_eq!(keys(h.store(), keyspace), "a b");
            let found = value(h.store(), keyspace, "b");
            assert_eq!(found.as_deref(), Some(keyspace.name()));
        }
    }
}

pub(super) fn reopening_does_not_bring_back_what_was_deleted(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d e");
    put_all(h.store(), Index, "a b");
    write(h.store(), |batch| batch.delete(Data, "a"));
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::new("c", "e"));
    });
    let import = h.store().begin_import(&KeyRange::new("b", "c"));
    import.and_then(|import| import.finish()).expect("import");
    if h.reopen().expect("reopen") {
        assert_eq!(keys(h.store(), Data), "e");
        assert_eq!(keys(h.store(), Index), "a");
    }
}

pub(super) fn a_power_cut_keeps_a_prefix_of_the_writes(h: &mut DataHarness) {
    for n in 0..20_u32 {
        write(h.store(), |batch| {
            batch.put(Data, format!("{n:02}"), "");
            batch.put(ApplyState, "applied", n.to_string());
        });
    }
    if !h.crash().expect("crash") {
        return;
    }
    let kept = scan(h.store(), Data, &KeyRange::all()).len();
    for n in 0..kept {
        let found = value(h.store(), Data, &format!("{n:02}"));
        assert!(found.is_some(), "write {n} is gone, a later one is not");
    }
    let applied = value(h.store(), ApplyState, "applied");
    let want = kept.checked_sub(1).map(|n| n.to_string());
    assert_eq!(applied, want, "the state moves with its data");
}

pub(super) fn a_synced_write_covers_the_earlier_ones(h: &mut DataHarness) {
    put_all(h.store(), Data, "a");
    put_all(h.store(), Index, "b");
    write_as(h.store(), Durability::Synced, |batch| {
        batch.put(ApplyState, "c", "");
    });
    put_all(h.store(), Data, "z");
    if h.crash().expect("crash") {
        assert!(keys(h.store(), Data).starts_with('a'));
        assert_eq!(keys(h.store(), Index), "b");
        assert_eq!(keys(h.store(), ApplyState), "c");
    }
}

pub(super) fn sync_covers_the_earlier_writes(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b");
    write(h.store(), |batch| batch.delete(Data, "a"));
    h.store().sync().expect("sync");
    if h.crash().expect("crash") {
        assert_eq!(keys(h.store(), Data), "b");
    }
}

pub(super) fn a_finished_import_survives_a_power_cut(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let import = h.store().begin_import(&KeyRange::new("b", ""));
    let mut import = import.expect("begin_import");
    import.put(Data, b"x", b"new").expect("put");
    import.finish().expect("finish");
    if h.crash().expect("crash") {
        // "a" was not synced and may be gone; the imported range may not.
        let left = keys(h.store(), Data);
        assert!(["a x", "x"].contains(&left.as_str()), "{left}");
    }
}
