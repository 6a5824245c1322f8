//! What an entry costs, and how many share an fsync, from one proposer to many; beside it the same
//! replicas over raft-rs's own memory, and the bare writes of the same batches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use peerstore::{Config, StoreStats};

use crate::cluster::{Cluster, PATIENCE};
use crate::plain;
use crate::support::table::{Report, Target};
use crate::support::{Args, Outcome, noise, process_cpu};

const REGIONS: u64 = 64;
const PAYLOAD_BYTES: usize = 256;
const PROPOSERS: [u64; 4] = [1, 16, 64, 256];

/// What a run of the cluster has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub entries: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub log_writes: u64,
    pub log_syncs: u64,
    pub app_writes: u64,
}

pub fn run(args: &Args) -> Outcome {
    let title = "three replicas of 64 regions in one process: 256 B, from one proposer to many";
    let columns = [
        "entries/s",
        "fsyncs an entry",
        "entries a log write",
        "CPU an entry",
        "raft-rs on MemStorage",
        "bare writes",
    ];
    let mut report = Report::new(title, &columns);
    let dir = args.disk()?;
    let cluster = Cluster::start(dir.path(), 3, REGIONS, &Config::default())?;
    let seconds = if args.quick { 0.5 } else { 4.0 };
    for proposers in PROPOSERS {
        drive(&cluster, proposers, 0.3)?;
        let run = drive(&cluster, proposers, seconds)?;
        // The same rounds: as many entries of as many regions as one of the cluster's writes had.
        let together = (3 * run.entries / run.log_writes.max(1)).clamp(1, proposers);
        let entries = args.pick(2_000, 40_000) as u64;
        let raft = plain::raft_on_memory(REGIONS, together, entries, PAYLOAD_BYTES)?;
        let bare = plain::bare_writes(args, &run, PAYLOAD_BYTES)?;
        let each = run.cpu_seconds / run.entries as f64;
        let micros = |s: f64| format!("{:.1} us", s * 1e6);
        let cells = [
            format!("{:.0}", run.entries as f64 / run.seconds),
            format!("{:.3}", run.log_syncs as f64 / run.entries as f64),
            format!(
                "{:.1}",
                3.0 * run.entries as f64 / run.log_writes.max(1) as f64
            ),
            micros(each),
            format!("{} ({:.0} %)", micros(raft), 100.0 * raft / each),
            micros(bare),
        ];
        let what = format!("{proposers} proposers");
        report.row(
            &what,
            &cells,
            (each / (raft + bare), " x"),
            Target::AtMost(1.5),
        );
    }
    report.print();
    Ok(())
}

/// Some proposers, as many as `--mib` says, and nothing else.
pub fn profile(args: &Args) -> Outcome {
    let dir = args.disk()?;
    let cluster = Cluster::start(dir.path(), 3, REGIONS, &Config::default())?;
    let proposers = args.mib.map_or(PROPOSERS[3], |n| n as u64);
    let run = drive(&cluster, proposers, 6.0)?;
    let each = run.cpu_seconds / run.entries as f64 * 1e6;
    println!(
        "{} entries, {each:.1} us of processor time each",
        run.entries
    );
    Ok(())
}

/// Lets `proposers` propose, each one entry at a time, for some seconds.
fn drive(cluster: &Cluster, proposers: u64, seconds: f64) -> Outcome<Run> {
    let payload = noise(PAYLOAD_BYTES);
    let log =
        |f: fn(StoreStats) -> u64| -> u64 { cluster.stores.iter().map(|s| f(s.stats())).sum() };
    let before = (
        log(|c| c.log.writes),
        log(|c| c.log.syncs),
        log(|c| c.app.writes),
    );
    let (cpu, started) = (process_cpu(), Instant::now());
    let end = started + Duration::from_secs_f64(seconds);
    let (entries, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    // Few threads stand for many proposers: each keeps some proposals open, one a proposer.
    let threads = proposers.min(4);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (payload, entries, failed) = (&payload, &entries, &failed);
            scope.spawn(move || {
                let own: Vec<u64> = (0..proposers).filter(|p| p % threads == thread).collect();
                let region = |p: u64| 1 + p % REGIONS;
                let propose = |p: u64| (p, cluster.propose(region(p), payload));
                let mut open: std::collections::VecDeque<_> =
                    own.into_iter().map(propose).collect();
                while let Some((proposer, ticket)) = open.pop_front() {
                    match ticket.wait(PATIENCE) {
                        Ok(_) => entries.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    if Instant::now() < end {
                        open.push_back(propose(proposer));
                    }
                }
            });
        }
    });
    let (seconds, cpu) = (started.elapsed(), process_cpu() - cpu);
    if failed.load(Ordering::Relaxed) > 0 {
        return Err(format!("{} proposals failed", failed.load(Ordering::Relaxed)).into());
    }
    Ok(Run {
        entries: entries.load(Ordering::Relaxed).max(1),
        seconds: seconds.as_secs_f64(),
        cpu_seconds: cpu.as_secs_f64(),
        log_writes: log(|c| c.log.writes) - before.0,
        log_syncs: log(|c| c.log.syncs) - before.1,
        app_writes: log(|c| c.app.writes) - before.2,
    })
}
