//! Power cuts while many threads write and the background works, in whatever order they happen to run.
//! `PEERSTORE_CROWDS` sets how many are tried.

use std::time::Duration;

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{Durability, LogBatch, RaftLogStorage, RegionId, Result};

use crate::support::{Random, entry, open, options, state};

const WRITERS: u64 = 4;
const CROWDS: u64 = 60;
/// A region keeps about so many entries.
const KEPT: u64 = 20;

/// What one writer knows of its region's log when the power is gone.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last entry that a synced write was answered for.
    durable: u64,
    /// The last one that was handed in.
    tried: u64,
    /// The log may have been cut up to here.
    cut: u64,
}

fn data(region: u64, index: u64) -> Vec<u8> {
    let bytes = (index * 37 + region * 11) % 900;
    vec![(index ^ region) as u8; bytes as usize]
}

/// Entry `index` and the state that tells of it, and sometimes the removal of old entries.
fn batch(known: &mut Known, region: u64) -> LogBatch {
    known.tried += 1;
    let index = known.tried;
    let mut batch = LogBatch::default();
    batch.append(RegionId(region), vec![entry(index, 1, data(region, index))]);
    batch.state(RegionId(region), state(1, index));
    // The first region lags.
    if region > 1 && index.is_multiple_of(KEPT) {
        known.cut = index - KEPT / 2;
        batch.remove(RegionId(region), 0..known.cut);
    }
    batch
}

/// Writes until the power is cut.
fn write(log: &SegmentLog, region: u64, mut random: Random) -> Known {
    let mut known = Known::default();
    loop {
        let done = match random.below(4) {
            0 => log.write(&batch(&mut known, region), Durability::Buffered),
            1 => together(log, &mut known, region, 1 + random.below(4)),
            _ => log
                .write(&batch(&mut known, region), Durability::Synced)
                .map(|()| known.durable = known.tried),
        };
        if done.is_err() {
            return known;
        }
    }
}

fn together(log: &SegmentLog, known: &mut Known, region: u64, count: u64) -> Result<()> {
    let mut tickets = Vec::new();
    for _ in 0..count {
        tickets.push(log.submit(&batch(known, region), Durability::Synced)?);
    }
    let first = known.tried - count + 1;
    for (at, ticket) in tickets.into_iter().enumerate() {
        ticket.wait(Duration::MAX)?;
        known.durable = first + at as u64;
    }
    Ok(())
}

fn check(log: &SegmentLog, region: u64, known: Known, what: &str) {
    let id = RegionId(region);
    let state = log.read_state(id).expect("state");
    let last = state.map_or(0, |state| state.last_index);
    assert!(
        (known.durable..=known.tried).contains(&last),
        "{what}: region {region} ends at {last}, {known:?}"
    );
    assert_eq!(log.read_entry(id, last + 1).expect("read"), None, "{what}");
    for index in known.cut.max(1)..=last {
        let read = log.read_entry(id, index).expect("read");
        let found = read.map(|entry| entry.data.to_vec());
        assert_eq!(
            found,
            Some(data(region, index)),
            "{what}: entry {index} of region {region}, {known:?}"
        );
    }
}

/// One life of a log, and what is left of it. The power goes at some operation of it.
fn live(seed: u64) -> (MemFs, Vec<Known>) {
    let mut random = Random(seed);
    let fs = MemFs::new();
    let options = SegmentLogOptions {
        background: true,
        spare_segments: random.below(3) as usize,
        ..options()
    };
    let log = open(&fs, &options).expect("open");
    fs.cut_at(fs.operations() + random.below(1500));
    let known = std::thread::scope(|scope| {
        let start = |region| {
            let (log, random) = (&log, Random(seed ^ region << 32));
            scope.spawn(move || write(log, region, random))
        };
        let writers: Vec<_> = (1..=WRITERS).map(start).collect();
        let joined = writers.into_iter().map(|writer| writer.join());
        joined.map(|known| known.expect("no panic")).collect()
    });
    (fs, known)
}

#[test]
fn no_power_cut_takes_what_a_thread_was_told_is_durable() {
    let given = std::env::var("PEERSTORE_CROWDS").ok();
    let crowds = given.map_or(CROWDS, |count| count.parse().expect("a number"));
    for seed in 0..crowds {
        let (fs, known) = live(seed);
        for lost in [Lost::Nothing, Lost::Half, Lost::Everything] {
            let image = fs.after_power_cut(lost, seed);
            let what = format!("seed {seed}, {lost:?} of what was not synced lost");
            let log = open(&image, &options()).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (region, known) in (1..).zip(&known) {
                check(&log, region, *known, &what);
            }
        }
    }
}
