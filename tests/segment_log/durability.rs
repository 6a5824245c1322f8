//! When writes are durable under each policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SyncPolicy};
use peerstore::{Durability, LogBatch, RaftLogStorage, RegionId};

use crate::support::{entry, open, options};

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn one(region: u64, index: u64) -> LogBatch {
    let mut batch = LogBatch::default();
    batch.append(RegionId(region), vec![entry(index, 1, vec![7; 50])]);
    batch
}

fn entries(log: &SegmentLog, region: u64) -> usize {
    let has = |index: &u64| {
        log.read_entry(RegionId(region), *index)
            .expect("read")
            .is_some()
    };
    (1..40).take_while(has).count()
}

#[test]
fn an_interval_syncs_no_oftener_and_acknowledges_nothing_before() {
    let interval = Duration::from_millis(20);
    let fs = MemFs::new();
    let mut options = options();
    options.sync = SyncPolicy::Interval(interval);
    let log = Arc::new(open(&fs, &options).expect("open"));
    let (begun, before) = (Instant::now(), log.stats().syncs);
    std::thread::scope(|scope| {
        for region in 1..=4 {
            let (log, fs, options) = (&log, &fs, &options);
            scope.spawn(move || {
                for index in 1..=8 {
                    log.write(&one(region, index), Durability::Synced)
                        .expect("write");
                    let image = fs.after_power_cut(Lost::Everything, 0);
                    let cut = open(&image, options).expect("open");
                    assert!(
                        entries(&cut, region) >= index as usize,
                        "acknowledged is durable"
                    );
                }
            });
        }
    });
    let syncs = (log.stats().syncs - before) as u32;
    // Rotations sync as well: what is here fits into one segment.
    assert!(
        syncs >= 8 && interval * (syncs - 1) <= begun.elapsed(),
        "{syncs} syncs"
    );
}

#[test]
fn an_interval_makes_buffered_writes_durable_by_itself() {
    let fs = MemFs::new();
    let mut options = options();
    (options.sync, options.background) = (SyncPolicy::Interval(Duration::from_millis(5)), true);
    let log = open(&fs, &options).expect("open");
    log.write(&one(1, 1), Durability::Buffered).expect("write");
    options.background = false;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let cut = open(&fs.after_power_cut(Lost::Everything, 0), &options).expect("open");
        if entries(&cut, 1) == 1 {
            return;
        }
        assert!(Instant::now() < deadline, "it was not synced");
        std::thread::yield_now();
    }
}
