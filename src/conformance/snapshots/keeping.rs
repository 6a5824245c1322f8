//! Cases of cleaning up. Uses: the seam.

use std::time::{Duration, SystemTime};

use super::{R, SnapshotHarness, Store, create, meta, names, sample};
use crate::{CleanUp, RegionId, Retention};

const OTHER: RegionId = RegionId(8);
const HOUR: Duration = Duration::from_secs(3600);

/// Five of one region, one of another.
fn fill(store: Store) {
    for index in [10, 20, 30, 40, 50] {
        create(store, meta(R, 5, index), &sample(index as u8, 2000));
    }
    create(store, meta(OTHER, 5, 10), b"of another region");
}

fn clean_up(store: Store, retention: Retention, after: Duration) -> CleanUp {
    let now = SystemTime::now() + after;
    let done = store.clean_up(&retention, &|_| None, now);
    done.expect("clean_up")
}

/// What is left of the region, by index.
fn left(store: Store) -> Vec<u64> {
    let infos = store.list(Some(R)).expect("list");
    infos.iter().map(|info| info.meta.position.index).collect()
}

pub(super) fn without_a_limit_everything_stays(h: &mut SnapshotHarness) {
    fill(h.store());
    let done = clean_up(h.store(), Retention::default(), HOUR * 10_000);
    assert_eq!(done, CleanUp::default());
    assert_eq!(names(h.store(), None).len(), 6);
}

pub(super) fn the_latest_of_each_region_are_kept(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let infos = store.list(Some(R)).expect("list");
    let bytes = infos[..3].iter().map(|info| info.file_bytes).sum();
    let done = clean_up(store, Retention::keep_latest(2), HOUR);
    let expected = CleanUp {
        removed: 3,
        removed_bytes: bytes,
        in_use: 0,
    };
    assert_eq!(done, expected);
    assert_eq!(left(store), [40, 50]);
    assert_eq!(names(store, Some(OTHER)).len(), 1);
    let again = clean_up(store, Retention::keep_latest(2), HOUR);
    assert_eq!(again, CleanUp::default());
}

pub(super) fn the_newest_stays_whatever_its_age(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let strictest = Retention {
        keep_latest: Some(0),
        max_age: Some(Duration::ZERO),
        total_bytes_max: Some(0),
    };
    assert_eq!(clean_up(store, strictest, HOUR * 10_000).removed, 4);
    assert_eq!(names(store, None), ["7-5-50-0", "8-5-10-0"]);
}

pub(super) fn those_that_are_too_old_go(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let retention = Retention::by_age(HOUR);
    assert_eq!(clean_up(store, retention, Duration::ZERO).removed, 0);
    // A clock that was set back makes nothing old.
    let past = SystemTime::now() - HOUR * 10;
    let done = store.clean_up(&retention, &|_| None, past);
    assert_eq!(done.expect("clean_up").removed, 0);
    assert_eq!(clean_up(store, retention, HOUR * 2).removed, 4);
    assert_eq!(left(store), [50]);
}

pub(super) fn number_and_age_hold_both(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let retention = Retention::combined(3, HOUR);
    assert_eq!(clean_up(store, retention, Duration::ZERO).removed, 2);
    assert_eq!(left(store), [30, 40, 50]);
    assert_eq!(clean_up(store, retention, HOUR * 2).removed, 2);
    assert_eq!(left(store), [50]);
}

pub(super) fn the_newest_that_fit_are_kept(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let infos = store.list(None).expect("list");
    let of = |index: usize| infos[index].file_bytes;
    // The newest of both regions and the two before it.
    let room = of(5) + of(4) + of(3) + of(2);
    assert_eq!(clean_up(store, Retention::by_size(room), HOUR).removed, 2);
    assert_eq!(left(store), [30, 40, 50]);
    let done = clean_up(store, Retention::by_size(room - 1), HOUR);
    assert_eq!((done.removed, done.removed_bytes), (1, of(2)));
    assert_eq!(left(store), [40, 50]);
}

pub(super) fn one_in_use_is_left_and_counted(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let infos = store.list(Some(R)).expect("list");
    let reader = store.open(&infos[0].key).expect("open");
    let file = store.send(&infos[2].key).expect("send");
    let done = clean_up(store, Retention::keep_latest(1), HOUR);
    assert_eq!((done.removed, done.in_use), (2, 2));
    assert_eq!(left(store), [10, 30, 50]);
    drop((reader, file));
    let done = clean_up(store, Retention::keep_latest(1), HOUR);
    assert_eq!((done.removed, done.in_use), (2, 0));
    assert_eq!(left(store), [50]);
}

pub(super) fn the_first_that_reaches_the_truncated_log_is_kept(h: &mut SnapshotHarness) {
    let store = h.store();
    fill(store);
    let truncated = |region: RegionId| (region == R).then_some(20);
    let retention = Retention::keep_latest(1);
    let now = SystemTime::now();
    let done = store.clean_up(&retention, &truncated, now);
    assert_eq!(done.expect("clean_up").removed, 3);
    assert_eq!(left(store), [20, 50], "the log goes on behind 20");
    let truncated = |_| Some(21);
    let done = store.clean_up(&retention, &truncated, now);
    assert_eq!(done.expect("clean_up").removed, 1);
    assert_eq!(left(store), [50], "it begins behind 21 now");
}
