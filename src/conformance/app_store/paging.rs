//! Cases of scans backwards and page by page. Uses: the seam.

use std::ops::ControlFlow;

use super::{DataHarness, Pairs, put_all, scan, write};
use crate::Keyspace::{Data, Index};
use crate::{
    ApplicationDataStorage, Cursor, Error, KeyRange, Keyspace, Page, ReadTransaction, Scan,
};

fn scan_back(data: &dyn ApplicationDataStorage, keyspace: Keyspace, range: &KeyRange) -> Pairs {
    let mut found = Pairs::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = data.scan_back(keyspace, range, &mut |key, value| {
        found.push((text(key), text(value)));
        Ok(ControlFlow::Continue(()))
    });
    all.expect("scan_back");
    found
}

fn names(page: &Page) -> String {
    let keys: Vec<_> = page.keys().map(String::from_utf8_lossy).collect();
    keys.join(" ")
}

fn page(data: &dyn ApplicationDataStorage, scan: &Scan) -> Page {
    data.page(Data, scan).expect("page")
}

/// The keys of every page, a page a string.
fn pages(mut next: impl FnMut(&Scan) -> Page, mut scan: Scan) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let page = next(&scan);
        found.push(names(&page));
        match page.cursor {
            Some(cursor) => scan = scan.after(cursor),
            None => return found,
        }
    }
}

pub(super) fn a_scan_back_is_the_scan_reversed(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b bb c d");
    put_all(h.store(), Index, "bbb x");
    write(h.store(), |batch| {
        batch.put(Data, "", "first");
        batch.put(Data, [0xff; 20], "last");
        batch.delete(Data, "c");
    });
    let ranges = [
        ("", ""),
        ("b", "d"),
        ("b", ""),
        ("", "bb"),
        ("ba", "bc"),
        ("c", "d"),
        ("d", "b"),
        ("b", "b"),
        ("e", ""),
        ("bb", "bb\0"),
    ];
    for (start, end) in ranges {
        let range = KeyRange::new(start, end);
        let mut expected = scan(h.store(), Data, &range);
        expected.reverse();
        assert_eq!(scan_back(h.store(), Data, &range), expected, "{range}");
        let view = h.store().view().expect("view");
        let mut seen = 0;
        let counted = view.scan_back(Data, &range, &mut |_, _| {
            seen += 1;
            Ok(ControlFlow::Continue(()))
        });
        counted.expect("scan_back");
        assert_eq!(seen, expected.len(), "{range}, in a view");
    }
    assert_eq!(scan_back(h.store(), Data, &KeyRange::all()).len(), 6);
}

pub(super) fn a_scan_back_stops_when_told(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d");
    let mut seen = Vec::new();
    let all = KeyRange::all();
    let stopped = h.store().scan_back(Data, &all, &mut |key, _| {
        seen.extend_from_slice(key);
        match key {
            b"b" => Ok(ControlFlow::Break(())),
            _ => Ok(ControlFlow::Continue(())),
        }
    });
    stopped.expect("scan_back");
    assert_eq!(seen, b"dcb");
}

pub(super) fn pages_follow_each_other(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d e f g");
    write(h.store(), |batch| batch.put(Data, "", "the empty key"));
    let scan = || Scan::of(KeyRange::new("", "g"));
    let all = |scan| pages(|scan| page(h.store(), scan), scan);
    assert_eq!(all(scan().limit(3)), [" a b", "c d e", "f"]);
    assert_eq!(all(scan().limit(3).reverse()), ["f e d", "c b a", ""]);
    assert_eq!(all(scan().limit(1).reverse()).len(), 7);
    assert_eq!(all(scan().limit(0)).len(), 7, "a page has at least a key");
    assert_eq!(all(scan()), [" a b c d e f"]);
}

pub(super) fn a_page_keeps_its_limits(h: &mut DataHarness) {
    write(h.store(), |batch| {
        for key in ["a", "b", "c", "d"] {
            batch.put(Data, key, [7; 99]);
        }
        batch.put(Data, "e", [7; 5_000]);
    });
    let scan = || Scan::of(KeyRange::all());
    let all = |scan| pages(|scan| page(h.store(), scan), scan);
    assert_eq!(all(scan().bytes_max(200)), ["a b", "c d", "e"]);
    assert_eq!(all(scan().bytes_max(0)).len(), 5);
    assert_eq!(all(scan().bytes_max(300).limit(2)), ["a b", "c d", "e"]);
    let first = page(h.store(), &scan().limit(1));
    assert_eq!(first.pairs, [(b"a".to_vec(), vec![7; 99])]);
}

pub(super) fn a_page_that_is_the_last_has_no_cursor(h: &mut DataHarness) {
    assert_eq!(page(h.store(), &Scan::of(KeyRange::all())), Page::default());
    put_all(h.store(), Data, "a b c");
    let two = Scan::of(KeyRange::new("a", "c")).limit(2);
    assert_eq!(page(h.store(), &two).cursor, None);
    assert_eq!(page(h.store(), &two.reverse()).cursor, None);
}

pub(super) fn a_prefix_has_its_own_keys_only(h: &mut DataHarness) {
    write(h.store(), |batch| {
        for key in [
            &b"a"[..],
            b"a\xff",
            b"a\xff\x00",
            b"a\xff\xff\xff",
            b"b",
            b"\xff",
            b"\xff\xff1",
        ] {
            batch.put(Data, key, "");
        }
    });
    let count = |prefix: &[u8]| {
        page(h.store(), &Scan::of(KeyRange::prefix(prefix)))
            .pairs
            .len()
    };
    assert_eq!(count(b""), 7);
    assert_eq!(count(b"a"), 4);
    assert_eq!(count(b"a\xff"), 3);
    assert_eq!(count(b"\xff"), 2);
    assert_eq!(count(b"\xff\xff"), 1);
    assert_eq!(count(b"c"), 0);
}

pub(super) fn a_cursor_goes_on_behind_a_key_that_is_gone(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d e");
    let scan = || Scan::of(KeyRange::all()).limit(2);
    let ahead = page(h.store(), &scan()).cursor.expect("more");
    let back = page(h.store(), &scan().reverse()).cursor.expect("more");
    write(h.store(), |batch| {
        batch.delete(Data, "b");
        batch.delete(Data, "d");
        batch.put(Data, "bb", "new");
    });
    assert_eq!(names(&page(h.store(), &scan().after(ahead))), "bb c");
    assert_eq!(
        names(&page(h.store(), &scan().reverse().after(back))),
        "c bb"
    );
}

pub(super) fn a_cursor_outlives_the_store(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let scan = || Scan::of(KeyRange::all()).limit(1);
    let cursor = page(h.store(), &scan()).cursor.expect("more");
    let bytes = cursor.as_bytes().to_vec();
    if h.reopen().expect("reopen") {
        let next = scan().after(Cursor::from_bytes(bytes));
        assert_eq!(names(&page(h.store(), &next)), "b");
    }
}

pub(super) fn a_cursor_of_another_scan_is_refused(h: &mut DataHarness) {
    for keyspace in [Data, Index] {
        put_all(h.store(), keyspace, "a b c d");
    }
    let range = || KeyRange::new("a", "d");
    let cursor = || {
        let cursor = page(h.store(), &Scan::of(range()).limit(1)).cursor;
        cursor.expect("more")
    };
    let refused = |keyspace, scan: Scan, what| {
        let got = h.store().page(keyspace, &scan.after(cursor()));
        let right = matches!(got, Err(Error::CursorInvalid { .. }));
        assert!(right, "{what}: {got:?}");
    };
    refused(Index, Scan::of(range()), "another keyspace");
    refused(Data, Scan::of(range()).reverse(), "another order");
    refused(Data, Scan::of(KeyRange::new("a", "e")), "another end");
    refused(Data, Scan::of(KeyRange::new("", "d")), "another start");
    let other_limits = Scan::of(range()).limit(9).after(cursor());
    assert_eq!(names(&page(h.store(), &other_limits)), "b c");
}

pub(super) fn a_damaged_cursor_is_refused(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d");
    let scan = || Scan::of(KeyRange::all()).limit(1);
    let good = page(h.store(), &scan()).cursor.expect("more");
    let refused = |bytes: &[u8]| {
        let got = h
            .store()
            .page(Data, &scan().after(Cursor::from_bytes(bytes)));
        let right = matches!(got, Err(Error::CursorInvalid { .. }));
        assert!(right, "{bytes:02x?}: {got:?}");
    };
    for length in 0..good.as_bytes().len() {
        refused(&good.as_bytes()[..length]);
    }
    for place in 0..good.as_bytes().len() {
        let mut bytes = good.as_bytes().to_vec();
        bytes[place] ^= 0x10;
        refused(&bytes);
    }
    refused(&[good.as_bytes(), &[0]].concat());
}

fn read(data: &dyn ApplicationDataStorage) -> ReadTransaction {
    ReadTransaction::new(data.view().expect("view"))
}

pub(super) fn a_read_transaction_pages_through_one_moment(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c d e");
    let transaction = read(h.store());
    let scan = || Scan::of(KeyRange::all()).limit(2);
    let found = pages(
        |scan| {
            let page = transaction.scan(scan).expect("scan");
            // What is written between two pages is not of its moment.
            write(h.store(), |batch| {
                batch.put(Data, "cc", "new");
                batch.delete_range(Data, &KeyRange::new("d", ""));
            });
            page
        },
        scan(),
    );
    assert_eq!(found, ["a b", "c d", "e"]);
    assert!(transaction.exists(b"e").expect("exists"));
    assert!(!transaction.exists(b"cc").expect("exists"));
    assert_eq!(
        transaction.get(b"e").expect("get").as_deref(),
        Some(&b"ve"[..])
    );
    let several = transaction.multi_get(&[b"d", b"cc", b"a"]);
    let present: Vec<bool> = several
        .expect("multi_get")
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(present, [true, false, true]);
    let found = pages(|scan| page(h.store(), scan), scan());
    assert_eq!(found, ["a b", "c cc"]);
}

pub(super) fn a_cursor_of_a_transaction_expires_with_it(h: &mut DataHarness) {
    put_all(h.store(), Data, "a b c");
    let scan = || Scan::of(KeyRange::all()).limit(1);
    let (first, second) = (read(h.store()), read(h.store()));
    let page = first.scan(&scan()).expect("scan");
    let cursor = || page.cursor.clone().expect("more");
    let expired = |got: crate::Result<Page>| {
        assert!(matches!(got, Err(Error::CursorExpired)), "{got:?}");
    };
    expired(second.scan(&scan().after(cursor())));
    expired(h.store().page(Data, &scan().after(cursor())));
    let next = first.scan(&scan().after(cursor())).expect("scan");
    assert_eq!(names(&next), "b");
    let live = h.store().page(Data, &scan()).expect("page").cursor;
    expired(first.scan(&scan().after(live.expect("more"))));
}
