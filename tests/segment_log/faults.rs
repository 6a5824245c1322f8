//! EIO and a full disk at every operation.

use std::cell::Cell;
use std::io::ErrorKind;

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::SegmentLog;
use peerstore::{Durability, Error, LogBatch, RaftLogStorage, Result};

use crate::support::{
    Content, Expected, Random, Step, Writer, bytes_on_disk, content, entry, open, options, segments,
};

const STEPS: usize = 45;

/// Lives until a step fails. Returns the failure and what may be there.
fn live(fs: &MemFs, seed: u64) -> (Option<SegmentLog>, Option<Error>, Expected) {
    let mut expected = Expected::new();
    let log = match open(fs, &options()) {
        Ok(log) => log,
        Err(error) => return (None, Some(error), expected),
    };
    let mut writer = Writer::new(seed, 3, 900);
    for _ in 0..STEPS {
        if let Err(error) = take(&log, &mut expected, writer.step()) {
            return (Some(log), Some(error), expected);
        }
    }
    (Some(log), None, expected)
}

fn take(log: &SegmentLog, expected: &mut Expected, step: Step) -> Result<()> {
    match step {
        Step::Write(batch, durability) => {
            expected.begin(&batch);
            log.write(&batch, durability)?;
            if durability == Durability::Synced {
                expected.synced();
            }
        }
        Step::Sync => {
            log.sync()?;
            expected.synced();
        }
        Step::Maintain => log.maintain()?,
    }
    Ok(())
}

fn operations(seed: u64) -> u64 {
    let fs = MemFs::new();
    let (log, error, _) = live(&fs, seed);
    assert!(error.is_none(), "{error:?}");
    let operations = fs.operations();
    drop(log);
    operations
}

fn probe() -> LogBatch {
    let mut batch = LogBatch::default();
    batch.append(99.into(), vec![entry(1, 1, b"probe".to_vec())]);
    batch
}

/// That the content is one that may be there, the probe aside.
fn check(expected: &Expected, seen: Result<Content>, what: &str) {
    let mut seen = seen.unwrap_or_else(|e| panic!("{what}: {e}"));
    seen.0.remove(&99);
    if let Err(wrong) = expected.position(&seen) {
        panic!("{what}: {wrong}\n{seen:?}");
    }
}

#[test]
fn no_success_is_reported_after_a_failed_operation() {
    let mut poisoned = 0;
    for at in 0..operations(3) {
        let fs = MemFs::new();
        fs.fail_at(at, ErrorKind::Other);
        let (log, error, expected) = live(&fs, 3);
        let op = fs.history().get(at as usize).cloned();
        let what = format!("EIO at {at} ({op:?})");
        let Some((op, _)) = op else { continue };
        let Some(log) = log else {
            // The creation failed. Nothing was acknowledged; the next one succeeds.
            assert!(error.is_some(), "{what}");
            check(
                &expected,
                open(&fs.after_power_cut(Lost::Half, at), &options()).and_then(|l| content(&l)),
                &what,
            );
            continue;
        };
        if let Some(error) = &error {
            assert!(matches!(error, Error::Io { .. }), "{what}: {error}");
            let is_read = ["read", "open", "measure", "list", "look up"].contains(&op);
            let write = log.write(&probe(), Durability::Synced);
            if !is_read {
                assert!(
                    matches!(write, Err(Error::Poisoned { .. })),
                    "{what}: {write:?}"
                );
                assert!(matches!(log.sync(), Err(Error::Poisoned { .. })), "{what}");
                poisoned += 1;
            }
            // What was acknowledged before can still be read.
            check(&expected, content(&log), &what);
        }
        for lost in [Lost::Nothing, Lost::Half, Lost::Everything] {
            let image = fs.after_power_cut(lost, at);
            let seen = open(&image, &options()).and_then(|log| content(&log));
            check(&expected, seen, &format!("{what}, then a cut, {lost:?}"));
        }
        // The pages of a failed fsync count as clean: what the next process serves it must write again.
        let killed = fs.after_kill();
        let next = open(&killed, &options()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let served = content(&next).expect("read");
        check(
            &expected,
            Ok(served.clone()),
            &format!("{what}, then a kill"),
        );
        let cut = open(&killed.after_power_cut(Lost::Everything, 0), &options());
        let after = cut
            .and_then(|log| content(&log))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(
            after, served,
            "{what}: what was served after a kill was lost in a cut"
        );
    }
    assert!(poisoned > 50, "{poisoned} failures poisoned the log");
}

#[test]
fn a_full_disk_refuses_writes_and_opens_again_while_it_is_full() {
    let (mut refused, mut went_on) = (0, 0);
    for kib in 20..160 {
        let fs = MemFs::new();
        let space = kib * 1024 + kib % 7 * 100;
        fs.set_space(space);
        let (log, error, expected) = live(&fs, 5);
        let what = format!("a disk of {space} bytes");
        let Some(log) = log else {
            assert!(
                matches!(error, Some(Error::DiskFull { .. })),
                "{what}: {error:?}"
            );
            continue;
        };
        let Some(error) = error else { continue };
        assert!(matches!(error, Error::DiskFull { .. }), "{what}: {error}");
        refused += 1;
        check(&expected, content(&log), &what);
        // Killed, and opened while it is still full.
        let killed = fs.after_kill();
        killed.set_space(space);
        let seen = open(&killed, &options()).and_then(|log| content(&log));
        check(&expected, seen, &format!("{what}, opened while it is full"));
        for lost in [Lost::Half, Lost::Everything] {
            let image = fs.after_power_cut(lost, kib);
            image.set_space(space);
            let seen = open(&image, &options()).and_then(|log| content(&log));
            check(&expected, seen, &format!("{what}, after a cut"));
        }
        // Nothing is poisoned: with space the same log goes on.
        fs.set_space(u64::MAX / 2);
        log.write(&probe(), Durability::Synced)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        went_on += 1;
        let seen = open(&fs.after_power_cut(Lost::Everything, 0), &options());
        let seen = seen.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(
            seen.read_entry(99.into(), 1).expect("read").is_some(),
            "{what}"
        );
    }
    assert!(
        refused > 30 && went_on == refused,
        "{refused} refused, {went_on} went on"
    );
}

/// One operation of each kind and place finds no room: what is said is typed, and whether the log goes on
/// or is poisoned, it opens again on a disk that has nothing left.
#[test]
fn a_full_disk_at_every_operation_is_named_and_opens_again() {
    let (mut named, mut went_on) = (0, 0);
    for at in 0..operations(4) {
        let fs = MemFs::new();
        fs.fail_at(at, ErrorKind::StorageFull);
        let (log, error, expected) = live(&fs, 4);
        let what = format!("ENOSPC at {at} ({:?})", fs.history().get(at as usize));
        if let Some(error) = &error {
            let is_named = match error {
                Error::DiskFull { .. } => true,
                // A sync that found no room, behind the writers' backs.
                Error::Poisoned { cause, .. } => cause.contains("no space left"),
                _ => false,
            };
            assert!(is_named, "{what}: {error}");
            named += 1;
        }
        let Some(log) = log else { continue };
        if error.is_some() {
            check(&expected, content(&log), &what);
            match log.write(&probe(), Durability::Synced) {
                Ok(()) => went_on += 1,
                Err(Error::Poisoned { .. }) => {}
                Err(other) => panic!("{what}: {other}"),
            }
        }
        for image in [fs.after_kill(), fs.after_power_cut(Lost::Half, at)] {
            image.set_space(0);
            let seen = open(&image, &options()).and_then(|log| content(&log));
            check(&expected, seen, &format!("{what}, opened without room"));
        }
    }
    assert!(
        named > 50 && went_on > 20,
        "{named} named, {went_on} went on"
    );
}

#[test]
fn compacting_makes_room_on_a_full_disk() {
    let fs = MemFs::new();
    let log = open(&fs, &options()).expect("open");
    fs.set_space(100 << 10);
    let next = Cell::new(1);
    let write = |log: &SegmentLog| -> Result<()> {
        let mut batch = LogBatch::default();
        let data = Random(next.get()).bytes(3_000);
        batch.append(1.into(), vec![entry(next.get(), 1, data)]);
        log.write(&batch, Durability::Synced)?;
        next.set(next.get() + 1);
        Ok(())
    };
    let error = (0..100)
        .find_map(|_| write(&log).err())
        .expect("it gets full");
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    for round in 0..3 {
        let mut batch = LogBatch::default();
        batch.remove(1.into(), 0..next.get());
        // A small batch finds room in the segment that is open.
        log.write(&batch, Durability::Synced).expect("remove");
        log.maintain().expect("maintain");
        write(&log).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
}

/// The space of what is nearly dead comes back as soon as there is room for the rest of it; until then
/// nothing is left behind.
#[test]
fn a_copy_that_finds_no_room_leaves_no_file() {
    let fs = MemFs::new();
    let log = open(&fs, &options()).expect("open");
    let mut random = Random(8);
    for index in 1..20u64 {
        for (region, bytes) in [(1, 100), (2, 3_000)] {
            let mut batch = LogBatch::default();
            batch.append(region.into(), vec![entry(index, 1, random.bytes(bytes))]);
            batch.remove(2.into(), 0..index);
            log.write(&batch, Durability::Synced).expect("write");
        }
    }
    let before = log.segment_stats().segments;
    let files = || segments(&fs).len() as u64;
    assert!(before > 3 && files() == before, "{before} segments");
    // Small enough for an index, and too small for a header and a frame.
    fs.set_space(bytes_on_disk(&fs) + 2_000);
    let full = log.maintain();
    assert!(matches!(full, Err(Error::DiskFull { .. })), "{full:?}");
    let stats = log.segment_stats();
    assert_eq!(stats.copied_bytes, 0, "{stats:?}");
    assert_eq!(files(), stats.segments, "{stats:?}");
    fs.set_space(u64::MAX / 2);
    log.maintain().expect("maintain");
    let stats = log.segment_stats();
    assert!(
        stats.copied_bytes > 0 && stats.segments < before,
        "{stats:?}"
    );
}

/// Writes an entry, then fills the reserve with segments of several pieces.
fn fill_large_reserve(fs: &MemFs) -> (SegmentLog, Result<()>) {
    let mut options = options();
    options.segment_bytes = 640 << 10;
    let log = open(fs, &options).expect("open");
    log.write(&probe(), Durability::Synced).expect("write");
    let filled = log.maintain();
    (log, filled)
}

#[test]
fn a_reserve_that_fails_or_is_cut_between_two_pieces_counts_for_nothing() {
    let fs = MemFs::new();
    let (_, filled) = fill_large_reserve(&fs);
    filled.expect("maintain");
    let history = fs.history();
    let at = |(at, (op, _)): (usize, &(&str, _))| (*op == "write back").then_some(at as u64);
    let pieces: Vec<u64> = history.iter().enumerate().filter_map(at).collect();
    assert_eq!(
        pieces.len(),
        4,
        "three pieces a segment, the last with its sync"
    );
    for at in pieces {
        let fs = MemFs::new();
        fs.fail_at(at, ErrorKind::Other);
        let (log, filled) = fill_large_reserve(&fs);
        assert!(matches!(filled, Err(Error::Io { .. })), "{at}: {filled:?}");
        let write = log.write(&probe(), Durability::Synced);
        assert!(matches!(write, Err(Error::Poisoned { .. })), "{write:?}");
        let cut = MemFs::new();
        cut.cut_at(at);
        let (_, filled) = fill_large_reserve(&cut);
        assert!(matches!(filled, Err(Error::Io { .. })), "{at}: {filled:?}");
        for fs in [fs, cut] {
            for lost in [Lost::Nothing, Lost::Half, Lost::Everything] {
                let image = fs.after_power_cut(lost, at);
                let mut options = options();
                options.segment_bytes = 640 << 10;
                let log = open(&image, &options).expect("open");
                assert!(log.read_entry(99.into(), 1).expect("read").is_some());
                log.write(&probe(), Durability::Synced).expect("write");
                log.maintain().expect("maintain");
                assert_eq!(log.segment_stats().spare_segments, 2);
            }
        }
    }
}
