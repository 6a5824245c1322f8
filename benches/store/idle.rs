//! Regions that have nothing to do: what each holds in memory, what all of them cost in time, and how
//! long a store takes to open them.

use std::time::{Duration, Instant};

use peerstore::{Config, Durability};
use raft::RawNode;
use raft::eraftpb::ConfState;
use raft::storage::MemStorage;

use crate::cluster::{Cluster, PATIENCE};
use crate::heap::held_bytes;
use crate::support::table::{Report, Target, time};
use crate::support::{Args, Outcome, process_cpu};

pub fn run(args: &Args) -> Outcome {
    let title = "regions that sleep";
    let columns = ["each, in memory", "of that raft-rs", "of a core", "open"];
    let mut report = Report::new(title, &columns);
    let many = args.pick(500, 10_000) as u64;
    measure(&mut report, args, many, true)?;
    if !args.quick {
        measure(&mut report, args, 10 * many, false)?;
    }
    report.print();
    Ok(())
}

/// Without fsyncs, so that setting up takes seconds.
fn config() -> Config {
    Config {
        durability: Durability::Buffered,
        ..Config::default()
    }
}

fn measure(report: &mut Report, args: &Args, regions: u64, held: bool) -> Outcome {
    let dir = args.memory()?;
    let before = held_bytes();
    let cluster = Cluster::start(dir.path(), 1, regions, &config())?;
    wait_for_sleep(&cluster)?;
    let each = (held_bytes() - before) as f64 / regions as f64;
    let (cpu, started) = (process_cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(if args.quick { 1 } else { 5 }));
    let core = (process_cpu() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    drop(cluster);

    let started = Instant::now();
    let cluster = Cluster {
        network: peerstore::memory::MemoryNetwork::immediate(),
        stores: Vec::new(),
        regions,
    };
    let store = cluster.open(&dir.path().join("1"), 1, &config())?;
    let opened = started.elapsed().as_secs_f64();
    assert_eq!(store.regions().len() as u64, regions);
    drop(store);

    let raft = raft_bytes(1)?;
    let cells = |figure: &str| {
        [
            format!("{each:.0} B"),
            format!("{raft:.0} B"),
            format!("{:.2} %", 100.0 * core),
            format!("{}{figure}", time(opened)),
        ]
    };
    let what = format!("{regions} regions");
    let target = |limit| {
        if held {
            Target::AtMost(limit)
        } else {
            Target::None
        }
    };
    report.row(
        &format!("{what}: memory each"),
        &cells(""),
        (each / 1024.0, " KiB"),
        target(8.0),
    );
    report.row(
        &format!("{what}: of a core"),
        &cells(""),
        (100.0 * core, " %"),
        target(1.0),
    );
    report.row(
        &format!("{what}: open"),
        &cells(""),
        (opened, " s"),
        target(3.0),
    );
    Ok(())
}

/// Until no region is ticked any more.
fn wait_for_sleep(cluster: &Cluster) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    let ticks = || -> u64 { cluster.stores.iter().map(|s| s.stats().region_ticks).sum() };
    let mut before = ticks();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = ticks();
        if now == before {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err("the regions do not fall asleep".into());
        }
        before = now;
    }
}

/// What raft-rs itself holds for a region of so many voters.
fn raft_bytes(voters: u64) -> Outcome<f64> {
    const COUNT: usize = 200;
    let before = held_bytes();
    let mut nodes = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let mut conf = ConfState::default();
        conf.voters = (1..=voters).collect();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let config = raft::Config {
            max_inflight_msgs: peerstore::StoreOptions::default().inflight_messages_max,
            ..raft::Config::new(1)
        };
        nodes.push(RawNode::new(
            &config,
            MemStorage::new_with_conf_state(conf),
            &logger,
        )?);
    }
    Ok((held_bytes() - before) as f64 / COUNT as f64)
}
