//! The disk and the memory that the log takes: bounds that hold after every look of the background.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{Durability, FileSystem, LogBatch, RaftLogStorage, RegionId};

use crate::observed::Observed;
use crate::support::{
    DIR, Random, Step, Writer, bytes_on_disk, content, entry, open, open_on, options, state,
};

const REGIONS: u64 = 500;

/// Regions that write, some far more than others, and compact all but their newest entries; one in a
/// hundred never compacts.
struct Herd {
    random: Random,
    next: BTreeMap<u64, u64>,
}

impl Herd {
    fn new() -> Self {
        Herd {
            random: Random(7),
            next: (1..=REGIONS).map(|region| (region, 1)).collect(),
        }
    }

    fn is_laggard(region: u64) -> bool {
        region.is_multiple_of(100)
    }

    /// Writes entries of sixteen regions, and returns their bytes.
    fn step(&mut self, log: &SegmentLog) -> u64 {
        let (mut batch, mut bytes) = (LogBatch::default(), 0);
        let mut written = BTreeMap::new();
        for _ in 0..16 {
            // The cube of an even number between 0 and 1: a third of the regions writes seven tenths.
            let even = self.random.below(1_000);
            let region = 1 + even * even * even * REGIONS / 1_000_000_000;
            let size = 100 + self.random.below(400);
            written.insert(region, size);
        }
        for (region, size) in written {
            let next = self.next.get_mut(&region).expect("it is one of the herd");
            let data = self.random.bytes(size as usize);
            batch.append(RegionId(region), vec![entry(*next, 1, data)]);
            batch.state(RegionId(region), state(1, *next));
            if !Herd::is_laggard(region) {
                batch.remove(RegionId(region), 0..next.saturating_sub(8));
            }
            *next += 1;
            bytes += size;
        }
        log.write(&batch, Durability::Buffered).expect("write");
        bytes
    }
}

fn small_segments() -> SegmentLogOptions {
    let mut options = options();
    (options.segment_bytes, options.ring_bytes) = (64 << 10, 0);
    options
}

/// What a soak came to.
struct Soaked {
    /// What was copied, in percent of what was written.
    copied: u64,
    /// The most that was on the disk, if only for a moment, of what is allowed.
    most: f64,
}

/// Looks after the log whenever a segment was begun, as the background does, and measures it then.
fn soak(options: &SegmentLogOptions) -> Soaked {
    let fs = MemFs::new();
    // Before each change, so that what is there for a moment counts too.
    let peak = Arc::new(AtomicU64::new(0));
    let (seen, watched) = (Arc::clone(&peak), fs.clone());
    let observed = Observed::new(&fs, None, move |_, _| {
        // There is no directory at first.
        if watched
            .exists(Path::new(DIR))
            .is_ok_and(|is_there| is_there)
        {
            seen.fetch_max(bytes_on_disk(&watched), Relaxed);
        }
    });
    let log = open_on(Arc::new(observed), options).expect("open");
    let (mut herd, mut payload, mut looked) = (Herd::new(), 0, 0);
    let (mut most, mut most_at_all) = (0.0f64, 0.0f64);
    while payload < 9 << 20 || log.segment_stats().rotations < 60 {
        payload += herd.step(&log);
        let rotations = log.segment_stats().rotations;
        if rotations == looked {
            continue;
        }
        looked = rotations;
        peak.store(0, Relaxed);
        log.maintain().expect("maintain");
        let (stats, taken) = (log.segment_stats(), bytes_on_disk(&fs));
        let limit = 2 * stats.live_bytes + 4 * options.segment_bytes;
        most = most.max(taken as f64 / limit as f64);
        assert!(taken <= limit, "{taken} bytes, {limit} allowed: {stats:?}");
        most_at_all = most_at_all.max(peak.load(Relaxed) as f64 / limit as f64);
    }
    let stats = log.segment_stats();
    eprintln!(
        "at most {most:.2} of what is allowed, {most_at_all:.3} for a moment; copied {:.2} times the payload; {stats:?}",
        stats.copied_bytes as f64 / payload as f64
    );
    assert!(stats.copied_bytes > 0, "{stats:?}");
    // Everything compacted: what is left is the reserve and what is written to.
    let mut batch = LogBatch::default();
    (1..=REGIONS).for_each(|region| batch.remove(RegionId(region), 0..u64::MAX));
    log.write(&batch, Durability::Synced).expect("write");
    log.maintain().expect("maintain");
    assert_eq!(log.segment_stats().live_bytes, 0);
    assert!(bytes_on_disk(&fs) <= 4 * options.segment_bytes);
    Soaked {
        copied: stats.copied_bytes * 100 / payload,
        most: most_at_all,
    }
}

#[test]
fn the_log_takes_twice_what_lives_and_four_segments() {
    let Soaked { copied, .. } = soak(&small_segments());
    // 44 while the reserve, and what copies go to, took their whole segments.
    assert!(copied < 36, "{copied} % were copied");
}

/// With what lives a few times a segment, as it is where segments are large.
#[test]
fn little_is_copied_because_what_waits_dies() {
    let mut options = small_segments();
    options.segment_bytes = 384 << 10;
    let Soaked { copied, most } = soak(&options);
    // 42 while the reserve, and what copies go to, took their whole segments; 13 with laggards among others.
    assert!(copied < 13, "{copied} % were copied");
    // What is copied is there twice until a checkpoint: there is room for it.
    assert!(most <= 1.0, "{most:.3} of what is allowed");
}

#[test]
fn it_takes_no_more_while_the_index_is_dropped() {
    let mut options = small_segments();
    options.index_bytes_max = 0;
    soak(&options);
}

/// Tiny entries cannot be packed into twice their bytes: nothing must copy them for ever.
#[test]
fn tiny_entries_are_not_copied_again_and_again() {
    let fs = MemFs::new();
    let options = small_segments();
    let log = open(&fs, &options).expect("open");
    for index in 1..20_000u64 {
        let mut batch = LogBatch::default();
        batch.append(RegionId(index % 50), vec![entry(index / 50, 1, vec![1])]);
        log.write(&batch, Durability::Buffered).expect("write");
        if index.is_multiple_of(1_000) {
            log.maintain().expect("maintain");
        }
    }
    let stats = log.segment_stats();
    // Once at most, from where one frame has one entry to where one has hundreds.
    assert!(stats.copied_bytes <= stats.live_bytes, "{stats:?}");
    // Copies that follow on each other are one part again: their places take what they took.
    assert!(stats.index_bytes < 20_000 * 12, "{stats:?}");
}

/// What lives is counted, never guessed, whether or not the places of the entries are in memory.
#[test]
fn live_bytes_are_exact_while_the_index_is_dropped() {
    let (mut compared, mut forgot) = (0, 0);
    for seed in 0..90 {
        let whole = SegmentLogOptions {
            copy_below_percent: 60,
            ..options()
        };
        let dropped = SegmentLogOptions {
            index_bytes_max: 0,
            ..whole.clone()
        };
        let sides = [whole, dropped].map(|options| (MemFs::new(), options));
        let reopen = |sides: &[(MemFs, SegmentLogOptions); 2]| {
            let open =
                |(fs, options): &(MemFs, SegmentLogOptions)| open(fs, options).expect("open");
            [open(&sides[0]), open(&sides[1])]
        };
        let mut logs = reopen(&sides);
        let mut writer = Writer::new(seed, 3, 900);
        for step in 0..75 {
            let next = writer.step();
            for log in &logs {
                match &next {
                    Step::Write(batch, durability) => log.write(batch, *durability).expect("write"),
                    Step::Sync => log.sync().expect("sync"),
                    Step::Maintain => log.maintain().expect("maintain"),
                }
            }
            if step % 30 == 29 {
                drop(logs);
                logs = reopen(&sides);
                logs.iter()
                    .for_each(|log| log.maintain().expect("maintain"));
            }
            if matches!(next, Step::Maintain) || step % 30 == 29 {
                let [whole, dropped] = [&logs[0], &logs[1]].map(|log| log.segment_stats());
                assert_eq!(
                    dropped.live_bytes, whole.live_bytes,
                    "seed {seed}, step {step}: {dropped:?} and {whole:?}"
                );
                assert!(dropped.index_bytes <= whole.index_bytes);
                forgot += u64::from(dropped.index_bytes < whole.index_bytes);
                compared += u64::from(whole.live_bytes > 0);
            }
        }
    }
    assert!(
        compared > 500 && forgot > 100,
        "{compared} comparisons, {forgot} with places dropped"
    );
}

/// A log of many segments with a limit of a few kilobytes, and the memory of the largest index of one.
fn squeezed(background: bool) -> (MemFs, SegmentLogOptions, u64) {
    let mut options = small_segments();
    options.index_bytes_max = 4 << 10;
    options.background = background;
    let fs = MemFs::new();
    let log = open(
        &fs,
        &SegmentLogOptions {
            background: false,
            ..options.clone()
        },
    )
    .expect("open");
    let mut random = Random(9);
    for index in 1..100 {
        for region in 1..=20 {
            let mut batch = LogBatch::default();
            batch.append(RegionId(region), vec![entry(index, 1, random.bytes(300))]);
            log.write(&batch, Durability::Buffered).expect("write");
        }
        log.maintain().expect("maintain");
    }
    let segments = log.segment_stats().segments;
    assert!(segments > 8, "{segments} segments");
    drop(log);
    let unlimited = SegmentLogOptions {
        index_bytes_max: u64::MAX,
        background: false,
        ..options.clone()
    };
    let log = open(&fs, &unlimited).expect("open");
    let mut largest = 0;
    for index in 1..100 {
        let before = log.segment_stats().index_bytes;
        log.read_entry(RegionId(1), index).expect("read");
        largest = largest.max(log.segment_stats().index_bytes - before);
    }
    assert!(
        largest > options.index_bytes_max / 4,
        "{largest} bytes of one segment"
    );
    (fs.after_power_cut(Lost::Nothing, 0), options, largest)
}

#[test]
fn reads_are_right_and_memory_is_bounded_under_a_tiny_limit() {
    let (fs, options, largest) = squeezed(false);
    let want = {
        let unlimited = SegmentLogOptions {
            index_bytes_max: u64::MAX,
            ..options.clone()
        };
        content(&open(&fs.after_kill(), &unlimited).expect("open")).expect("read")
    };
    let log = open(&fs, &options).expect("open");
    let (mut random, mut most) = (Random(3), 0);
    for _ in 0..2_000 {
        let (region, low) = (1 + random.below(20), 1 + random.below(90));
        let high = low + 1 + random.below(9);
        let entries = log
            .read_entries(RegionId(region), low..high, u64::MAX)
            .expect("read");
        assert_eq!(
            entries,
            want.0[&region].1[low as usize - 1..high as usize - 1]
        );
        // The newest is not sealed; the one that was just read stays.
        most = most.max(log.segment_stats().index_bytes);
    }
    assert!(
        most <= options.index_bytes_max + 2 * largest,
        "{most} bytes, {largest} for one segment"
    );
    assert!(most > 0, "places were read back");
    assert_eq!(content(&log).expect("read"), want);
}

/// One reader's places are dropped for another's before it has used them.
#[test]
fn readers_that_drop_each_others_places_read_what_was_written() {
    let (fs, options, _) = squeezed(true);
    let log = open(&fs, &options).expect("open");
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let mut random = Random(reader);
                for _ in 0..400 {
                    let (region, index) = (1 + random.below(20), 1 + random.below(99));
                    let read = log.read_entry(RegionId(region), index);
                    let entry = read.expect("read").expect("it is there");
                    assert_eq!((entry.index, entry.data.len()), (index, 300));
                }
            });
        }
        // Meanwhile segments are copied away and used again.
        let mut batch = LogBatch::default();
        for index in 100..400 {
            batch.append(
                RegionId(50),
                vec![entry(index, 1, vec![index as u8; 2_000])],
            );
            log.write(&batch, Durability::Buffered).expect("write");
            batch = LogBatch::default();
            batch.remove(RegionId(50), 0..index);
        }
    });
}
