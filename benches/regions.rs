//! What ten thousand regions cost: to open, to keep idle, and what their entry caches hold together.
//!
//! ```text
//! cargo bench --bench regions [-- --quick] [-- --only idle|cache]
//! ```

#[path = "support/heap.rs"]
mod heap;
mod support;

use std::path::Path;

use peerstore::{CompositeStorage, Config, Durability, KeyRange, PeerId, PeerStorage, Region};
use raft::eraftpb::Entry;
use support::table::{Report, Target, time};
use support::{Args, Outcome, Samples, clock, noise, process_bytes};

#[global_allocator]
static HEAP: heap::Counted = heap::Counted;

/// An idle region may cost less than this.
const IDLE_BYTES_MAX: f64 = 2048.0;
const CACHE_BYTES: u64 = 64 << 20;

fn main() -> Outcome {
    let args = Args::read()?;
    let many = args.pick(1_000, 10_000) as u64;
    if args.runs("idle") {
        let title = "opening regions, and what an idle one costs";
        let columns = [
            "regions",
            "create each",
            "open the node",
            "open a region: median",
            "99 %",
            "resident, each",
        ];
        let mut report = Report::new(title, &columns);
        idle(&mut report, args.disk()?.path(), many, "on the disk")?;
        if !args.quick {
            idle(&mut report, args.memory()?.path(), 10 * many, "in memory")?;
        }
        report.print();
    }
    if args.runs("cache") {
        let title = "entry caches under one budget of 64 MiB";
        let mut report = Report::new(title, &["regions", "appended", "held by the heap"]);
        for (what, skew) in [("even", 1), ("one region in 100 gets 50 times as much", 50)] {
            cache(&mut report, args.memory()?.path(), many, what, skew)?;
        }
        report.print();
    }
    Ok(())
}

/// Without fsyncs, so that setting up ten thousand regions does not take minutes.
fn config() -> Config {
    Config {
        durability: Durability::Buffered,
        store_id: 1,
        entry_cache_bytes: CACHE_BYTES,
        ..Config::default()
    }
}

/// A region with a range of its own and three peers, of which the first is this node's.
fn region(id: u64) -> Region {
    let range = KeyRange::new(id.to_be_bytes(), (id + 1).to_be_bytes());
    let voters = [1, 2, 3].map(|store| (PeerId(3 * id + store), store));
    Region::with_voters(id, range, voters)
}

fn entries(storage: &PeerStorage, count: u64, data: &[u8]) -> Vec<Entry> {
    let last = storage.last_position().index;
    let entry = |index| {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 6);
        entry.data = data.to_vec().into();
        entry
    };
    (last + 1..=last + count).map(entry).collect()
}

fn idle(report: &mut Report, dir: &Path, many: u64, place: &str) -> Outcome {
    let node = CompositeStorage::open(dir, config())?;
    let data = noise(256);
    let (created, create) = clock(|| -> Outcome {
        for id in 1..=many {
            let mut storage = node.create_region(&region(id))?;
            storage.append(&entries(&storage, 2, &data))?;
        }
        Ok(())
    });
    created?;
    drop(node);
    let (node, open) = clock(|| CompositeStorage::open(dir, config()));
    let node = node?;
    let mut opened = Samples::default();
    for id in 1..=many {
        let (storage, took) = clock(|| node.open_region(id));
        opened.push(took.wall);
        drop(storage?);
    }
    // Now that RocksDB has read everything once, what is taken is the regions'.
    let (held, resident) = (heap::held_bytes(), process_bytes("VmRSS"));
    let mut regions = Vec::with_capacity(many as usize);
    for id in 1..=many {
        regions.push(node.open_region(id)?);
    }
    let each = |bytes: u64| bytes as f64 / many as f64;
    let held = each((heap::held_bytes() - held) as u64);
    let resident = each(process_bytes("VmRSS").saturating_sub(resident));
    let cells = [
        many.to_string(),
        time(create.wall.as_secs_f64() / many as f64),
        time(open.wall.as_secs_f64()),
        time(opened.median()),
        time(opened.quantile(0.99)),
        format!("{resident:.0} B"),
    ];
    let what = format!("an idle region, {place}");
    report.row(&what, &cells, (held, " B"), Target::AtMost(IDLE_BYTES_MAX));
    drop(regions);
    Ok(())
}

fn cache(report: &mut Report, dir: &Path, many: u64, what: &str, skew: u64) -> Outcome {
    let node = CompositeStorage::open(dir, config())?;
    let mut regions: Vec<PeerStorage> = (1..=many)
        .map(|id| node.create_region(&region(id)))
        .collect::<Result<_, _>>()?;
    let data = noise(256);
    let (before, mut most_bytes, mut most_held, mut appended) = (heap::held_bytes(), 0, 0, 0);
    let rounds = 3 * CACHE_BYTES / (many * 256);
    for _ in 0..rounds {
        for (number, storage) in regions.iter_mut().enumerate() {
            let busy = number % 100 == 0;
            let count = if busy { skew } else { 1 };
            storage.append(&entries(storage, count, &data))?;
            appended += count * 256;
            most_bytes = most_bytes.max(node.cache_stats().bytes);
            most_held = most_held.max(heap::held_bytes().saturating_sub(before));
        }
    }
    let cells = [
        many.to_string(),
        format!("{} MiB", appended >> 20),
        format!("{:.1} MiB", most_held as f64 / f64::from(1 << 20)),
    ];
    let share = 100.0 * most_bytes as f64 / CACHE_BYTES as f64;
    let what = format!("the most seen, of the budget; {what}");
    report.row(&what, &cells, (share, " %"), Target::AtMost(110.0));
    Ok(())
}
