//! What the metrics cost: the time of an append and an apply in memory, where nothing else takes long, without
//! a recorder and with one. `cargo run --release --example metrics_cost`

use std::sync::Arc;
use std::time::Instant;

use metrics_exporter_prometheus::PrometheusBuilder;
use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{CompositeStorage, Config, Parts, Region, Result};
use raft::eraftpb::Entry;

/// Batches of a run; the log is cut after each so many.
const BATCHES: u64 = 4000;
const CUT_EVERY: u64 = 100;
/// The best of so many runs counts: the others were disturbed.
const RUNS: usize = 15;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let measured = |title: &str| -> Result<()> {
        for entries in [1, 64] {
            let mut best = f64::INFINITY;
            for _ in 0..RUNS {
                best = best.min(run(entries)?);
            }
            println!("{title}, {entries:2} entries a batch: {best:8.0} ns a batch");
        }
        Ok(())
    };
    measured("no recorder")?;
    // What is opened from now on is measured.
    let recorder = PrometheusBuilder::new().install_recorder()?;
    measured("Prometheus  ")?;
    recorder.run_upkeep();
    Ok(())
}

/// The nanoseconds of a batch that is appended and applied.
fn run(count: u64) -> Result<f64> {
    let parts = Parts {
        log: Arc::new(MemoryLog::new()),
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let (node, _workers) = CompositeStorage::from_parts_stepped(parts, &Config::default())?;
    let mut storage = node.create_region(&Region::single(1, 1))?;
    let start = Instant::now();
    let mut next = 6;
    for batch in 1..=BATCHES {
        let entries: Vec<Entry> = (next..next + count).map(entry).collect();
        next += count;
        storage.append(&entries)?;
        storage.apply(&entries, |entry, batch| {
            batch.put("key", &entry.data);
            Ok(())
        })?;
        if batch % CUT_EVERY == 0 {
            storage.compact(next)?;
        }
    }
    Ok(start.elapsed().as_nanos() as f64 / BATCHES as f64)
}

fn entry(index: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, 5, vec![7; 100].into());
    entry
}
