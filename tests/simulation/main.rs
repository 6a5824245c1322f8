//! Several stores on one thread, with a seed for their clocks, network, disks and faults: every run can
//! be repeated. Clients see registers that are linearizable, replicas are equal, nothing that was
//! acknowledged is lost, and when the faults end everything heals.
//!
//! `PEERSTORE_SEEDS=5000` runs more seeds, `PEERSTORE_SEED=n` that one alone, `PEERSTORE_TRACE=1` prints
//! everything that happens.

mod broken;
mod checks;
mod clients;
mod dice;
#[path = "../disk_log/mod.rs"]
mod disk_log;
mod faults;
mod heal;
mod history;
mod node;
mod operator;
mod trace;
mod world;
mod wounds;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use broken::Flaw;
use disk_log::LogKind;
use trace::Trace;
use world::World;

type Counts = BTreeMap<&'static str, u64>;

/// One life; what went wrong, with the end of its trace.
fn live(seed: u64, flaw: Flaw, log: LogKind) -> Result<Trace, String> {
    let trace = Arc::new(Mutex::new(Trace::default()));
    let shared = Arc::clone(&trace);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        World::new(seed, flaw, log, shared).run()
    }));
    let wrong = match lived {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(panic) => Some(match panic.downcast_ref::<String>() {
            Some(text) => format!("panicked: {text}"),
            None => "panicked".to_owned(),
        }),
    };
    let trace = std::mem::take(&mut *trace.lock().unwrap_or_else(|p| p.into_inner()));
    match wrong {
        None => Ok(trace),
        Some(reason) => Err(format!(
            "{}\n\nseed {seed}: {reason}\nto see it again: \
             PEERSTORE_SEED={seed} cargo test --test simulation {}",
            trace.tail(),
            match log {
                LogKind::Memory => "every_seed_is",
                LogKind::Segments => "every_seed_with",
            }
        )),
    }
}

/// Lives of the seeds on all cores: what they did, and the first failures.
fn live_all(
    seeds: std::ops::Range<u64>,
    (flaw, log): (Flaw, LogKind),
    failures_max: usize,
) -> (Counts, Vec<String>) {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<(Counts, Vec<String>)> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().unwrap().1.len() >= failures_max {
                        return;
                    }
                    let lived = live(seed, flaw, log);
                    let mut found = found.lock().unwrap();
                    match lived {
                        Ok(trace) => {
                            for (kind, count) in trace.counts {
                                *found.0.entry(kind).or_default() += count;
                            }
                        }
                        Err(failure) => found.1.push(failure),
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}, expected a number")),
    )
}

#[test]
fn every_seed_is_safe_and_heals() {
    hold(LogKind::Memory, 500);
}

#[test]
fn every_seed_with_its_log_in_segments_is_safe_and_heals() {
    hold(LogKind::Segments, 60);
}

/// So many seeds, unless the environment says how many.
fn hold(log: LogKind, seeds: u64) {
    let seeds = match number("PEERSTORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PEERSTORE_SEEDS").unwrap_or(seeds),
    };
    let failures_max = number("PEERSTORE_FAILURES").unwrap_or(1) as usize;
    let (counts, failures) = live_all(seeds.clone(), (Flaw::None, log), failures_max);
    if std::env::var_os("PEERSTORE_SUMMARY").is_some() {
        for failure in &failures {
            let from = failure.find("\n\nseed ").unwrap_or(0);
            println!("{}", failure[from..].trim());
        }
        assert!(failures.is_empty());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    println!("{counts:#?}");
    if seeds.end - seeds.start >= 300 {
        check_floors(&counts);
    }
}

/// A simulation in which nothing happens finds nothing.
fn check_floors(counts: &Counts) {
    let floors = [
        ("answers", 15_000),
        ("calls uncertain", 800),
        ("campaigns", 100),
        ("compactions", 100),
        ("cuts both ways", 150),
        ("cuts one way", 150),
        ("isolations", 150),
        ("bursts", 150),
        ("pauses", 150),
        ("slow parts", 300),
        ("kills", 300),
        ("power cuts", 1500),
        ("power cuts of everything", 150),
        ("log writes failed", 150),
        ("data writes failed", 150),
        ("regions stopped by their state machine", 100),
        ("destroys", 5),
        ("simple changes", 400),
        ("joint changes", 60),
        ("transfers", 300),
        ("splits", 300),
        ("splits by size", 100),
        ("merges", 100),
        ("snapshots installed", 300),
        ("messages lost", 10_000),
        ("messages cut", 15_000),
        ("messages doubled", 5_000),
        ("messages reordered", 50_000),
        ("replicas compared", 30_000),
    ];
    for (kind, floor) in floors {
        let count = counts.get(kind).copied().unwrap_or(0);
        assert!(count >= floor, "{kind}: {count}, expected at least {floor}");
    }
}

#[test]
fn a_seed_is_the_same_each_time() {
    for seed in [1, 2, 3] {
        for log in [LogKind::Memory, LogKind::Segments] {
            let hash = || live(seed, Flaw::None, log).map(|trace| trace.hash());
            let (first, second) = (hash(), hash());
            assert_eq!(first, second, "seed {seed}, {log:?}");
        }
    }
}

/// Whether a world with broken disks is found out soon.
fn is_found(flaw: Flaw, log: LogKind) -> bool {
    let (_, failures) = live_all(0..200, (flaw, log), 1);
    !failures.is_empty()
}

#[test]
fn a_log_that_is_not_synced_is_found() {
    assert!(is_found(Flaw::LogNotSynced, LogKind::Memory));
    assert!(is_found(Flaw::LogNotSynced, LogKind::Segments));
}

#[test]
fn a_tail_that_is_not_removed_is_found() {
    assert!(is_found(Flaw::TailKept, LogKind::Memory));
}

#[test]
fn an_apply_state_apart_from_its_data_is_found() {
    assert!(is_found(Flaw::ApplyStateApart, LogKind::Memory));
}
