//! A follower that is far behind: how fast it catches up, by the log and by a snapshot, and what the
//! others notice of it.

use std::time::Instant;

use peerstore::{Config, GcPolicy, Store};

use crate::cluster::{Cluster, PATIENCE};
use crate::support::table::{Report, Target, time};
use crate::support::{Args, Outcome, Samples, noise};

const ENTRY_BYTES: usize = 16 << 10;

pub fn run(args: &Args) -> Outcome {
    let title = "a follower that is behind catches up";
    let columns = ["behind", "took", "p99 of a proposal before", "meanwhile"];
    let mut report = Report::new(title, &columns);
    let bytes = args.mib.unwrap_or(args.pick(8, 64)) << 20;
    let never = GcPolicy {
        bytes_max: u64::MAX,
        entries_max: u64::MAX,
        ..GcPolicy::default()
    };
    measure(
        &mut report,
        args,
        "by the log",
        bytes,
        &Config {
            gc: never,
            ..Config::default()
        },
        50.0,
    )?;
    measure(
        &mut report,
        args,
        "by a snapshot",
        bytes,
        &Config::default(),
        100.0,
    )?;
    report.print();
    Ok(())
}

fn measure(
    report: &mut Report,
    args: &Args,
    what: &str,
    bytes: usize,
    config: &Config,
    target: f64,
) -> Outcome {
    let dir = args.disk()?;
    let mut cluster = Cluster::start(dir.path(), 3, 1, config)?;
    let before = latencies(&cluster, || Ok(false))?;
    drop(cluster.stores.pop());
    let payload = noise(ENTRY_BYTES);
    let mut open = std::collections::VecDeque::new();
    for _ in 0..bytes / ENTRY_BYTES {
        open.push_back(cluster.propose(1, &payload));
        if open.len() > 64
            && let Some(ticket) = open.pop_front()
        {
            ticket.wait(PATIENCE)?;
        }
    }
    for ticket in open {
        ticket.wait(PATIENCE)?;
    }
    if what.contains("snapshot") {
        let applied = applied(&cluster.stores[0]);
        cluster.stores[0].compact(1, applied - 1).wait(PATIENCE)?;
    }
    let goal = applied(&cluster.stores[0]);
    let third = cluster.open(&dir.path().join("3"), 3, config)?;
    let started = Instant::now();
    let mut took = 0.0;
    let meanwhile = latencies(&cluster, || {
        let there = applied(&third) >= goal;
        if there {
            took = started.elapsed().as_secs_f64();
        }
        Ok(!there)
    })?;
    let mib = bytes as f64 / f64::from(1 << 20);
    let cells = [
        format!("{mib:.0} MiB"),
        time(took),
        time(before.quantile(0.99)),
        time(meanwhile.quantile(0.99)),
    ];
    report.row(
        what,
        &cells,
        (bytes as f64 / 1e6 / took, " MB/s"),
        Target::AtLeast(target),
    );
    let grown = meanwhile.quantile(0.99) / before.quantile(0.99);
    report.row(
        &format!("{what}: p99"),
        &cells,
        (grown, " x"),
        Target::AtMost(2.0),
    );
    Ok(())
}

/// Proposes small entries, one after the other, at least two hundred and as long as `more` says so.
fn latencies(cluster: &Cluster, mut more: impl FnMut() -> Outcome<bool>) -> Outcome<Samples> {
    let payload = noise(256);
    let mut samples = Samples::default();
    let mut count = 0;
    while more()? || count < 200 {
        let started = Instant::now();
        cluster.propose(1, &payload).wait(PATIENCE)?;
        samples.push(started.elapsed());
        count += 1;
    }
    Ok(samples)
}

fn applied(store: &Store) -> u64 {
    let progress = store.progress(1).wait(PATIENCE);
    progress.map_or(0, |p| p.applied_index)
}
