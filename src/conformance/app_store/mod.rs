//! The suite of [`ApplicationDataStorage`]. Uses: the seam. Never knows a backend.

mod exporting;
mod importing;
mod lasting;
mod paging;

use std::ops::ControlFlow;

use super::{Case, Failure, Harness, report};
use crate::Keyspace::{ApplyState, Data, Index, RegionState, Ttl};
use crate::keys::{FORMAT_KEY, STORE_IDENT_KEY};
use crate::{
    AppBatch, ApplicationDataStorage, DataRead, Durability, Error, KeyRange, Keyspace, RegionId,
};

/// What the cases run over.
pub type DataHarness = dyn Harness<dyn ApplicationDataStorage>;

/// Keys and values as text.
type Pairs = Vec<(String, String)>;

/// Every case, to be run one by one.
pub fn cases() -> Vec<Case<DataHarness>> {
    vec![
        Case::new(an_empty_store_has_nothing),
        Case::new(a_put_is_read_back),
        Case::new(a_put_overwrites),
        Case::new(a_delete_removes_one_key),
        Case::new(delete_range_removes_start_and_keeps_end),
        Case::new(delete_range_without_a_bound_goes_to_the_end),
        Case::new(an_empty_range_deletes_nothing),
        Case::new(the_operations_of_a_batch_keep_their_order),
        Case::new(keyspaces_are_apart),
        Case::new(keys_and_values_may_be_empty_or_large),
        Case::new(keys_are_in_the_order_of_their_bytes),
        Case::new(a_scan_is_half_open),
        Case::new(a_scan_stops_when_told),
        Case::new(the_error_of_a_visitor_comes_back),
        Case::new(a_visitor_may_read_and_write),
        Case::new(multi_get_answers_in_the_order_of_its_keys),
        Case::new(an_empty_batch_does_nothing),
        Case::new(stats_count_what_was_written),
        Case::new(a_view_does_not_change),
        Case::new(a_view_goes_to_another_thread),
        Case::new(views_of_different_moments_differ),
        Case::new(importing::an_import_replaces_exactly_its_range),
        Case::new(importing::an_import_of_everything_leaves_the_states),
        Case::new(importing::an_import_of_nothing_clears_the_range),
        Case::new(importing::an_import_shows_nothing_before_it_ends),
        Case::new(importing::a_dropped_import_changes_nothing),
        Case::new(importing::an_import_can_be_done_again),
        Case::new(importing::a_large_import_arrives_whole),
        Case::new(importing::an_import_refuses_keys_out_of_order),
        Case::new(importing::an_import_refuses_keys_outside_its_range),
        Case::new(importing::an_import_refuses_the_states),
        Case::new(importing::a_view_does_not_see_an_import),
        Case::new(paging::a_scan_back_is_the_scan_reversed),
        Case::new(paging::a_scan_back_stops_when_told),
        Case::new(paging::pages_follow_each_other),
        Case::new(paging::a_page_keeps_its_limits),
        Case::new(paging::a_page_that_is_the_last_has_no_cursor),
        Case::new(paging::a_prefix_has_its_own_keys_only),
        Case::new(paging::a_cursor_goes_on_behind_a_key_that_is_gone),
        Case::new(paging::a_cursor_outlives_the_store),
        Case::new(paging::a_cursor_of_another_scan_is_refused),
        Case::new(paging::a_damaged_cursor_is_refused),
        Case::new(paging::a_read_transaction_pages_through_one_moment),
        Case::new(paging::a_cursor_of_a_transaction_expires_with_it),
        Case::new(exporting::an_export_comes_back_whole),
        Case::new(exporting::an_export_is_of_its_range),
        Case::new(exporting::a_damaged_export_changes_nothing),
        Case::new(lasting::readers_never_see_half_a_batch),
        Case::new(lasting::writers_do_not_disturb_each_other),
        Case::new(lasting::reopening_keeps_everything),
        Case::new(lasting::reopening_does_not_bring_back_what_was_deleted),
        Case::new(lasting::a_power_cut_keeps_a_prefix_of_the_writes),
        Case::new(lasting::a_synced_write_covers_the_earlier_ones),
        Case::new(lasting::sync_covers_the_earlier_writes),
        Case::new(lasting::a_finished_import_survives_a_power_cut),
    ]
}

/// Runs every case over a store of its own and returns those that failed.
pub fn check<H: Harness<dyn ApplicationDataStorage> + 'static>(
    mut new: impl FnMut() -> H,
) -> Vec<Failure> {
    let run = |case: &Case<DataHarness>| case.run(&mut new()).err();
    cases().iter().filter_map(run).collect()
}

/// Runs every case over a store of its own.
///
/// # Panics
/// At the end, if a case failed; the message names all that did.
pub fn run<H: Harness<dyn ApplicationDataStorage> + 'static>(new: impl FnMut() -> H) {
    report("app_store", &check(new));
}

fn write(data: &dyn ApplicationDataStorage, fill: impl FnOnce(&mut AppBatch)) {
    write_as(data, Durability::Buffered, fill);
}

fn write_as(
    data: &dyn ApplicationDataStorage,
    durability: Durability,
    fill: impl FnOnce(&mut AppBatch),
) {
    let mut batch = AppBatch::default();
    fill(&mut batch);
    data.write(&batch, durability).expect("write");
}

/// Puts each of `keys`, with "v" and the key as its value.
fn put_all(data: &dyn ApplicationDataStorage, keyspace: Keyspace, keys: &str) {
    write(data, |batch| {
        for key in keys.split(' ') {
            batch.put(keyspace, key, format!("v{key}"));
        }
    });
}

fn value(data: &(impl DataRead + ?Sized), keyspace: Keyspace, key: &str) -> Option<String> {
    let value = data.get(keyspace, key.as_bytes()).expect("get");
    value.map(|v| String::from_utf8_lossy(&v).into_owned())
}

fn scan(data: &(impl DataRead + ?Sized), keyspace: Keyspace, range: &KeyRange) -> Pairs {
    let mut found = Pairs::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = data.scan(keyspace, range, &mut |key, value| {
        found.push((text(key), text(value)));
        Ok(ControlFlow::Continue(()))
    });
    all.expect("scan");
    found
}

/// The keys of `keyspace`, with a blank between them. Those that a store keeps for itself are not
/// the suite's business.
fn keys(data: &(impl DataRead + ?Sized), keyspace: Keyspace) -> String {
    let pairs = scan(data, keyspace, &KeyRange::all());
    let own =
        |key: &[u8]| keyspace == Keyspace::Store && [STORE_IDENT_KEY, FORMAT_KEY].contains(&key);
    let keys = pairs.into_iter().map(|(key, _)| key);
    let keys: Vec<String> = keys.filter(|key| !own(key.as_bytes())).collect();
    keys.join(" ")
}

fn an_empty_store_has_nothing(h: &mut DataHarness) {
    for keyspace in Keyspace::ALL {
        assert_eq!(keys(h.store(), keyspace), "");
        assert_eq!(value(h.store(), keyspace, "a"), None);
    }
    h.store().sync().expect("sync");
}

fn a_put_is_read_back(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b");
    assert_eq!(value(h.store(), Data, "a").as_deref(), Some("va"));
    assert_eq!(value(h.store(), Data, "b").as_deref(), Some("vb"));
    assert_eq!(value(h.store(), Data, "ab"), None);
    assert_eq!(value(h.store(), Data, ""), None);
}

fn a_put_overwrites(h: &mut DataHarness) {
    put_all(h.store(), Data, "a");
    write(h.store(), |batch| batch.put(Data, "a", "2"));
    assert_eq!(value(h.store(), Data, "a").as_deref(), Some("2"));
    assert_eq!(keys(h.store(), Data), "a");
}

fn a_delete_removes_one_key(h: &mut DataHarness) {
    put_all(h.store(), Data, "a aa b");
    write(h.store(), |batch| {
        batch.delete(Data, "a");
        batch.delete(Data, "not there");
    });
    assert_eq!(value(h.store(), Data, "a"), None);
    assert_eq!(keys(h.store(), Data), "aa b");
}

fn delete_range_removes_start_and_keeps_end(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b bb c d");
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::new("b", "d"));
    });
    assert_eq!(keys(h.store(), Data), "a d");
    assert_eq!(value(h.store(), Data, "bb"), None);
}

fn delete_range_without_a_bound_goes_to_the_end(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    write(h.store(), |batch| {
        batch.put(Data, [0xff; 300], "last");
        batch.put(Index, "c", "1");
    });
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::new("b", ""));
    });
    assert_eq!(keys(h.store(), Data), "a");
    assert_eq!(keys(h.store(), Index), "c");
    write(h.store(), |batch| batch.put(Data, "", "first"));
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::all())
    });
    assert_eq!(keys(h.store(), Data), "");
    assert_eq!(value(h.store(), Data, ""), None);
}

fn an_empty_range_deletes_nothing(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::new("b", "b"));
        batch.delete_range(Data, &KeyRange::new("c", "a"));
    });
    assert_eq!(keys(h.store(), Data), "a b c");
}

fn the_operations_of_a_batch_keep_their_order(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b");
    write(h.store(), |batch| {
        batch.put(Data, "c", "1");
        batch.delete_range(Data, &KeyRange::new("a", "d"));
        batch.put(Data, "b", "2");
        batch.put(Data, "b", "3");
        batch.put(Data, "d", "4");
        batch.delete(Data, "d");
        batch.delete(Data, "e");
        batch.put(Data, "e", "5");
    });
    let want = [("b", "3"), ("e", "5")].map(|(k, v)| (k.to_string(), v.to_string()));
    assert_eq!(scan(h.store(), Data, &KeyRange::all()), want);
}

fn keyspaces_are_apart(h: &mut DataHarness) {
    write(h.store(), |batch| {
        for keyspace in Keyspace::ALL {
            batch.put(keyspace, "key", keyspace.name());
            batch.put(keyspace, keyspace.name(), "own");
        }
    });
    write(h.store(), |batch| {
        batch.delete(Index, "key");
        batch.delete_range(ApplyState, &KeyRange::all());
    });
    for keyspace in Keyspace::ALL {
        let (name, found) = (keyspace.name(), value(h.store(), keyspace, "key"));
        let want = (!matches!(keyspace, Index | ApplyState)).then_some(name);
        assert_eq!(found.as_deref(), want, "{name}");
        let own = value(h.store(), keyspace, name).is_some();
        assert_eq!(own, keyspace != ApplyState, "{name}");
        for other in Keyspace::ALL.into_iter().filter(|k| *k != keyspace) {
            assert_eq!(value(h.store(), keyspace, other.name()), None);
        }
    }
}

fn keys_and_values_may_be_empty_or_large(h: &mut DataHarness) {
    let large = vec![0x5a; 4 * 1024 * 1024];
    write(h.store(), |batch| {
        batch.put(Data, "", "the empty key");
        batch.put(Data, "empty", "");
        batch.put(Data, "large", &large);
        batch.put(Data, vec![b'k'; 60_000], "long key");
    });
    assert_eq!(value(h.store(), Data, "").as_deref(), Some("the empty key"));
    assert_eq!(value(h.store(), Data, "empty").as_deref(), Some(""));
    let found = h.store().get(Data, b"large").expect("get");
    assert!(found == Some(large), "4 MiB come back as they were");
    let first = scan(h.store(), Data, &KeyRange::new("", "f"));
    assert_eq!(first.len(), 2);
    assert_eq!(scan(h.store(), Data, &KeyRange::all()).len(), 4);
}

fn keys_are_in_the_order_of_their_bytes(h: &mut DataHarness) {
    let want: [&[u8]; 8] = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\x01",
        b"a",
        b"a\0",
        b"\x7f",
        b"\xff\xff",
    ];
    write(h.store(), |batch| {
        for key in want.iter().rev() {
            batch.put(Data, key, "");
        }
    });
    let mut found = Vec::new();
    let visit = &mut |key: &[u8], _: &[u8]| {
        found.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    };
    (h.store().scan(Data, &KeyRange::all(), visit)).expect("scan");
    assert_eq!(found, want);
}

fn a_scan_is_half_open(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d");
    put_all(h.store(), Index, "bb");
    let found = |start: &str, end: &str| {
        let pairs = scan(h.store(), Data, &KeyRange::new(start, end));
        for (key, value) in &pairs {
            assert_eq!(*value, format!("v{key}"));
        }
        pairs.into_iter().map(|(key, _)| key).collect::<String>()
    };
    assert_eq!(found("b", "d"), "bc");
    assert_eq!(found("aa", "cc"), "bc");
    assert_eq!(found("b", ""), "bcd", "an empty end is no bound");
    assert_eq!(found("", "b"), "a");
    assert_eq!(found("b", "b"), "");
    assert_eq!(found("c", "a"), "");
    assert_eq!(found("x", ""), "");
}

fn a_scan_stops_when_told(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d");
    let mut seen = 0;
    let visit = &mut |_: &[u8], _: &[u8]| {
        seen += 1;
        Ok(match seen {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    (h.store().scan(Data, &KeyRange::all(), visit)).expect("scan");
    assert_eq!(seen, 2);
}

fn the_error_of_a_visitor_comes_back(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let mut seen = 0;
    let visit = &mut |_: &[u8], _: &[u8]| {
        seen += 1;
        Err(Error::corruption(Some(RegionId(42)), "the visitor's", ""))
    };
    let got = h.store().scan(Data, &KeyRange::all(), visit);
    let same = matches!(&got, Err(Error::Corruption { region: Some(RegionId(42)), what, .. })
        if what == "the visitor's");
    assert!(same, "{got:?}");
    assert_eq!(seen, 1, "it is not called again");
}

fn a_visitor_may_read_and_write(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let data = h.store();
    let mut seen = String::new();
    let visit = &mut |key: &[u8], _: &[u8]| {
        seen.push_str(&String::from_utf8_lossy(key));
        write(data, |batch| {
            batch.put(Data, "z", "added");
            batch.delete(Data, "c");
        });
        assert_eq!(value(data, Data, "c"), None);
        Ok(ControlFlow::Continue(()))
    };
    (data.scan(Data, &KeyRange::all(), visit)).expect("scan");
    assert_eq!(seen, "abc", "a scan is of one moment");
    assert_eq!(keys(data, Data), "a b z");
}

fn multi_get_answers_in_the_order_of_its_keys(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    put_all(h.store(), Index, "x");
    let keys: [&[u8]; 6] = [b"c", b"x", b"a", b"", b"c", b"b"];
    let found = h.store().multi_get(Data, &keys).expect("multi_get");
    let want = [Some("vc"), None, Some("va"), None, Some("vc"), Some("vb")];
    assert_eq!(found, want.map(|v| v.map(|v| v.as_bytes().to_vec())));
    assert_eq!(h.store().multi_get(Data, &[]).expect("multi_get").len(), 0);
}

fn an_empty_batch_does_nothing(h: &mut DataHarness) {
    put_all(h.store(), Data, "a");
    let before = h.store().stats();
    write(h.store(), |_| {});
    assert_eq!(h.store().stats().bytes, before.bytes);
    assert_eq!(keys(h.store(), Data), "a");
}

fn stats_count_what_was_written(h: &mut DataHarness) {
    let before = h.store().stats();
    write(h.store(), |batch| batch.put(Data, "a", vec![0; 5000]));
    write_as(h.store(), Durability::Synced, |batch| {
        batch.put(Data, "b", "");
    });
    let after = h.store().stats();
    assert_eq!(after.writes - before.writes, 2);
    assert!(after.bytes - before.bytes >= 5000, "{after:?}");
    assert!(after.syncs > before.syncs, "a synced write syncs");
}

fn a_view_does_not_change(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    put_all(h.store(), Ttl, "t");
    put_all(h.store(), RegionState, "r");
    let view = h.store().view().expect("view");
    write(h.store(), |batch| {
        batch.put(Data, "a", "new");
        batch.delete(Data, "b");
        batch.put(Data, "d", "new");
        batch.delete_range(Ttl, &KeyRange::all());
    });
    write(h.store(), |batch| {
        batch.put(RegionState, "r", "new");
        batch.delete_range(Data, &KeyRange::new("c", "d"));
    });
    let view = view.as_ref();
    assert_eq!(keys(view, Data), "a b c");
    assert_eq!(value(view, Data, "a").as_deref(), Some("va"));
    assert_eq!(value(view, Data, "b").as_deref(), Some("vb"));
    assert_eq!(value(view, RegionState, "r").as_deref(), Some("vr"));
    assert_eq!(keys(view, Ttl), "t");
    let found = view.multi_get(Data, &[b"a", b"d"]).expect("multi_get");
    assert_eq!(found, [Some(b"va".to_vec()), None]);
    assert_eq!(keys(h.store(), Data), "a d");
    assert_eq!(keys(h.store(), Ttl), "");
}

fn a_view_goes_to_another_thread(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let view = h.store().view().expect("view");
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::all())
    });
    let reader = std::thread::spawn(move || keys(view.as_ref(), Data));
    assert_eq!(reader.join().expect("reader"), "a b c");
}

fn views_of_different_moments_differ(h: &mut DataHarness) {
    let mut views = vec![h.store().view().expect("view")];
    for key in ["a", "b", "c"] {
        put_all(h.store(), Data, key);
        views.push(h.store().view().expect("view"));
    }
    let seen: Vec<String> = views.iter().map(|v| keys(v.as_ref(), Data)).collect();
    assert_eq!(seen, ["", "a", "a b", "a b c"]);
    views.remove(1);
    write(h.store(), |batch| {
        batch.delete_range(Data, &KeyRange::all())
    });
    let seen: Vec<String> = views.iter().map(|v| keys(v.as_ref(), Data)).collect();
    assert_eq!(seen, ["", "a b", "a b c"]);
}
