//! A power cut before every change of the file system, and cuts of the recoveries from it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{Durability, LogBatch, RaftLogStorage, RegionId};

use crate::observed::{Flaw, Observed};
use crate::support::{Expected, Step, Writer, content, entry, open, open_on, options};

/// What the hook and the one who writes both see.
struct Shared {
    expected: Expected,
    cuts: u64,
    nested: u64,
    /// Entries' bytes that were copied.
    copied: u64,
    /// What went wrong, so that a flaw can be looked for as well.
    wrong: Vec<String>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How deep recoveries are cut again.
const DEPTH: u32 = 3;

/// Opens what a cut left, and looks at it; then at what a cut of now leaves of that.
fn recover(shared: &mut Shared, image: &MemFs, options: &SegmentLogOptions, what: &str) {
    shared.cuts += 1;
    let seen = open(image, options).and_then(|log| {
        // What was served stays, whatever happens next: no close.
        let seen = content(&log)?;
        let after = image.after_power_cut(Lost::Everything, 0);
        drop(log);
        let again = content(&open(&after, options)?)?;
        assert_eq!(
            seen, again,
            "{what}: what was served after a cut was lost in the next"
        );
        Ok(seen)
    });
    let verdict = match seen {
        Ok(seen) => shared.expected.position(&seen).map(drop),
        Err(error) => Err(format!("{error}")),
    };
    if let Err(wrong) = verdict {
        shared.wrong.push(format!("{what}: {wrong}"));
    }
}

/// Cuts the recovery from `image` before each of its changes.
fn recover_nested(
    shared: &mut Shared,
    image: &MemFs,
    options: &SegmentLogOptions,
    (depth, seed): (u32, u64),
) {
    let images: Arc<Mutex<Vec<MemFs>>> = Arc::default();
    let (inner, taken) = (image.after_kill(), Arc::clone(&images));
    let watched = inner.clone();
    let fs = Observed::new(&inner, None, move |_, _| {
        let mut taken = taken.lock().expect("nothing panics here");
        for lost in [Lost::Nothing, Lost::Half, Lost::Everything] {
            let seed = seed + taken.len() as u64;
            taken.push(watched.after_power_cut(lost, seed));
        }
    });
    // Its own outcome has been looked at already.
    drop(open_on(Arc::new(fs), options));
    let images = std::mem::take(&mut *images.lock().expect("nothing panics here"));
    for (at, image) in images.iter().enumerate() {
        shared.nested += 1;
        recover(
            shared,
            &image.after_kill(),
            options,
            &format!("depth {depth}, change {at}"),
        );
        // One in several, or there would be millions.
        if depth < DEPTH && (at as u64 + seed).is_multiple_of(29) {
            recover_nested(shared, image, options, (depth + 1, seed * 31 + at as u64));
        }
    }
}

/// Lives through `steps` steps with a cut before every change. Returns what was seen.
fn live(seed: u64, steps: usize, flaw: Option<Flaw>, options: SegmentLogOptions) -> Shared {
    let disk = MemFs::new();
    let shared = Arc::new(Mutex::new(Shared {
        expected: Expected::new(),
        cuts: 0,
        nested: 0,
        copied: 0,
        wrong: Vec::new(),
    }));
    let (seen, watched, again) = (Arc::clone(&shared), disk.clone(), options.clone());
    let mut change = 0u64;
    let hook = move |op: &'static str, path: &Path| {
        let mut shared = lock(&seen);
        for lost in [Lost::Nothing, Lost::Half, Lost::Everything] {
            let image = watched.after_power_cut(lost, seed * 1_000_003 + change);
            let what = format!(
                "seed {seed}, before change {change} ({op} {}), {lost:?}",
                path.display()
            );
            recover(&mut shared, &image.after_kill(), &again, &what);
            if change % 37 == 5 && lost != Lost::Nothing {
                recover_nested(&mut shared, &image, &again, (1, seed + change));
            }
        }
        change += 1;
    };
    let fs = Observed::new(&disk, flaw, hook);
    let log = open_on(Arc::new(fs), &options).expect("open a new log");
    let mut writer = Writer::new(seed, 3, 900);
    for _ in 0..steps {
        take(&log, &shared, writer.step());
    }
    lock(&shared).copied = log.segment_stats().copied_bytes;
    // The closing is cut too.
    drop(log);
    let shared = Arc::into_inner(shared).map(Mutex::into_inner);
    match shared {
        Some(Ok(shared)) => shared,
        _ => panic!("the hook is gone with the log"),
    }
}

fn take(log: &SegmentLog, shared: &Mutex<Shared>, step: Step) {
    match step {
        Step::Write(batch, durability) => {
            lock(shared).expected.begin(&batch);
            log.write(&batch, durability).expect("write");
            if durability == Durability::Synced {
                lock(shared).expected.synced();
            }
        }
        Step::Sync => {
            log.sync().expect("sync");
            lock(shared).expected.synced();
        }
        Step::Maintain => log.maintain().expect("maintain"),
    }
    let seen = content(log).expect("read");
    assert_eq!(
        &seen,
        lock(shared).expected.newest(),
        "what is read while it is open"
    );
}

/// What the lives of `seeds` came to.
fn lives(seeds: std::ops::Range<u64>, flaw: Option<Flaw>) -> (u64, u64, Vec<String>) {
    let (mut cuts, mut nested, mut wrong) = (0, 0, Vec::new());
    let (mut copied, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        let mut options = options();
        // Each life with other limits, so that everything happens in some.
        (options.copy_below_percent, options.index_bytes_max) = match seed % 3 {
            0 => (60, u64::MAX),
            1 => (25, 0),
            _ => (80, 0),
        };
        let seen = live(seed, 70, flaw, options);
        copied += u64::from(seen.copied > 0);
        cuts += seen.cuts;
        nested += seen.nested;
        wrong.extend(seen.wrong);
    }
    assert!(
        copied > count * 3 / 4,
        "{copied} of {count} copied something"
    );
    (cuts, nested, wrong)
}

fn hold(seeds: std::ops::Range<u64>) -> u64 {
    let (cuts, nested, wrong) = lives(seeds, None);
    eprintln!("{cuts} cuts, {nested} of them of recoveries");
    assert!(
        wrong.is_empty(),
        "{} of {cuts} cuts: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(nested > cuts / 20, "recoveries were cut too");
    cuts
}

// Two tests, so that they run side by side; together more than 50,000 cuts.

#[test]
fn no_cut_loses_or_brings_back_an_entry() {
    let cuts = hold(0..10);
    assert!(cuts >= 20_000, "{cuts} cuts");
}

#[test]
fn no_cut_loses_or_brings_back_an_entry_either() {
    let cuts = hold(10..24);
    assert!(cuts >= 20_000, "{cuts} cuts");
}

#[test]
fn the_cuts_notice_every_sync_that_is_left_out() {
    for flaw in [
        Flaw::Files,
        Flaw::Directories,
        Flaw::Segments,
        Flaw::Checkpoints,
    ] {
        let (cuts, _, wrong) = lives(0..1, Some(flaw));
        assert!(!wrong.is_empty(), "{cuts} cuts did not notice {flaw:?}");
    }
}

/// Batches of tickets share a frame: all of them or none, and those that are acknowledged stay.
#[test]
fn a_group_of_tickets_survives_whole() {
    let disk = MemFs::new();
    let log = open(&disk, &options()).expect("open");
    let batch = |index: u64| {
        let mut batch = LogBatch::default();
        batch.append(RegionId(index), vec![entry(1, 1, vec![index as u8; 300])]);
        batch
    };
    let submit = |index| {
        log.submit(&batch(index), Durability::Synced)
            .expect("submit")
    };
    let tickets: Vec<_> = (1..20).map(submit).collect();
    let before = log.stats().syncs;
    for ticket in tickets {
        ticket.wait(Duration::MAX).expect("wait");
    }
    assert_eq!(log.stats().syncs - before, 1, "one fsync for all of them");
    let cut = open(&disk.after_power_cut(Lost::Everything, 0), &options()).expect("open");
    assert_eq!(cut.regions().expect("regions").len(), 19);
}
