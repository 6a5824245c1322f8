//! A snapshot of a region from one node's data to another's: built, transferred, installed; how fast
//! and in how much memory, beside what the disk does alone. Before it, the files alone: each codec over
//! text, written, read and checked as streams.
//!
//! ```text
//! cargo bench --bench snapshot [-- --quick] [-- --mib 1024] [-- --only codecs|text|noise] [-- --text DIR]
//! ```

mod support;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peerstore::snapshot_dir::{SnapshotDir, SnapshotOptions};
use peerstore::{
    AppBatch, CompositeStorage, Compression, Config, DiskFs, Durability, Keyspace, LogPosition,
    RaftSnapshotStorage as _, Region, SnapshotInfo, SnapshotMeta,
};
use raft::eraftpb::Snapshot;
use support::table::{Report, Target, time};
use support::{Args, Outcome, clock, files, noise, process_bytes, process_cpu, reset_peak_memory};

/// The bytes of a value; keys have twenty.
const VALUE_BYTES: usize = 1 << 10;
/// Values repeat after so many bytes: far more than any compression looks back.
const SAMPLE_BYTES: usize = 64 << 20;
const WRITE_MB_PER_S: Target = Target::AtLeast(100.0);
const RESTORE_MB_PER_S: Target = Target::AtLeast(200.0);
const MEMORY_MIB: Target = Target::AtMost(64.0);
const SAVED_PERCENT: Target = Target::AtLeast(60.0);
const GIB_SECONDS: Target = Target::AtMost(10.0);

fn main() -> Outcome {
    let args = Args::read()?;
    let mib = args.mib.unwrap_or(args.pick(64, 1024));
    let columns = ["time", "processor", "MiB in the file", "disk alone"];
    let mut report = Report::new("a snapshot from node to node", &columns);
    for (name, sample) in [
        ("text", files::text as fn(&Path, usize) -> Outcome<Vec<u8>>),
        ("noise", |_, bytes| Ok(noise(bytes))),
    ] {
        if args.runs(name) {
            let sample = sample(&text_dir(&args)?, SAMPLE_BYTES.min(mib << 20))?;
            from_node_to_node(&mut report, &args, name, &sample, mib)?;
        }
    }
    report.print();
    if args.runs("codecs") {
        let columns = ["time", "processor", "memory above", "disk alone"];
        let mut report = Report::new("the file of a snapshot by codec, text", &columns);
        let sample = files::text(&text_dir(&args)?, SAMPLE_BYTES.min(mib << 20))?;
        for compression in [
            Compression::None,
            Compression::Lz4,
            Compression::Zstd { level: 1 },
            Compression::Zstd { level: 3 },
            Compression::Zstd { level: 9 },
            Compression::Gzip { level: 1 },
            Compression::Gzip { level: 6 },
        ] {
            by_codec(&mut report, &args, compression, &sample, mib)?;
        }
        report.print();
    }
    Ok(())
}

/// Writes, reads and verifies a file, with nothing of raft around it.
fn by_codec(
    report: &mut Report,
    args: &Args,
    compression: Compression,
    sample: &[u8],
    mib: usize,
) -> Outcome {
    let dir = args.disk()?;
    let (disk_write, disk_read) = files::disk_speed(dir.path(), (mib << 20) / 4)?;
    let options = SnapshotOptions {
        compression,
        ..SnapshotOptions::default()
    };
    let store = SnapshotDir::open(Arc::new(DiskFs), dir.path(), options)?;
    let region = Region::single(1, 1);
    let meta = SnapshotMeta {
        position: LogPosition::new(6, 42),
        conf_state: region.conf_state(),
        region,
    };
    let (info, write) = measured(|| -> Outcome<SnapshotInfo> {
        let mut writer = store.create(meta)?;
        let parts = sample.chunks(64 << 10).cycle();
        for part in parts.take((mib << 20) / (64 << 10)) {
            writer.write_all(part)?;
        }
        Ok(writer.commit()?)
    });
    let info = info?;
    files::forget(dir.path())?;
    let mut part = vec![0; 64 << 10];
    let (read_all, read) = measured(|| -> Outcome {
        let mut reader = store.open(&info.key)?;
        while reader.read(&mut part)? > 0 {}
        Ok(())
    });
    read_all?;
    let (verified, verify) = measured(|| store.verify(&info.key));
    assert!(verified?.is_intact());
    let alone = [
        format!("write {disk_write:.0} MB/s"),
        format!("read {disk_read:.0} MB/s"),
    ];
    let name = format!("{mib} MiB, {compression:?}");
    // The targets are of the codec that the config has unless it says another.
    let has_targets = compression == Compression::default();
    codec_rows(
        report,
        (&name, &info),
        [write, read, verify],
        alone,
        has_targets,
    );
    Ok(())
}

fn codec_rows(
    report: &mut Report,
    (name, info): (&str, &SnapshotInfo),
    [write, read, verify]: [Cost; 3],
    [alone_write, alone_read]: [String; 2],
    has_targets: bool,
) {
    let target = |target| if has_targets { target } else { Target::None };
    let content = info.content_bytes as f64;
    for (what, cost, goal, alone) in [
        ("written", &write, WRITE_MB_PER_S, alone_write),
        ("read", &read, RESTORE_MB_PER_S, alone_read),
        ("verified", &verify, Target::None, String::new()),
    ] {
        let cells = [
            time(cost.wall.as_secs_f64()),
            time(cost.cpu.as_secs_f64()),
            format!("{:.1} MiB", cost.memory as f64 / f64::from(1 << 20)),
            alone,
        ];
        let speed = content / 1e6 / cost.wall.as_secs_f64();
        let name = format!("{name}, {what}");
        report.row(&name, &cells, (speed, " MB/s"), target(goal));
    }
    let saved = 100.0 * (1.0 - info.file_bytes as f64 / content);
    let gib = write.wall.as_secs_f64() * f64::from(1 << 30) / content;
    let memory = write.memory.max(read.memory) as f64 / f64::from(1 << 20);
    for (what, figure, goal) in [
        ("- space saved", (saved, " %"), SAVED_PERCENT),
        ("- a GiB is written in", (gib, " s"), GIB_SECONDS),
        ("- memory", (memory, " MiB"), MEMORY_MIB),
    ] {
        let empty = std::array::from_fn::<_, 4, _>(|_| String::new());
        report.row(what, &empty, figure, target(goal));
    }
}

/// Where there is text: cargo's sources of the dependencies, unless another place was named.
fn text_dir(args: &Args) -> Outcome<PathBuf> {
    if let Some(dir) = &args.text {
        return Ok(dir.clone());
    }
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    Ok(cargo
        .ok_or("name a directory with --text")?
        .join("registry/src"))
}

fn from_node_to_node(
    report: &mut Report,
    args: &Args,
    name: &str,
    sample: &[u8],
    mib: usize,
) -> Outcome {
    let dir = args.disk()?;
    let (leader, follower) = (dir.path().join("leader"), dir.path().join("follower"));
    let (disk_write, disk_read) = files::disk_speed(dir.path(), mib << 20)?;
    fill(&leader, sample, mib)?;

    let node = CompositeStorage::open(&leader, Config::default())?;
    let storage = node.open_region(1)?;
    files::forget(&leader)?;
    let (snapshot, built) = measured(|| storage.wait_snapshot(Duration::from_secs(3600)));
    let snapshot = snapshot?;
    let file = files::bytes_of(&leader, ".snap")?;

    let other = CompositeStorage::open(&follower, Config::default())?;
    let (received, receive) = measured(|| transfer(&node, &other));
    received?;
    drop((storage, node));
    files::forget(&follower)?;
    let (installed, install) = measured(|| install(&other, snapshot));
    installed?;
    check(&other, sample, mib)?;

    let disk = |speed: f64| format!("{speed:.0} MB/s");
    let rows = [
        (
            "built from a pinned view",
            built,
            WRITE_MB_PER_S,
            format!("write {}", disk(disk_write)),
        ),
        ("received and checked", receive, Target::None, String::new()),
        (
            "installed",
            install,
            RESTORE_MB_PER_S,
            format!("read {}", disk(disk_read)),
        ),
    ];
    for (what, cost, target, alone) in rows {
        let cells = [
            time(cost.wall.as_secs_f64()),
            time(cost.cpu.as_secs_f64()),
            format!("{:.0}", file as f64 / f64::from(1 << 20)),
            alone,
        ];
        let speed = (mib << 20) as f64 / 1e6 / cost.wall.as_secs_f64();
        report.row(
            &format!("{mib} MiB of {name} {what}"),
            &cells,
            (speed, " MB/s"),
            target,
        );
        let memory = cost.memory as f64 / f64::from(1 << 20);
        let cells = std::array::from_fn::<_, 4, _>(|_| String::new());
        report.row(
            "- memory above what was there before",
            &cells,
            (memory, " MiB"),
            MEMORY_MIB,
        );
    }
    Ok(())
}

/// What something took.
struct Cost {
    wall: Duration,
    /// Of all threads: what it takes from everybody else.
    cpu: Duration,
    /// The peak of the process's resident memory, RocksDB's included, above what it was before.
    memory: u64,
}

fn measured<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    // What was freed before goes back to the system, or it would be taken again unseen.
    // SAFETY: the call has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    let before = reset_peak_memory();
    let cpu = process_cpu();
    let (result, took) = clock(work);
    let cpu = process_cpu() - cpu;
    let memory = process_bytes("VmHWM").saturating_sub(before);
    (
        result,
        Cost {
            wall: took.wall,
            cpu,
            memory,
        },
    )
}

fn key(number: usize) -> String {
    format!("key/{number:016}")
}

fn values(sample: &[u8], mib: usize) -> impl Iterator<Item = (String, &[u8])> {
    let count = (mib << 20) / VALUE_BYTES;
    (0..count)
        .map(key)
        .zip(sample.chunks_exact(VALUE_BYTES).cycle())
}

/// A node in `dir` with one region that has the data, written out into tables.
fn fill(dir: &Path, sample: &[u8], mib: usize) -> Outcome {
    let node = CompositeStorage::open(dir, Config::default())?;
    drop(node.create_region(&Region::single(1, 1))?);
    let mut batch = AppBatch::default();
    for (key, value) in values(sample, mib) {
        batch.put(Keyspace::Data, key, value);
        if batch.bytes() >= 1 << 20 {
            node.app().write(&batch, Durability::Buffered)?;
            batch.clear();
        }
    }
    Ok(node.app().write(&batch, Durability::Synced)?)
}

fn transfer(from: &CompositeStorage, to: &CompositeStorage) -> Outcome {
    let infos = from.snapshots().list(Some(1.into()))?;
    let info = infos.first().ok_or("no snapshot on the leader")?;
    let mut receiver = to.snapshots().receive()?;
    std::io::copy(&mut from.snapshots().send(&info.key)?, &mut receiver)?;
    receiver.commit()?;
    Ok(())
}

fn install(node: &CompositeStorage, snapshot: Snapshot) -> Outcome {
    let mut storage = node.create_uninitialized(1, 1)?;
    Ok(storage.install_snapshot(snapshot)?)
}

/// Whether some of the values have arrived, and the last.
fn check(node: &CompositeStorage, sample: &[u8], mib: usize) -> Outcome {
    let storage = node.open_region(1)?;
    let mut last = None;
    for (number, (key, value)) in values(sample, mib).enumerate() {
        if number % 10_007 == 0 {
            assert_eq!(
                storage.get(key.as_bytes())?.as_deref(),
                Some(value),
                "{key}"
            );
        }
        last = Some((key, value));
    }
    let (key, value) = last.ok_or("nothing was written")?;
    assert_eq!(
        storage.get(key.as_bytes())?.as_deref(),
        Some(value),
        "{key}"
    );
    Ok(())
}
