//! What is measured, each in a process of its own. Uses: the engines.

use std::path::Path;
use std::time::{Duration, Instant};

use raft::eraftpb::Entry;

use crate::engines::{Engine, Outcome, Write, open};

/// How long a part writes.
const WRITE_FOR: Duration = Duration::from_millis(1_500);
const READS: u64 = 20_000;
const REGIONS: u64 = 64;

/// A part: its name, its unit and its two numbers.
pub struct Part {
    pub name: &'static str,
    pub unit: &'static str,
    pub threads: usize,
    pub bytes: usize,
}

const fn part(name: &'static str, unit: &'static str, threads: usize, bytes: usize) -> Part {
    Part {
        name,
        unit,
        threads,
        bytes,
    }
}

pub const PARTS: [Part; 21] = [
    part("sync", "writes/s", 1, 256),
    part("sync", "writes/s", 1, 1024),
    part("sync", "writes/s", 1, 16384),
    part("sync", "writes/s", 8, 256),
    part("sync", "writes/s", 32, 256),
    part("sync", "writes/s", 128, 256),
    part("sync", "writes/s", 8, 1024),
    part("stall", "ms", 1, 16384),
    part("tickets", "writes/s", 32, 256),
    part("tickets", "writes/s", 128, 256),
    part("log-bytes", "bytes per payload byte", 1, 256),
    part("log-bytes", "bytes per payload byte", 64, 256),
    part("cpu", "ns per entry", 1, 256),
    part("cpu", "ns per entry", 64, 256),
    part("warm-one", "us", 64, 256),
    part("ring-one", "us", 64, 256),
    part("warm-chunk", "MiB/s", 64, 1024),
    part("read-amp", "bytes per payload byte", 64, 256),
    part("open", "ms", 4, 256),
    part("open-bytes", "percent read", 4, 256),
    part("memory", "bytes of RSS per entry", 10, 8),
];

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(|_| next()).collect()
}

struct Source {
    noise: Vec<u8>,
    bytes: usize,
}

impl Source {
    fn new(bytes: usize) -> Self {
        Source {
            noise: noise((1 << 20) + bytes),
            bytes,
        }
    }

    fn entry(&self, region: u64, index: u64) -> Entry {
        // No two of a batch are alike, or it would compress.
        let place = index.wrapping_mul(7919) + region.wrapping_mul(15_485_863);
        let at = place as usize % (1 << 20);
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 6);
        entry.data = self.noise[at..at + self.bytes].to_vec().into();
        entry
    }

    fn write(&self, region: u64, low: u64, count: u64) -> Write {
        Write {
            region,
            entries: (low..low + count)
                .map(|index| self.entry(region, index))
                .collect(),
        }
    }
}

/// Runs a part over one engine in `dir` and returns its figure.
pub fn run(part: &Part, engine: &str, dir: &Path) -> Outcome<f64> {
    let source = Source::new(part.bytes);
    let opened = || open(engine, dir);
    match part.name {
        "sync" => sync(&*opened()?, &source, part.threads).map(|figures| figures.0),
        "stall" => sync(&*opened()?, &source, part.threads).map(|figures| figures.1),
        "tickets" => tickets(&*opened()?, &source, part.threads as u64),
        "log-bytes" => log_bytes(&*opened()?, &source, part.threads as u64),
        "cpu" => cpu(&*opened()?, &source, part.threads as u64),
        "warm-one" | "ring-one" => {
            let engine = opened()?;
            let count = fill(&*engine, &source, 1_000)?;
            one(&*engine, count, part.name == "ring-one")
        }
        "warm-chunk" => chunks(&*opened()?, &source, dir, false),
        "read-amp" => chunks(&*opened()?, &source, dir, true),
        "open" | "open-bytes" => reopen(engine, &source, dir, part.name == "open"),
        "memory" => memory(&*opened()?, &source, part.threads as u64),
        other => Err(format!("no part {other}").into()),
    }
}

/// Writes a second, and the longest wait in milliseconds.
fn sync(engine: &dyn Engine, source: &Source, threads: usize) -> Outcome<(f64, f64)> {
    let begin = Instant::now();
    let counts = std::thread::scope(|scope| {
        let write = |region: u64| {
            scope.spawn(move || -> Outcome<(u64, Duration)> {
                let (mut index, mut longest) = (1, Duration::ZERO);
                while begin.elapsed() < WRITE_FOR {
                    let start = Instant::now();
                    engine.write(&[source.write(region, index, 1)], true)?;
                    longest = longest.max(start.elapsed());
                    index += 1;
                }
                Ok((index - 1, longest))
            })
        };
        let running: Vec<_> = (1..=threads as u64).map(write).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        running.into_iter().map(join).collect::<Outcome<Vec<_>>>()
    })?;
    let took = begin.elapsed().as_secs_f64();
    let (writes, syncs) = engine.counts();
    if syncs > 0 {
        eprintln!(
            "{threads} threads: {:.1} writes per fsync",
            writes as f64 / syncs as f64
        );
    }
    let written: u64 = counts.iter().map(|(count, _)| count).sum();
    let longest = counts.iter().map(|(_, longest)| *longest).max();
    let longest = longest.unwrap_or_default().as_secs_f64() * 1e3;
    Ok((written as f64 / took, longest))
}

fn tickets(engine: &dyn Engine, source: &Source, together: u64) -> Outcome<f64> {
    let (begin, mut index) = (Instant::now(), 1);
    while begin.elapsed() < WRITE_FOR {
        let groups = (1..=together).map(|region| vec![source.write(region, index, 1)]);
        engine.write_together(&groups.collect::<Vec<_>>())?;
        index += 1;
    }
    Ok(((index - 1) * together) as f64 / begin.elapsed().as_secs_f64())
}

/// What the process has handed to `write` calls.
fn io(name: &str) -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .ok_or("no such counter")?
        .trim_start_matches(':')
        .trim()
        .parse()?)
}

/// Where the log's own frames can be told from what fills pages, the engine says; else the kernel.
fn log_bytes(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    let rounds = 2_000;
    let written = || {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(match engine.log_bytes() {
            Some(bytes) => bytes as f64,
            None => io("wchar")?,
        })
    };
    let before = written()?;
    for index in 1..=rounds {
        let writes = (1..=regions).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    let payload = (rounds * regions) as f64 * (source.bytes + 10) as f64;
    Ok((written()? - before) / payload)
}

fn cpu_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of this frame; the call has no other effect.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn cpu(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    let rounds = 100_000 / regions;
    let mut spent = 0.0;
    for index in 1..=rounds {
        let writes: Vec<_> = (1..=regions).map(|r| source.write(r, index, 1)).collect();
        let start = cpu_time();
        engine.write(&writes, false)?;
        spent += cpu_time() - start;
    }
    Ok(spent * 1e9 / (rounds * regions) as f64)
}

/// Writes batches over all regions; returns how many entries each has.
fn fill(engine: &dyn Engine, source: &Source, rounds: u64) -> Outcome<u64> {
    for index in 1..=rounds {
        let writes = (1..=REGIONS).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok(rounds)
}

fn one(engine: &dyn Engine, count: u64, newest: bool) -> Outcome<f64> {
    let mut at = 1u64;
    let start = Instant::now();
    for _ in 0..READS {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // The newest tenth is in memory, where there is a place for it.
        let index = match newest {
            true => count - (at >> 33) % (count / 10),
            false => 1 + (at >> 33) % (count / 2),
        };
        if engine.read(1 + (at >> 50) % REGIONS, index..index + 1)? == 0 {
            return Err(format!("entry {index} is empty").into());
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / READS as f64)
}

fn chunks(engine: &dyn Engine, source: &Source, dir: &Path, cold: bool) -> Outcome<f64> {
    // In chunks of 64 entries a batch, for as many regions.
    let rounds = 40;
    for round in 0..rounds {
        let writes = (1..=REGIONS).map(|region| source.write(region, 1 + round * 64, 64));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    if cold {
        forget(dir)?;
    }
    let (before, mut bytes) = (io("rchar")?, 0);
    let start = Instant::now();
    for region in 1..=REGIONS {
        for round in 0..rounds / 2 {
            let low = 1 + round * 64;
            bytes += engine.read(region, low..low + 64)?;
        }
    }
    let took = start.elapsed().as_secs_f64();
    Ok(match cold {
        true => (io("rchar")? - before) / bytes as f64,
        false => bytes as f64 / took / f64::from(1 << 20),
    })
}

/// Lets the kernel forget the files of `dir`.
fn forget(dir: &Path) -> Outcome {
    use std::os::fd::AsRawFd as _;
    for entry in std::fs::read_dir(dir)? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        // SAFETY: the descriptor is open; the call is advice about its pages only.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

/// Opens a gigabyte that a process left that was killed.
fn reopen(engine: &str, source: &Source, dir: &Path, time: bool) -> Outcome<f64> {
    let batches = std::env::var("COMPARE_MIB")
        .ok()
        .and_then(|mib| mib.parse().ok());
    let batches: u64 = batches.unwrap_or(256) * 1024;
    if !dir.exists() {
        let child = std::process::Command::new(std::env::current_exe()?)
            .args(["fill", engine, &dir.to_string_lossy(), &batches.to_string()])
            .status()?;
        // It kills itself.
        let _ = child;
    }
    forget(dir)?;
    let _ = source;
    let (before, start) = (io("rchar")?, Instant::now());
    let opened = open(engine, dir)?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    let read = io("rchar")? - before;
    if opened.read(1, 1..5)? != 4 * 256 {
        return Err("the first entries are not there".into());
    }
    Ok(match time {
        true => took,
        false => read * 100.0 / (batches * 1024) as f64,
    })
}

/// Fills `dir` and is killed.
pub fn fill_and_die(engine: &str, dir: &Path, batches: u64) -> Outcome {
    let (engine, source) = (open(engine, dir)?, Source::new(256));
    for at in 0..batches {
        let (region, round) = (1 + at % 100, at / 100);
        engine.write(&[source.write(region, 1 + round * 4, 4)], at + 1 == batches)?;
    }
    // SAFETY: it is this process that is killed.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    Ok(())
}

fn rss() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split(' ').nth(1).ok_or("no RSS")?.parse()?;
    Ok(pages * 4096.0)
}

/// Millions of entries, ten to a batch over ten regions.
fn memory(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    let million = std::env::var("COMPARE_MILLION")
        .ok()
        .and_then(|m| m.parse().ok());
    let count: u64 = million.unwrap_or(3) * 1_000_000;
    let before = rss()?;
    for index in 1..=count / regions {
        let writes = (1..=regions).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok((rss()? - before) / count as f64)
}
