//! The application's data: point reads, scans and transactions, beside plain RocksDB doing the same.
//!
//! ```text
//! cargo bench --bench data [-- --quick] [--only reads|cold|indexes|transactions] [--dir DIR]
//! ```

mod support;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use peerstore::rocks::{RocksData, RocksOptions, RocksTransactions};
use peerstore::{
    AppBatch, ApplicationDataStorage, DataRead, Durability, Extractor, IndexQuery, IndexedData,
    KeyRange, Keyspace, TransactionalStorage,
};
use rocksdb::{
    Cache, ColumnFamilyDescriptor, DB, OptimisticTransactionDB, OptimisticTransactionOptions,
    ReadOptions, WriteBatch, WriteOptions,
};
use support::raw_rocks::{database, family, table};
use support::table::{Report, Target, spread};
use support::{Args, Outcome, Series, Took, clock, files, noise, take_turns};

const VALUE_BYTES: usize = 256;
/// Of a table of the data.
const BLOCK_BYTES: usize = 16 << 10;
/// Calls under one reading of the clock.
const CALLS: usize = 1_000;
/// What a transaction writes.
const PUTS: usize = 4;
const WRITERS: usize = 16;
const READERS: usize = 8;
/// As many as fill one of 16 KiB, and some more.
const KEYS_PER_BLOCK: usize = 80;

fn main() -> Outcome {
    let args = Args::read()?;
    if args.runs("reads") {
        reads(&args)?;
    }
    if args.runs("cold") {
        cold(&args)?;
    }
    if args.runs("indexes") {
        indexes(&args)?;
    }
    if args.runs("transactions") {
        transactions(&args)?;
        group_fsync(&args)?;
    }
    Ok(())
}

fn key(n: usize) -> [u8; 8] {
    (n as u64).to_be_bytes()
}

/// The keys in an order that has nothing to do with theirs.
fn shuffled(count: usize) -> impl Iterator<Item = usize> + Clone {
    // Without a divisor in common with any count that is used here.
    (0..count).map(move |n| (n * 1_000_003) % count)
}

fn options() -> RocksOptions {
    RocksOptions {
        block_cache_bytes: 256 << 20,
        ..RocksOptions::default()
    }
}

/// The options of the data's column family, by hand.
fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(256 << 20);
    let mut blocks = table(&cache, 16 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    let mut data = family(64 << 20, &blocks);
    data.set_target_file_size_base(64 << 20);
    vec![
        ColumnFamilyDescriptor::new(Keyspace::Data.name(), data),
        ColumnFamilyDescriptor::new("default", family(4 << 20, &table(&cache, 4 << 10))),
    ]
}

fn fill(dir: &Path, count: usize) -> Outcome<RocksData> {
    let data = RocksData::open(dir, &options())?;
    let values = noise(VALUE_BYTES * count);
    let mut batch = AppBatch::new();
    for (n, value) in values.chunks(VALUE_BYTES).enumerate() {
        batch.put(Keyspace::Data, key(n), value);
        if n % 1_000 == 999 {
            data.write(&batch, Durability::Buffered)?;
            batch.clear();
        }
    }
    data.write(&batch, Durability::Synced)?;
    data.compact(&KeyRange::all());
    Ok(data)
}

fn fill_raw(dir: &Path, count: usize) -> Outcome<DB> {
    let db = DB::open_cf_descriptors(&database(), dir, families())?;
    {
        let data = db.cf_handle(Keyspace::Data.name()).ok_or("no family")?;
        let values = noise(VALUE_BYTES * count);
        for (first, chunk) in (0..).step_by(1_000).zip(values.chunks(1_000 * VALUE_BYTES)) {
            let mut batch = WriteBatch::default();
            for (n, value) in (first..).zip(chunk.chunks(VALUE_BYTES)) {
                batch.put_cf(data, key(n), value);
            }
            db.write(batch)?;
        }
        db.flush_cf(data)?;
        db.compact_range_cf(data, None::<&[u8]>, None::<&[u8]>);
    }
    Ok(db)
}

fn compared(report: &mut Report, what: &str, series: &[Series], calls: f64, target: Target) {
    let per_call = |series: &Series| spread(&series.wall.each_of(calls));
    let cells = [per_call(&series[0]), per_call(&series[1])];
    let ratio = series[1].wall.median() / series[0].wall.median();
    report.row(what, &cells, (ratio, " x"), target);
}

fn gets(data: &RocksData, order: impl Iterator<Item = usize>) -> Outcome<Took> {
    let (result, took) = clock(|| -> Outcome {
        for n in order {
            black_box(data.get(Keyspace::Data, &key(n))?.ok_or("missing")?);
        }
        Ok(())
    });
    result.map(|()| took)
}

fn reads(args: &Args) -> Outcome {
    let count = args.pick(20_000, 200_000);
    let (ours_dir, raw_dir) = (args.memory()?, args.memory()?);
    let (ours, raw) = (
        fill(ours_dir.path(), count)?,
        fill_raw(raw_dir.path(), count)?,
    );
    let family = raw.cf_handle(Keyspace::Data.name()).ok_or("no family")?;
    let mut report = Report::new(
        "reads of cached data, in memory, per call",
        &["RocksDB", "ours"],
    );
    let (mut order, mut raw_order) = (shuffled(count).cycle(), shuffled(count).cycle());
    let taken = take_turns(
        args.pick(20, 300),
        &mut [
            &mut || {
                let (result, took) = clock(|| -> Outcome {
                    for n in raw_order.by_ref().take(CALLS) {
                        black_box(raw.get_cf(family, key(n))?.ok_or("missing")?);
                    }
                    Ok(())
                });
                result.map(|()| took)
            },
            &mut || gets(&ours, order.by_ref().take(CALLS)),
        ],
    )?;
    compared(
        &mut report,
        "get",
        &taken,
        CALLS as f64,
        Target::AtMost(1.1),
    );
    let latency_ms = taken[1].wall.median() / CALLS as f64 * 1e3;
    let cells = [String::new(), String::new()];
    report.row(
        "get, cached",
        &cells,
        (latency_ms, " ms"),
        Target::AtMost(1.0),
    );

    scans(args, &mut report, &ours, &raw, count / 4)?;
    report.print();
    Ok(())
}

fn scans(args: &Args, report: &mut Report, ours: &RocksData, raw: &DB, first: usize) -> Outcome {
    let range = KeyRange::new(key(first), key(first + 10_000));
    let scans = take_turns(
        args.pick(5, 100),
        &mut [&mut || scan_raw(raw, &range), &mut || {
            let mut bytes = 0;
            let (result, took) = clock(|| {
                ours.scan(Keyspace::Data, &range, &mut |key, value| {
                    bytes += black_box(key).len() + black_box(value).len();
                    Ok(ControlFlow::Continue(()))
                })
            });
            result?;
            assert_eq!(bytes, 10_000 * (8 + VALUE_BYTES));
            Ok(took)
        }],
    )?;
    compared(report, "scan, a key", &scans, 10_000.0, Target::AtMost(1.1));
    let bytes = 10_000.0 * (8.0 + VALUE_BYTES as f64);
    let speed = bytes / 1e6 / scans[1].wall.median();
    let cells = [String::new(), String::new()];
    report.row("scan", &cells, (speed, " MB/s"), Target::AtLeast(100.0));
    Ok(())
}

fn scan_raw(raw: &DB, range: &KeyRange) -> Outcome<Took> {
    let family = raw.cf_handle(Keyspace::Data.name()).ok_or("no family")?;
    let mut bytes = 0;
    let (result, took) = clock(|| {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(range.end.as_slice());
        let mut items = raw.raw_iterator_cf_opt(family, options);
        items.seek(&range.start);
        while let Some((key, value)) = items.item() {
            bytes += black_box(key).len() + black_box(value).len();
            items.next();
        }
        items.status()
    });
    result?;
    assert_eq!(bytes, 10_000 * (8 + VALUE_BYTES));
    Ok(took)
}

fn cold(args: &Args) -> Outcome {
    let count = args.pick(20_000, 400_000);
    // One key of each block at most, so that no read finds what another has brought.
    let blocks = count / KEYS_PER_BLOCK;
    let mut report = Report::new("point reads after an open, nothing cached, on disk", &[]);
    for readers in [1, READERS] {
        let dir = args.disk()?;
        drop(fill(dir.path(), count)?);
        files::forget(dir.path())?;
        let data = RocksData::open(dir.path(), &options())?;
        files::forget(dir.path())?;
        let started = Instant::now();
        let read = |reader| {
            let own = shuffled(blocks).filter(move |n| n % readers == reader);
            gets(&data, own.map(|n| n * KEYS_PER_BLOCK)).map_err(|e| e.to_string())
        };
        let read = &read;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..readers)
                .map(|reader| scope.spawn(move || read(reader)))
                .collect();
            for thread in threads {
                thread.join().map_err(|_| "a reader panicked")??;
            }
            Outcome::Ok(())
        })?;
        let speed = blocks as f64 / started.elapsed().as_secs_f64();
        let mib = (count * (8 + VALUE_BYTES)) >> 20;
        let what = format!("{blocks} gets of {mib} MiB, {readers} threads");
        let target = match readers {
            READERS => Target::AtLeast(10_000.0),
            _ => Target::None,
        };
        report.row(&what, &[], (speed, "/s"), target);
        drop(data);
        let alone = files::random_reads(dir.path(), BLOCK_BYTES, blocks, readers)?;
        let what = format!("- blocks of {BLOCK_BYTES} B without us, {readers} threads");
        report.row(&what, &[], (alone, "/s"), Target::None);
    }
    report.print();
    Ok(())
}

/// Queries by an index, and what an index costs a write.
fn indexes(args: &Args) -> Outcome {
    let count = args.pick(5_000, 100_000);
    let last_byte: Extractor = Arc::new(|key, _| vec![key[key.len() - 2..].to_vec()]);
    let dirs = (args.memory()?, args.memory()?);
    let plain = RocksData::open(dirs.0.path(), &options())?;
    let indexed = Arc::new(RocksData::open(dirs.1.path(), &options())?);
    let indexed = IndexedData::open(indexed, [("end", last_byte)])?;
    indexed.create_index("end")?;
    let value = noise(VALUE_BYTES);
    let took = [
        written(&plain, count, &value)?,
        written(&indexed, count, &value)?,
    ];
    let mut report = Report::new("a secondary index, in memory", &[]);
    let [plain, with_index] = took.map(|took| took / count as f64 * 1e6);
    report.row("a put, 100 a batch", &[], (plain, " us"), Target::None);
    report.row(
        "the same with an index",
        &[],
        (with_index, " us"),
        Target::None,
    );
    let queries = args.pick(200, 5_000);
    let (found, took) = clock(|| -> Outcome<usize> {
        let mut found = 0;
        for n in shuffled(queries) {
            let term = &key(n % count)[6..];
            let page = indexed.query("end", &IndexQuery::exact(term).limit(10))?;
            found += page.pairs.len();
        }
        Ok(found)
    });
    let speed = queries as f64 / took.wall.as_secs_f64();
    let what = format!(
        "queries of one term, {:.0} keys each",
        found? as f64 / queries as f64
    );
    report.row(&what, &[], (speed, "/s"), Target::AtLeast(10_000.0));
    report.print();
    Ok(())
}

/// Writes `count` keys; how many seconds that takes.
fn written(data: &dyn ApplicationDataStorage, count: usize, value: &[u8]) -> Outcome<f64> {
    let (result, took) = clock(|| -> Outcome {
        let mut batch = AppBatch::new();
        for n in 0..count {
            batch.put(Keyspace::Data, key(n), value);
            if n % 100 == 99 {
                data.write(&batch, Durability::Buffered)?;
                batch.clear();
            }
        }
        Ok(())
    });
    result?;
    Ok(took.wall.as_secs_f64())
}

fn transactions(args: &Args) -> Outcome {
    let value = noise(VALUE_BYTES);
    let title = "a transaction: 2 reads for update, 4 puts of 256 B, commit";
    let mut report = Report::new(title, &["RocksDB", "ours"]);
    for (what, is_synced) in [("in memory", false), ("on disk, synced", true)] {
        let dirs = match is_synced {
            true => (args.disk()?, args.disk()?),
            false => (args.memory()?, args.memory()?),
        };
        let ours = RocksTransactions::open(dirs.0.path(), &options())?;
        let raw: OptimisticTransactionDB =
            OptimisticTransactionDB::open_cf_descriptors(&database(), dirs.1.path(), families())?;
        let calls = if is_synced { 10 } else { CALLS };
        let durability = match is_synced {
            true => Durability::Synced,
            false => Durability::Buffered,
        };
        let (mut next, mut raw_next) = (0, 0);
        let series = take_turns(
            args.pick(10, 100),
            &mut [
                &mut || raw_transactions(&raw, &mut raw_next, calls, is_synced, &value),
                &mut || {
                    let (result, took) = clock(|| -> Outcome {
                        for _ in 0..calls {
                            let mut transaction = ours.begin_write_transaction(durability)?;
                            for n in 0..2 {
                                transaction.read_for_update(&key(next / 2 + n))?;
                            }
                            for n in 0..PUTS {
                                transaction.put(&key(next + n), &value)?;
                            }
                            transaction.commit()?;
                            next += PUTS;
                        }
                        Ok(())
                    });
                    result.map(|()| took)
                },
            ],
        )?;
        compared(
            &mut report,
            what,
            &series,
            calls as f64,
            Target::AtMost(1.2),
        );
    }
    report.print();
    Ok(())
}

fn raw_transactions(
    raw: &OptimisticTransactionDB,
    next: &mut usize,
    calls: usize,
    is_synced: bool,
    value: &[u8],
) -> Outcome<Took> {
    let family = raw.cf_handle(Keyspace::Data.name()).ok_or("no family")?;
    let (result, took) = clock(|| -> Outcome {
        for _ in 0..calls {
            let (mut write, mut begin) = (
                WriteOptions::default(),
                OptimisticTransactionOptions::default(),
            );
            write.set_sync(is_synced);
            begin.set_snapshot(true);
            let transaction = raw.transaction_opt(&write, &begin);
            for n in 0..2 {
                let snapshot = transaction.snapshot();
                let mut options = ReadOptions::default();
                options.set_snapshot(&snapshot);
                let key = key(*next / 2 + n);
                black_box(transaction.get_for_update_cf_opt(family, key, true, &options)?);
            }
            for n in 0..PUTS {
                transaction.put_cf(family, key(*next + n), value)?;
            }
            transaction.commit()?;
            *next += PUTS;
        }
        Ok(())
    });
    result.map(|()| took)
}

/// Many writers that share fsyncs.
fn group_fsync(args: &Args) -> Outcome {
    let dir = args.disk()?;
    let data = RocksTransactions::open(dir.path(), &options())?;
    let (value, done) = (noise(VALUE_BYTES), AtomicU64::new(0));
    let length = Duration::from_millis(args.pick(300, 3_000) as u64);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (data, value, done) = (&data, &value, &done);
                scope.spawn(move || -> peerstore::Result<()> {
                    for n in 0.. {
                        if started.elapsed() > length {
                            break;
                        }
                        let mut transaction = data.begin_write_transaction(Durability::Synced)?;
                        for put in 0..PUTS {
                            let key = [key(writer), key(n * PUTS + put)].concat();
                            transaction.put(&key, value)?;
                        }
                        transaction.commit()?;
                        done.fetch_add(1, Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let results = writers.into_iter().map(|writer| writer.join());
        for result in results {
            result.map_err(|_| "a writer panicked")??;
        }
        Outcome::Ok(())
    })?;
    let speed = done.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
    let mut report = Report::new("synced transactions that share fsyncs, on disk", &[]);
    let what = format!("{WRITERS} writers, {PUTS} puts of {VALUE_BYTES} B each");
    report.row(&what, &[], (speed, "/s"), Target::AtLeast(1_000.0));
    let alone = files::syncs(dir.path(), args.pick(100, 1_000))?;
    report.row(
        "- 1 KiB appended and synced without us, 1 thread",
        &[],
        (alone, "/s"),
        Target::None,
    );
    report.print();
    Ok(())
}
