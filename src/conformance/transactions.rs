//! The suite of [`TransactionalStorage`]. Uses: the seam. Never knows a backend.

mod model;

use super::{Case, Failure, Harness, report};
use crate::{Durability, Error, KeyRange, Result, Scan, TransactionalStorage, WriteTransaction};

/// What the cases run over.
pub type TransactionHarness = dyn Harness<dyn TransactionalStorage>;

/// Every case, to be run one by one.
pub fn cases() -> Vec<Case<TransactionHarness>> {
    vec![
        Case::new(a_commit_is_seen_by_those_who_begin_later),
        Case::new(a_transaction_reads_its_own_writes),
        Case::new(a_scan_has_the_own_writes_in_their_places),
        Case::new(what_others_commit_is_not_seen),
        Case::new(what_is_not_committed_never_was),
        Case::new(the_second_of_two_writers_is_refused),
        Case::new(a_refused_transaction_leaves_nothing),
        Case::new(writers_of_different_keys_do_not_conflict),
        Case::new(a_read_for_update_conflicts_with_a_write),
        Case::new(a_plain_read_conflicts_with_nothing),
        Case::new(a_key_that_came_and_went_conflicts),
        Case::new(a_delete_conflicts_with_a_write),
        Case::new(a_swap_needs_the_expected_value),
        Case::new(two_swaps_of_one_value_are_one),
        Case::new(an_increment_refuses_what_is_no_number),
        Case::new(a_read_transaction_stays_at_its_moment),
        Case::new(cursors_are_of_their_transaction),
        Case::new(no_increment_is_lost_between_threads),
        Case::new(sums_stay_whole_between_threads),
        Case::new(a_commit_outlives_the_store),
        Case::new(model::random_transactions_are_as_in_the_model),
    ]
}

/// Runs every case over a store of its own and returns those that failed.
pub fn check<H: Harness<dyn TransactionalStorage> + 'static>(
    mut new: impl FnMut() -> H,
) -> Vec<Failure> {
    let run = |case: &Case<TransactionHarness>| case.run(&mut new()).err();
    cases().iter().filter_map(run).collect()
}

/// Runs every case over a store of its own.
///
/// # Panics
/// At the end, if a case failed; the message names all that did.
pub fn run<H: Harness<dyn TransactionalStorage> + 'static>(new: impl FnMut() -> H) {
    report("transactions", &check(new));
}

fn begin(data: &dyn TransactionalStorage) -> WriteTransaction<'_> {
    let begun = data.begin_write_transaction(Durability::Buffered);
    begun.expect("begin_write_transaction")
}

fn put(transaction: &mut WriteTransaction<'_>, key: &str, value: &str) {
    let put = transaction.put(key.as_bytes(), value.as_bytes());
    put.expect("put");
}

fn get(transaction: &WriteTransaction<'_>, key: &str) -> Option<String> {
    let value = transaction.get(key.as_bytes()).expect("get");
    value.map(|v| String::from_utf8_lossy(&v).into_owned())
}

/// Puts each of `keys`, with "v" and the key as its value.
fn put_all(data: &dyn TransactionalStorage, keys: &str) {
    let mut transaction = begin(data);
    for key in keys.split(' ') {
        put(&mut transaction, key, &format!("v{key}"));
    }
    transaction.commit().expect("commit");
}

/// What is committed under `key`.
fn committed(data: &dyn TransactionalStorage, key: &str) -> Option<String> {
    let read = data
        .begin_read_transaction()
        .expect("begin_read_transaction");
    let value = read.get(key.as_bytes()).expect("get");
    value.map(|v| String::from_utf8_lossy(&v).into_owned())
}

fn conflict(got: Result<()>) {
    assert!(matches!(got, Err(Error::TransactionConflict)), "{got:?}");
}

fn scan(transaction: &WriteTransaction<'_>, scan: &Scan) -> String {
    let page = transaction.scan(scan).expect("scan");
    let pairs = page.pairs.iter().map(|(key, value)| {
        let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
        format!("{key}={value}")
    });
    pairs.collect::<Vec<_>>().join(" ")
}

fn a_commit_is_seen_by_those_who_begin_later(h: &mut TransactionHarness) {
    put_all(h.store(), "a b");
    assert_eq!(committed(h.store(), "a").as_deref(), Some("va"));
    let transaction = begin(h.store());
    assert_eq!(get(&transaction, "b").as_deref(), Some("vb"));
    assert_eq!(get(&transaction, "c"), None);
    assert!(transaction.exists(b"a").expect("exists"));
    assert!(!transaction.exists(b"c").expect("exists"));
    transaction.commit().expect("a commit of nothing");
}

fn a_transaction_reads_its_own_writes(h: &mut TransactionHarness) {
    put_all(h.store(), "a b c");
    let mut transaction = begin(h.store());
    put(&mut transaction, "a", "1");
    put(&mut transaction, "d", "2");
    transaction.delete(b"b").expect("delete");
    transaction.delete(b"not there").expect("delete");
    let values = transaction.multi_get(&[b"d", b"b", b"a", b"c", b"e"]);
    let expected = [Some("2"), None, Some("1"), Some("vc"), None];
    let expected = expected.map(|v| v.map(|v| v.as_bytes().to_vec()));
    assert_eq!(values.expect("multi_get"), expected);
    put(&mut transaction, "b", "");
    assert_eq!(get(&transaction, "b").as_deref(), Some(""));
    let update = transaction.read_for_update(b"d").expect("read_for_update");
    assert_eq!(update.as_deref(), Some(&b"2"[..]));
}

fn a_scan_has_the_own_writes_in_their_places(h: &mut TransactionHarness) {
    put_all(h.store(), "b d f h");
    let mut transaction = begin(h.store());
    for key in ["a", "c", "g", "z"] {
        put(&mut transaction, key, "");
    }
    put(&mut transaction, "d", "2");
    transaction.delete(b"f").expect("delete");
    let all = || Scan::of(KeyRange::all());
    let expected = "a= b=vb c= d=2 g= h=vh z=";
    assert_eq!(scan(&transaction, &all()), expected);
    let mut reversed: Vec<_> = expected.split(' ').collect();
    reversed.reverse();
    assert_eq!(scan(&transaction, &all().reverse()), reversed.join(" "));
    let some = |start, end| Scan::of(KeyRange::new(start, end));
    assert_eq!(scan(&transaction, &some("b", "g")), "b=vb c= d=2");
    assert_eq!(scan(&transaction, &some("b", "g").reverse()), "d=2 c= b=vb");
    assert_eq!(scan(&transaction, &some("c", "d").reverse()), "c=");
    assert_eq!(scan(&transaction, &some("e", "g")), "");
    assert_eq!(scan(&transaction, &some("e", "g").reverse()), "");
    assert_eq!(scan(&transaction, &some("i", "x").reverse()), "");
    assert_eq!(scan(&transaction, &some("d", "b").reverse()), "");
    assert_eq!(scan(&transaction, &some("g", "").limit(2)), "g= h=vh");
}

fn what_others_commit_is_not_seen(h: &mut TransactionHarness) {
    put_all(h.store(), "a b");
    let mut transaction = begin(h.store());
    put(&mut transaction, "mine", "");
    put_all(h.store(), "c");
    let mut other = begin(h.store());
    put(&mut other, "a", "2");
    other.delete(b"b").expect("delete");
    other.commit().expect("commit");
    assert_eq!(get(&transaction, "a").as_deref(), Some("va"));
    assert_eq!(get(&transaction, "c"), None);
    let all = scan(&transaction, &Scan::of(KeyRange::all()));
    assert_eq!(all, "a=va b=vb mine=");
    let several = transaction.multi_get(&[b"b", b"c"]).expect("multi_get");
    assert_eq!(several, [Some(b"vb".to_vec()), None]);
}

fn what_is_not_committed_never_was(h: &mut TransactionHarness) {
    put_all(h.store(), "a");
    let mut dropped = begin(h.store());
    put(&mut dropped, "a", "2");
    put(&mut dropped, "b", "2");
    assert_eq!(committed(h.store(), "b"), None, "not before the commit");
    drop(dropped);
    let mut rolled_back = begin(h.store());
    rolled_back.delete(b"a").expect("delete");
    rolled_back.rollback();
    assert_eq!(committed(h.store(), "a").as_deref(), Some("va"));
    assert_eq!(committed(h.store(), "b"), None);
    put_all(h.store(), "a b");
}

fn the_second_of_two_writers_is_refused(h: &mut TransactionHarness) {
    put_all(h.store(), "a");
    let (mut first, mut second) = (begin(h.store()), begin(h.store()));
    put(&mut second, "a", "second");
    put(&mut first, "a", "first");
    first.commit().expect("the first to commit");
    conflict(second.commit());
    assert_eq!(committed(h.store(), "a").as_deref(), Some("first"));
    let mut again = begin(h.store());
    put(&mut again, "a", "again");
    again.commit().expect("one that began later");
    // The key is written only after the other's commit, but the moment is from before.
    let mut late = begin(h.store());
    put_all(h.store(), "a");
    put(&mut late, "a", "late");
    conflict(late.commit());
}

fn a_refused_transaction_leaves_nothing(h: &mut TransactionHarness) {
    let mut refused = begin(h.store());
    for key in ["a", "b", "c"] {
        put(&mut refused, key, "refused");
    }
    put_all(h.store(), "b");
    conflict(refused.commit());
    assert_eq!(committed(h.store(), "a"), None);
    assert_eq!(committed(h.store(), "b").as_deref(), Some("vb"));
    assert_eq!(committed(h.store(), "c"), None);
    put_all(h.store(), "a c");
}

fn writers_of_different_keys_do_not_conflict(h: &mut TransactionHarness) {
    let (mut first, mut second) = (begin(h.store()), begin(h.store()));
    put(&mut first, "a", "1");
    put(&mut second, "b", "2");
    first.commit().expect("commit");
    second.commit().expect("commit");
    assert_eq!(committed(h.store(), "a").as_deref(), Some("1"));
    assert_eq!(committed(h.store(), "b").as_deref(), Some("2"));
}

fn a_read_for_update_conflicts_with_a_write(h: &mut TransactionHarness) {
    put_all(h.store(), "limit");
    let mut transaction = begin(h.store());
    transaction
        .read_for_update(b"limit")
        .expect("read_for_update");
    transaction
        .read_for_update(b"absent")
        .expect("read_for_update");
    put(&mut transaction, "order", "1");
    put_all(h.store(), "limit");
    conflict(transaction.commit());
    let mut transaction = begin(h.store());
    transaction
        .read_for_update(b"absent")
        .expect("read_for_update");
    put(&mut transaction, "order", "1");
    put_all(h.store(), "absent");
    conflict(transaction.commit());
    assert_eq!(committed(h.store(), "order"), None);
}

fn a_plain_read_conflicts_with_nothing(h: &mut TransactionHarness) {
    put_all(h.store(), "a");
    let mut transaction = begin(h.store());
    assert_eq!(get(&transaction, "a").as_deref(), Some("va"));
    transaction.scan(&Scan::of(KeyRange::all())).expect("scan");
    put(&mut transaction, "b", "");
    put_all(h.store(), "a c");
    transaction.commit().expect("commit");
}

fn a_key_that_came_and_went_conflicts(h: &mut TransactionHarness) {
    let mut transaction = begin(h.store());
    put(&mut transaction, "a", "mine");
    put_all(h.store(), "a");
    let mut other = begin(h.store());
    other.delete(b"a").expect("delete");
    other.commit().expect("commit");
    conflict(transaction.commit());
    assert_eq!(committed(h.store(), "a"), None);
}

fn a_delete_conflicts_with_a_write(h: &mut TransactionHarness) {
    put_all(h.store(), "a");
    let mut transaction = begin(h.store());
    transaction.delete(b"a").expect("delete");
    put_all(h.store(), "a");
    conflict(transaction.commit());
    assert_eq!(committed(h.store(), "a").as_deref(), Some("va"));
}

fn a_swap_needs_the_expected_value(h: &mut TransactionHarness) {
    put_all(h.store(), "a");
    let mut transaction = begin(h.store());
    let mut swap = |expected: Option<&[u8]>, new: Option<&[u8]>| {
        let swapped = transaction.compare_and_swap(b"a", expected, new);
        swapped.expect("compare_and_swap")
    };
    assert!(!swap(None, Some(b"1")));
    assert!(!swap(Some(b""), Some(b"1")));
    assert!(swap(Some(b"va"), Some(b"1")));
    assert!(!swap(Some(b"va"), None));
    assert!(swap(Some(b"1"), None));
    assert!(!swap(Some(b"1"), Some(b"2")));
    assert!(swap(None, None));
    assert!(swap(None, Some(b"3")));
    transaction.commit().expect("commit");
    assert_eq!(committed(h.store(), "a").as_deref(), Some("3"));
}

fn two_swaps_of_one_value_are_one(h: &mut TransactionHarness) {
    let (mut first, mut second) = (begin(h.store()), begin(h.store()));
    for transaction in [&mut first, &mut second] {
        let swapped = transaction.compare_and_swap(b"lock", None, Some(b"owner"));
        assert!(swapped.expect("compare_and_swap"));
    }
    first.commit().expect("commit");
    conflict(second.commit());
    // One that found something else depends on what it found.
    let mut third = begin(h.store());
    let swapped = third.compare_and_swap(b"lock", None, Some(b"thief"));
    assert!(!swapped.expect("compare_and_swap"));
    put(&mut third, "log", "it was locked");
    let mut owner = begin(h.store());
    owner.delete(b"lock").expect("delete");
    owner.commit().expect("commit");
    conflict(third.commit());
}

fn an_increment_refuses_what_is_no_number(h: &mut TransactionHarness) {
    put_all(h.store(), "word");
    let mut transaction = begin(h.store());
    put(&mut transaction, "many", &i64::MAX.to_string());
    put(&mut transaction, "padded", "01");
    let mut add = |key: &str, by| transaction.increment(key.as_bytes(), by);
    assert_eq!(add("new", -2).expect("increment"), -2);
    assert_eq!(add("new", 5).expect("increment"), 3);
    for key in ["word", "padded"] {
        let got = add(key, 1);
        assert!(
            matches!(got, Err(Error::NotANumber { .. })),
            "{key}: {got:?}"
        );
    }
    let got = add("many", 1);
    assert!(matches!(got, Err(Error::NumberOverflow { .. })), "{got:?}");
    transaction.commit().expect("commit");
    assert_eq!(committed(h.store(), "new").as_deref(), Some("3"));
    assert_eq!(committed(h.store(), "word").as_deref(), Some("vword"));
    assert_eq!(committed(h.store(), "many"), Some(i64::MAX.to_string()));
}

fn a_read_transaction_stays_at_its_moment(h: &mut TransactionHarness) {
    put_all(h.store(), "a b");
    let read = h.store().begin_read_transaction().expect("begin");
    put_all(h.store(), "c");
    let mut other = begin(h.store());
    other.delete(b"a").expect("delete");
    other.commit().expect("commit");
    assert!(read.exists(b"a").expect("exists"));
    assert!(!read.exists(b"c").expect("exists"));
    let page = |scan: Scan| {
        let page = read.scan(&scan).expect("scan");
        let keys: Vec<_> = page.keys().map(<[u8]>::to_vec).collect();
        keys.concat()
    };
    assert_eq!(page(Scan::of(KeyRange::all())), b"ab");
    assert_eq!(page(Scan::of(KeyRange::all()).reverse()), b"ba");
    let several = read.multi_get(&[b"c", b"b"]).expect("multi_get");
    assert_eq!(several, [None, Some(b"vb".to_vec())]);
}

fn cursors_are_of_their_transaction(h: &mut TransactionHarness) {
    put_all(h.store(), "a c");
    let mut transaction = begin(h.store());
    put(&mut transaction, "b", "");
    let scan = || Scan::of(KeyRange::all()).limit(1);
    let page = transaction.scan(&scan()).expect("scan");
    let cursor = page.cursor.expect("more");
    let other = begin(h.store()).scan(&scan().after(cursor.clone()));
    assert!(matches!(other, Err(Error::CursorExpired)), "{other:?}");
    let next = transaction.scan(&scan().after(cursor)).expect("scan");
    assert_eq!(next.pairs, [(b"b".to_vec(), Vec::new())]);
}

/// Does it again until nobody is in the way.
fn until_done(
    data: &dyn TransactionalStorage,
    mut change: impl FnMut(&mut WriteTransaction<'_>) -> Result<()>,
) {
    loop {
        let mut transaction = begin(data);
        change(&mut transaction).expect("change");
        match transaction.commit() {
            Err(Error::TransactionConflict) => {}
            committed => return committed.expect("commit"),
        }
    }
}

fn no_increment_is_lost_between_threads(h: &mut TransactionHarness) {
    let data = h.store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    until_done(data, |t| t.increment(b"count", 1).map(drop));
                }
            });
        }
    });
    assert_eq!(committed(data, "count").as_deref(), Some("200"));
}

fn sums_stay_whole_between_threads(h: &mut TransactionHarness) {
    let data = h.store();
    until_done(data, |t| {
        t.put(b"0", b"100")?;
        t.put(b"1", b"100")?;
        t.put(b"2", b"100")
    });
    let sum = || {
        let read = data.begin_read_transaction().expect("begin");
        let values = read.multi_get(&[b"0", b"1", b"2"]).expect("multi_get");
        let number = |value: Option<Vec<u8>>| -> i64 {
            let text = String::from_utf8(value.expect("an account")).expect("text");
            text.parse().expect("a number")
        };
        values.into_iter().map(number).sum::<i64>()
    };
    std::thread::scope(|scope| {
        for from in 0..3_u8 {
            scope.spawn(move || {
                let (from, to) = ([b'0' + from], [b'0' + (from + 1) % 3]);
                for amount in 0..40 {
                    until_done(data, |t| {
                        t.increment(&from, -amount)?;
                        t.increment(&to, amount).map(drop)
                    });
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(sum(), 300);
        }
    });
    assert_eq!(sum(), 300);
}

fn a_commit_outlives_the_store(h: &mut TransactionHarness) {
    for n in 0..10 {
        let begun = h.store().begin_write_transaction(Durability::Synced);
        let mut transaction = begun.expect("begin");
        put(&mut transaction, &n.to_string(), "");
        put(&mut transaction, "last", &n.to_string());
        transaction.commit().expect("commit");
    }
    let mut lost = begin(h.store());
    put(&mut lost, "never committed", "");
    drop(lost);
    if h.crash().expect("crash") || h.reopen().expect("reopen") {
        assert_eq!(committed(h.store(), "last").as_deref(), Some("9"));
        assert_eq!(committed(h.store(), "0").as_deref(), Some(""));
        assert_eq!(committed(h.store(), "never committed"), None);
    }
}
