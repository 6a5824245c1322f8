//! What raft-rs's reads cost when they are answered from memory: `term`, and `entries` beside
//! `MemStorage`.
//!
//! ```text
//! cargo bench --bench reads [-- --quick]
//! ```

mod support;

use std::hint::black_box;

use peerstore::{CompositeStorage, Config, PeerStorage, Region};
use raft::eraftpb::{Entry, Snapshot};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, Storage};
use support::table::{Report, Target, spread};
use support::{Args, Outcome, Samples, Took, clock, noise, take_turns};

/// The log: its first entry follows the region's initial index; terms change every so many entries.
const FIRST: u64 = 6;
const LENGTH: u64 = 10_000;
const ENTRIES_PER_TERM: u64 = 1_000;
const ENTRY_BYTES: usize = 256;
/// How many entries a read asks for.
const READ: u64 = 64;
/// Calls under one reading of the clock.
const CALLS: u64 = 1_000;

fn main() -> Outcome {
    let args = Args::read()?;
    let dir = args.memory()?;
    let node = CompositeStorage::open(dir.path(), Config::default())?;
    let log = log();
    let mut ours = node.create_region(&Region::single(1, 1))?;
    ours.append(&log)?;
    let mut theirs = MemStorage::new_with_conf_state((vec![1], vec![]));
    fill(&mut theirs, &log)?;
    let rounds = args.pick(20, 500);

    let mut report = Report::new("reads from memory, per call", &["MemStorage", "ours"]);
    let per_call = terms(&ours, &theirs, rounds, CALLS)?;
    row(&mut report, "term, cached entries", &per_call, TERM);
    let before = ours.cache_stats();
    entries(&mut report, &ours, &theirs, rounds)?;
    let after = ours.cache_stats();
    let misses = (after.misses - before.misses) as f64;
    let cells = [String::new(), format!("{} hits", after.hits - before.hits)];
    report.row(
        "reads of these that needed the log store",
        &cells,
        (misses, ""),
        Target::AtMost(0.0),
    );

    // After an open nothing is cached, and only both ends' terms are known until somebody asks.
    drop(ours);
    let ours = node.open_region(1)?;
    for index in FIRST..FIRST + LENGTH {
        ours.term(index)?;
    }
    assert_eq!(
        ours.cache_stats().bytes,
        0,
        "no entry is cached after an open"
    );
    let per_call = terms(&ours, &theirs, rounds, CALLS)?;
    row(
        &mut report,
        "term, known as runs, no entry cached",
        &per_call,
        TERM,
    );
    report.print();
    Ok(())
}

/// A term, in nanoseconds; raft asks for several at every message.
const TERM: Target = Target::AtMost(100.0);

fn log() -> Vec<Entry> {
    let noise = noise(ENTRY_BYTES * LENGTH as usize);
    let data = noise.chunks(ENTRY_BYTES);
    let entry = |(step, data): (u64, &[u8])| {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (FIRST + step, 6 + step / ENTRIES_PER_TERM);
        entry.data = data.to_vec().into();
        entry
    };
    (0..).zip(data).map(entry).collect()
}

/// Brings a MemStorage to the same log.
fn fill(storage: &mut MemStorage, log: &[Entry]) -> Outcome {
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = FIRST - 1;
    snapshot.mut_metadata().term = 5;
    snapshot.mut_metadata().mut_conf_state().voters = vec![1];
    let mut core = storage.wl();
    core.apply_snapshot(snapshot)?;
    Ok(core.append(log)?)
}

/// Adds a row in nanoseconds.
fn row(report: &mut Report, what: &str, [theirs, ours]: &[Samples; 2], target: Target) {
    let cells = [spread(theirs), spread(ours)];
    report.row(what, &cells, (ours.median() * 1e9, " ns"), target);
}

/// What one call of `term` takes, at indexes all over the log.
fn terms(
    ours: &PeerStorage,
    theirs: &MemStorage,
    rounds: usize,
    calls: u64,
) -> Outcome<[Samples; 2]> {
    let index = |call: u64| FIRST + call * 7_919 % LENGTH;
    for call in 0..calls {
        assert_eq!(ours.term(index(call))?, theirs.term(index(call))?);
    }
    let ask = |term: &dyn Fn(u64) -> raft::Result<u64>| {
        let (result, took) = clock(|| (0..calls).try_for_each(|call| term(index(call)).map(drop)));
        result?;
        Ok(per_call(took, calls))
    };
    both(
        rounds,
        &mut || ask(&|i| black_box(theirs).term(i)),
        &mut || ask(&|i| black_box(ours).term(i)),
    )
}

/// Reads of cached entries, without and with a limit of bytes, beside MemStorage's.
fn entries(report: &mut Report, ours: &PeerStorage, theirs: &MemStorage, rounds: usize) -> Outcome {
    for (what, limit) in [("without a limit", None), ("limit 1 MiB", Some(1 << 20))] {
        let low = |call: u64| FIRST + call * 7_919 % (LENGTH - READ);
        let context = || GetEntriesContext::empty(false);
        let calls = CALLS / 10;
        let same = |i| -> raft::Result<bool> {
            let (low, high) = (low(i), low(i) + READ);
            Ok(ours.entries(low, high, limit, context())?
                == theirs.entries(low, high, limit, context())?)
        };
        assert!(same(3)?, "the same answer");
        let (mut of_ours, mut of_theirs) = (
            || {
                read(calls, low, &|low| {
                    ours.entries(low, low + READ, limit, context())
                })
            },
            || {
                read(calls, low, &|low| {
                    theirs.entries(low, low + READ, limit, context())
                })
            },
        );
        let samples = both(rounds, &mut of_theirs, &mut of_ours)?;
        let cells = [spread(&samples[0]), spread(&samples[1])];
        let ratio = samples[1].median() / samples[0].median();
        let what = format!("{READ} cached entries of {ENTRY_BYTES} B, {what}");
        report.row(&what, &cells, (ratio, " x"), Target::AtMost(1.3));
    }
    Ok(())
}

fn read(
    calls: u64,
    low: impl Fn(u64) -> u64,
    entries: &dyn Fn(u64) -> raft::Result<Vec<Entry>>,
) -> Outcome<Took> {
    let (result, took) =
        clock(|| (0..calls).try_for_each(|call| entries(low(call)).map(|e| drop(black_box(e)))));
    result?;
    Ok(per_call(took, calls))
}

fn per_call(took: Took, calls: u64) -> Took {
    Took {
        wall: took.wall / calls as u32,
        cpu: took.cpu / calls as u32,
    }
}

/// MemStorage's samples and ours, in turns.
fn both(
    rounds: usize,
    theirs: &mut dyn FnMut() -> Outcome<Took>,
    ours: &mut dyn FnMut() -> Outcome<Took>,
) -> Outcome<[Samples; 2]> {
    let mut series = take_turns(rounds, &mut [theirs, ours])?
        .into_iter()
        .map(|s| s.wall);
    match (series.next(), series.next()) {
        (Some(theirs), Some(ours)) => Ok([theirs, ours]),
        _ => Err("two contenders, two series".into()),
    }
}
