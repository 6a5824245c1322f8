//! The log by itself: entries a second when writes are grouped, reads past the entry cache, what it
//! takes on the disk.
//!
//! ```text
//! cargo bench --bench log [-- --quick]
//! ```

mod support;

use std::path::Path;
use std::time::Duration;

use peerstore::{CompositeStorage, Config, LogBatch, LogStats, PeerStorage, Region};
use raft::eraftpb::Entry;
use raft::{GetEntriesContext, Storage as _};
use support::table::{Report, Target, spread, time};
use support::{Args, Outcome, Samples, clock, files, noise};

const ENTRIES_PER_S: Target = Target::AtLeast(10_000.0);
const READ_US: Target = Target::AtMost(100.0);
const CATCH_UP_MB_PER_S: Target = Target::AtLeast(50.0);
const OVERHEAD_PERCENT: Target = Target::AtMost(20.0);

/// A batch over regions.
const REGIONS: u64 = 100;
const ENTRIES_PER_REGION: u64 = 10;
const SMALL_BYTES: usize = 256;
/// A long log.
const LARGE_BYTES: usize = 1 << 10;

fn main() -> Outcome {
    let args = Args::read()?;
    let mut report = Report::new("the log", &["shape", "per call", "fsyncs"]);
    let dir = args.disk()?;
    grouped(&mut report, dir.path(), args.pick(20, 500))?;
    writers(&mut report, args.disk()?.path(), args.pick(50, 500))?;
    let count = args.pick(10_000, 300_000) as u64;
    long_log(&mut report, args.disk()?.path(), count)?;
    report.print();
    Ok(())
}

fn entries(low: u64, count: u64, data: &[u8], bytes: usize) -> Vec<Entry> {
    let chunks = data.len() / bytes;
    let entry = |index: u64| {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 6);
        let at = index as usize % chunks * bytes;
        entry.data = data[at..at + bytes].to_vec().into();
        entry
    };
    (low..low + count).map(entry).collect()
}

/// The fsyncs since `before`, and the writes that they were for.
fn syncs(node: &CompositeStorage, before: LogStats) -> String {
    let now = node.log_stats();
    format!(
        "{} for {} writes",
        now.syncs - before.syncs,
        now.writes - before.writes
    )
}

/// Many regions' entries in one batch, under one fsync.
fn grouped(report: &mut Report, dir: &Path, rounds: usize) -> Outcome {
    let node = CompositeStorage::open(dir, Config::default())?;
    let data = noise(1 << 20);
    let (before, mut samples) = (node.log_stats(), Samples::default());
    for round in 0..rounds as u64 {
        let mut batch = LogBatch::default();
        for region in 1..=REGIONS {
            let low = 6 + round * ENTRIES_PER_REGION;
            batch.append(
                region.into(),
                entries(low, ENTRIES_PER_REGION, &data, SMALL_BYTES),
            );
        }
        batch.require_sync();
        let (written, took) = clock(|| node.write_log(&batch));
        written?;
        samples.push(took.wall);
    }
    let shape = format!("{REGIONS} regions x {ENTRIES_PER_REGION} x {SMALL_BYTES} B");
    let cells = [shape, spread(&samples), syncs(&node, before)];
    let count = (REGIONS * ENTRIES_PER_REGION) as f64;
    let speed = count / samples.median();
    report.row(
        "entries written, grouped by the caller",
        &cells,
        (speed, " /s"),
        ENTRIES_PER_S,
    );
    Ok(())
}

/// Threads that each append one entry at a time to a region of their own.
fn writers(report: &mut Report, dir: &Path, rounds: usize) -> Outcome {
    for threads in [1, 16] {
        let node = CompositeStorage::open(dir.join(threads.to_string()), Config::default())?;
        let data = noise(1 << 20);
        let storages: Vec<PeerStorage> = (1..=threads)
            .map(|id| node.create_region(&Region::single(id, id)))
            .collect::<Result<_, _>>()?;
        let before = node.log_stats();
        let (done, took) = clock(|| {
            std::thread::scope(|scope| {
                let append = |mut storage: PeerStorage| {
                    let data = &data;
                    scope.spawn(move || {
                        let mut all = entries(6, rounds as u64, data, SMALL_BYTES).into_iter();
                        all.try_for_each(|entry| storage.append(&[entry]))
                    })
                };
                let running: Vec<_> = storages.into_iter().map(append).collect();
                running
                    .into_iter()
                    .try_for_each(|thread| thread.join().expect("no writer panics"))
            })
        });
        done?;
        let wall = took.wall.as_secs_f64();
        let cells = [
            format!("{threads} threads x 1 x {SMALL_BYTES} B"),
            time(wall / rounds as f64),
            syncs(&node, before),
        ];
        let speed = (threads as usize * rounds) as f64 / wall;
        report.row(
            "entries written one by one",
            &cells,
            (speed, " /s"),
            Target::None,
        );
    }
    Ok(())
}

/// A log of `count` entries: what it takes on the disk, and reads that no entry cache answers.
fn long_log(report: &mut Report, dir: &Path, count: u64) -> Outcome {
    let node = CompositeStorage::open(dir, Config::default())?;
    let mut storage = node.create_region(&Region::single(1, 1))?;
    let data = noise(64 << 20);
    for low in (6..6 + count).step_by(1_000) {
        storage.append(&entries(low, 1_000, &data, LARGE_BYTES))?;
    }
    let written = node.log_stats().bytes;
    drop((storage, node));
    // Opening writes what was in memory out into tables.
    let node = CompositeStorage::open(dir, Config::default())?;
    let storage = node.open_region(1)?;
    let payload = count as f64 * LARGE_BYTES as f64;
    let percent = |bytes: u64| 100.0 * (bytes as f64 / payload - 1.0);
    let tables = settled(&dir.join("raft"))?;
    let shape = format!("{count} x {LARGE_BYTES} B, incompressible");
    let row = |what, bytes| {
        (
            what,
            [shape.clone(), format!("{} MiB", bytes >> 20), String::new()],
            bytes,
        )
    };
    for (what, cells, bytes) in [
        row("tables above the payload", tables),
        row("keys and values above it", written),
    ] {
        report.row(what, &cells, (percent(bytes), " %"), OVERHEAD_PERCENT);
    }
    reads(report, dir, &storage, count)
}

/// The bytes of the tables once compactions are through: they need room for both copies meanwhile.
fn settled(dir: &Path) -> Outcome<u64> {
    let mut bytes = files::bytes_of(dir, ".sst")?;
    for _ in 0..60 {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut bytes, files::bytes_of(dir, ".sst")?);
        if bytes == before {
            break;
        }
    }
    Ok(bytes)
}

fn reads(report: &mut Report, dir: &Path, storage: &PeerStorage, count: u64) -> Outcome {
    let context = || GetEntriesContext::empty(false);
    for (what, from_disk) in [
        ("one entry, from the disk", true),
        ("one entry, from the page cache", false),
    ] {
        if from_disk {
            files::forget(dir)?;
        }
        let mut samples = Samples::default();
        for step in 0..2_000 {
            let index = 6 + (step * 7_919 + u64::from(from_disk)) % count;
            let (read, took) = clock(|| storage.entries(index, index + 1, None, context()));
            assert_eq!(read?[0].index, index);
            samples.push(took.wall);
        }
        let cells = [
            format!("99 %: {}", time(samples.quantile(0.99))),
            spread(&samples),
            String::new(),
        ];
        report.row(what, &cells, (samples.median() * 1e6, " us"), READ_US);
    }
    files::forget(dir)?;
    let (mut low, mut calls) = (6, 0);
    let (read, took) = clock(|| -> raft::Result<()> {
        while low < 6 + count {
            low += storage.entries(low, 6 + count, 1 << 20, context())?.len() as u64;
            calls += 1;
        }
        Ok(())
    });
    read?;
    let wall = took.wall.as_secs_f64();
    let speed = (count as usize * LARGE_BYTES) as f64 / 1e6 / wall;
    let cells = [
        "1 MiB a call, from the disk".into(),
        time(wall / f64::from(calls)),
        String::new(),
    ];
    report.row(
        "catch-up in order",
        &cells,
        (speed, " MB/s"),
        CATCH_UP_MB_PER_S,
    );
    Ok(())
}
