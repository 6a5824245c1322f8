//! What `persist` and `apply` cost beside one RocksDB batch of the same bytes, and how often they sync.
//!
//! ```text
//! cargo bench --bench persist [-- --quick] [-- --only disk|memory|apply|syncs]
//! ```

mod support;

use std::path::Path;

use peerstore::{CompositeStorage, Config, Region};
use raft::eraftpb::Entry;
use support::raft_node::RaftNode;
use support::raw_rocks::RawRocks;
use support::table::{Report, Target, spread, time};
use support::{Args, Outcome, Took, clock, noise, take_turns};

/// The bytes of an entry, and the entries of a Ready.
const SHAPES: [(usize, usize); 6] = [
    (256, 1),
    (256, 64),
    (1 << 10, 1),
    (1 << 10, 64),
    (16 << 10, 1),
    (16 << 10, 64),
];
/// The most that a `persist` may take, against the batch alone.
const RATIO_MAX: f64 = 1.15;

fn main() -> Outcome {
    let args = Args::read()?;
    if args.runs("syncs") {
        syncs(&args)?;
    }
    if args.runs("disk") {
        let title = "persist on the disk, against one synced RocksDB batch of the same bytes";
        compare(&args, args.disk()?.path(), title, Target::AtMost(RATIO_MAX))?;
    }
    if args.runs("memory") {
        let title = "persist in memory (no fsync to hide behind), against the same batch";
        compare(&args, args.memory()?.path(), title, Target::None)?;
    }
    if args.runs("apply") {
        apply(&args)?;
    }
    Ok(())
}

/// Counts fsyncs: of Readies with entries, and of those that only move the commit.
fn syncs(args: &Args) -> Outcome {
    let dir = args.disk()?;
    let mut ours = RaftNode::start(dir.path())?;
    let rounds = args.pick(20, 200);
    let payload = noise(256);
    let (mut of_entries, mut of_commits) = (0, 0);
    for _ in 0..rounds {
        let mut ready = ours.propose(1, &payload)?;
        let before = ours.node.log_stats().syncs;
        ours.raft.mut_store().persist(&mut ready)?;
        let between = ours.node.log_stats().syncs;
        ours.done(ready);
        ours.commit()?;
        of_entries += between - before;
        of_commits += ours.node.log_stats().syncs - between;
    }
    let mut report = Report::new("fsyncs, as RocksDB counts them", &["Readies"]);
    let each = |syncs: u64| (syncs as f64 / rounds as f64, " each");
    let cells = [rounds.to_string()];
    report.row(
        "Ready with entries",
        &cells,
        each(of_entries),
        Target::AtMost(1.0),
    );
    report.row(
        "Ready with entries",
        &cells,
        each(of_entries),
        Target::AtLeast(1.0),
    );
    report.row(
        "Ready that moves the commit",
        &cells,
        each(of_commits),
        Target::AtMost(0.0),
    );
    report.print();
    Ok(())
}

/// Ours, RocksDB alone, and RocksDB with the mark, in turns.
fn compare(args: &Args, dir: &Path, title: &'static str, target: Target) -> Outcome {
    let columns = [
        "RocksDB",
        "+ mark",
        "persist",
        "our CPU on top",
        "mark / RocksDB",
    ];
    let mut report = Report::new(title, &columns);
    for (bytes, count) in SHAPES {
        let large = bytes * count > 100 << 10;
        let rounds = args.pick(10, if large { 150 } else { 600 });
        let payload = noise(bytes);
        let dir = tempfile::tempdir_in(dir)?;
        let mut ours = RaftNode::start(&dir.path().join("ours"))?;
        let mut plain = RawRocks::open(&dir.path().join("plain"), false)?;
        let mut marked = RawRocks::open(&dir.path().join("marked"), true)?;
        let series = take_turns(
            rounds,
            &mut [
                &mut || plain.write(count, &payload),
                &mut || marked.write(count, &payload),
                &mut || ours.write(count, &payload),
            ],
        )?;
        let [plain, marked, ours] = &series[..] else {
            return Err("three contenders, three series".into());
        };
        let cpu = ours.cpu.median() - plain.cpu.median();
        let cells = [
            spread(&plain.wall),
            spread(&marked.wall),
            spread(&ours.wall),
            time(cpu.max(0.0)),
            format!("{:.2}", marked.wall.median() / plain.wall.median()),
        ];
        let ratio = ours.wall.median() / plain.wall.median();
        report.row(
            &format!("{count} x {bytes} B"),
            &cells,
            (ratio, " x"),
            target,
        );
    }
    report.print();
    Ok(())
}

/// Applied entries, each of which puts its data, in memory and without fsyncs as `apply` does.
fn apply(args: &Args) -> Outcome {
    let title = "apply in memory, against one RocksDB batch of the same puts";
    let mut report = Report::new(title, &["RocksDB", "apply", "our CPU on top"]);
    for (bytes, count) in SHAPES {
        let rounds = args.pick(10, if bytes * count > 100 << 10 { 100 } else { 400 });
        let payload = noise(bytes);
        let dir = args.memory()?;
        let node = CompositeStorage::open(dir.path().join("ours"), Config::default())?;
        let mut storage = node.create_region(&Region::single(1, 1))?;
        let mut plain = RawRocks::open_data(&dir.path().join("plain"))?;
        let mut ours = || -> Outcome<Took> {
            let low = storage.applied_index() + 1;
            let entry = |index| {
                let mut entry = Entry::default();
                (entry.term, entry.index) = (6, index);
                entry.data = payload.clone().into();
                entry
            };
            let entries: Vec<Entry> = (low..low + count as u64).map(entry).collect();
            storage.append(&entries)?;
            let (applied, took) = clock(|| {
                storage.apply(&entries, |entry, batch| {
                    batch.put(entry.index.to_be_bytes(), &entry.data);
                    Ok(())
                })
            });
            applied?;
            Ok(took)
        };
        let series = take_turns(
            rounds,
            &mut [&mut || plain.write_data(count, &payload), &mut ours],
        )?;
        let cpu = series[1].cpu.median() - series[0].cpu.median();
        let (plain, ours) = (&series[0].wall, &series[1].wall);
        let cells = [spread(plain), spread(ours), time(cpu.max(0.0))];
        let ratio = ours.median() / plain.median();
        report.row(
            &format!("{count} x {bytes} B"),
            &cells,
            (ratio, " x"),
            Target::None,
        );
    }
    report.print();
    Ok(())
}
