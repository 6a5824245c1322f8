//! Which snapshots a policy removes, as far as it can be told without a store.

use std::time::{Duration, SystemTime};

use peerstore::{Codec, RegionId, Retention, SnapshotId};
use proptest::prelude::*;

use super::*;

fn at(region: u64, index: u64, sequence: u64) -> SnapshotKey {
    SnapshotKey {
        region: RegionId(region),
        id: SnapshotId {
            term: 5,
            index,
            sequence,
        },
    }
}

/// One that was built so many seconds after 1970, if that is known.
fn info(key: SnapshotKey, file_bytes: u64, created_s: Option<u64>) -> SnapshotInfo {
    SnapshotInfo {
        key,
        meta: meta(key.region.0, key.id.term, key.id.index),
        content_bytes: 0,
        file_bytes,
        digest: [0; 32],
        codec: Codec::None,
        entry_count: 0,
        created: created_s.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
        file_id: 0,
    }
}

fn now(s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(s)
}

fn nowhere(_: RegionId) -> Option<u64> {
    None
}

#[test]
fn a_snapshot_without_a_date_is_not_too_old_but_the_first_to_make_room() {
    let infos = [
        info(at(1, 10, 0), 10, None),
        info(at(1, 20, 0), 10, Some(100)),
        info(at(1, 30, 0), 10, Some(200)),
        info(at(1, 40, 0), 10, Some(300)),
    ];
    let by_age = Retention::by_age(Duration::from_secs(150));
    assert_eq!(
        by_age.superseded(&infos, &nowhere, now(300)),
        [at(1, 20, 0)]
    );
    let by_size = Retention::by_size(30);
    assert_eq!(
        by_size.superseded(&infos, &nowhere, now(300)),
        [at(1, 10, 0)]
    );
}

#[test]
fn the_total_counts_every_region_and_goes_by_date() {
    let infos = [
        info(at(1, 10, 0), 10, Some(400)),
        info(at(1, 20, 0), 10, Some(500)),
        info(at(2, 900, 0), 10, Some(100)),
        info(at(2, 950, 0), 10, Some(200)),
    ];
    let goes = |bytes| Retention::by_size(bytes).superseded(&infos, &nowhere, now(600));
    assert_eq!(goes(40), []);
    assert_eq!(
        goes(39),
        [at(2, 900, 0)],
        "the oldest, not the lowest index"
    );
    assert_eq!(goes(0), [at(1, 10, 0), at(2, 900, 0)]);
}

#[test]
fn a_large_one_that_does_not_fit_takes_the_older_ones_with_it() {
    let infos = [
        info(at(1, 10, 0), 1, Some(100)),
        info(at(1, 20, 0), 1000, Some(200)),
        info(at(1, 30, 0), 1, Some(300)),
        info(at(1, 40, 0), 1, Some(400)),
    ];
    let goes = Retention::by_size(10).superseded(&infos, &nowhere, now(500));
    assert_eq!(goes, [at(1, 10, 0), at(1, 20, 0)], "no gap is left");
}

#[test]
fn of_one_position_the_last_sequence_is_the_newest() {
    let infos = [
        info(at(1, 10, 0), 1, Some(300)),
        info(at(1, 10, 1), 1, Some(100)),
    ];
    let goes = Retention::keep_latest(1).superseded(&infos, &nowhere, now(500));
    assert_eq!(goes, [at(1, 10, 0)], "whatever the clock said");
}

#[test]
fn the_truncated_log_needs_one_snapshot_and_only_of_its_own_region() {
    let mut infos = Vec::new();
    for region in [1, 2] {
        infos.extend([10, 20, 30, 40].map(|index| info(at(region, index, 0), 1, Some(index))));
    }
    let truncated = |region: RegionId| (region.0 == 1).then_some(15);
    let goes = Retention::keep_latest(1).superseded(&infos, &truncated, now(500));
    let left: Vec<SnapshotKey> = (infos.iter().map(|info| info.key))
        .filter(|key| !goes.contains(key))
        .collect();
    assert_eq!(left, [at(1, 20, 0), at(1, 40, 0), at(2, 40, 0)]);
}

proptest! {
    /// Whatever is there and whatever the policy: the newest of each region and the first that reaches
    /// the truncated log stay, and nothing is removed twice or invented.
    #[test]
    fn what_is_needed_always_stays(
        there in proptest::collection::btree_set((1u64..4, 1u64..20, 0u64..2), 0..30),
        sizes in proptest::collection::vec(0u64..100, 30),
        dates in proptest::collection::vec(proptest::option::of(0u64..100), 30),
        keep_latest in proptest::option::of(0u64..4),
        max_age in proptest::option::of(0u64..50),
        total_bytes_max in proptest::option::of(0u64..500),
        truncated_at in 0u64..25,
    ) {
        let infos: Vec<SnapshotInfo> = (there.iter().zip(sizes.iter().zip(&dates)))
            .map(|((region, index, sequence), (bytes, date))| {
                info(at(*region, *index, *sequence), *bytes, *date)
            })
            .collect();
        let retention = Retention {
            keep_latest,
            max_age: max_age.map(Duration::from_secs),
            total_bytes_max,
        };
        let goes = retention.superseded(&infos, &|_| Some(truncated_at), now(100));
        prop_assert!(goes.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(goes.iter().all(|key| infos.iter().any(|info| info.key == *key)));
        for region in 1..4 {
            let keys = || infos.iter().map(|info| info.key).filter(|key| key.region.0 == region);
            let newest = keys().max();
            let needed = keys().filter(|key| key.id.index >= truncated_at).min();
            for key in newest.into_iter().chain(needed) {
                prop_assert!(!goes.contains(&key), "{} must stay", key);
            }
            let left = keys().filter(|key| !goes.contains(key)).count() as u64;
            if let Some(count) = keep_latest {
                prop_assert!(left <= count.max(1) + 1, "{} are left", left);
            }
        }
        if retention.is_unlimited() {
            prop_assert!(goes.is_empty());
        }
    }
}
