//! What is measured, each in a process of its own. Uses: the engines.

mod memory;
mod reads;
mod recovery;
mod soak;
mod writes;

use std::path::Path;
use std::time::Duration;

use raft::eraftpb::Entry;

use crate::engines::{Engine, Outcome, Write, open};

pub use recovery::fill_and_die;

const REGIONS: u64 = 64;
/// Writes come so often where all engines are given the same load: less than half of what any can take.
const PACE: Option<Duration> = Some(Duration::from_millis(2));

/// A part: its name, its unit and its two numbers, and what it is to come to.
pub struct Part {
    pub name: &'static str,
    pub unit: &'static str,
    pub threads: usize,
    pub bytes: usize,
    pub aims: &'static [Aim],
}

/// What the figure of the append-only log is to be.
#[derive(Clone, Copy)]
pub enum Aim {
    /// So many times what another has.
    AtLeast(f64, &'static str),
    AtMost(f64, &'static str),
    /// In the part's own unit.
    Above(f64),
    Below(f64),
}

use Aim::{Above, AtLeast, AtMost, Below};

const fn part(name: &'static str, unit: &'static str, threads: usize, bytes: usize) -> Part {
    Part {
        name,
        unit,
        threads,
        bytes,
        aims: &[],
    }
}

impl Part {
    const fn aims(mut self, aims: &'static [Aim]) -> Part {
        self.aims = aims;
        self
    }
}

const RAFT: &str = "raft-engine";
const ROCKS: &str = "rocksdb";
const RAW: &str = "raw";
const AS_FAST: &[Aim] = &[AtLeast(1.0, RAFT)];
const SHARED: &[Aim] = &[AtLeast(1.5, RAFT), AtLeast(3.0, ROCKS)];
const TOGETHER: &[Aim] = &[AtLeast(3.0, RAFT), AtLeast(0.8, RAW)];
const HALF: &[Aim] = &[AtMost(0.5, RAFT)];
const CHEAP: &[Aim] = &[AtMost(0.7, RAFT)];

pub const PARTS: &[Part] = &[
    part("sync", "writes/s", 1, 256).aims(AS_FAST),
    part("sync", "writes/s", 1, 1024).aims(AS_FAST),
    part("sync", "writes/s", 1, 16384),
    part("sync", "writes/s", 8, 256).aims(SHARED),
    part("sync", "writes/s", 32, 256).aims(SHARED),
    part("sync", "writes/s", 128, 256).aims(SHARED),
    part("sync", "writes/s", 8, 1024),
    part("tickets", "writes/s", 32, 256).aims(TOGETHER),
    part("tickets", "writes/s", 128, 256).aims(TOGETHER),
    part("rotation", "writes/s", 1, 65536).aims(&[AtLeast(1.2, RAFT)]),
    part("rotation-longest", "ms", 1, 65536),
    part("paced-p999", "ms", 1, 65536).aims(HALF),
    part("paced-longest", "ms", 1, 65536).aims(HALF),
    part("log-bytes", "bytes per payload byte", 1, 256).aims(&[Below(1.10)]),
    part("log-bytes", "bytes per payload byte", 64, 256).aims(&[Below(1.06)]),
    part("cpu", "ns per entry", 1, 256).aims(CHEAP),
    part("cpu", "ns per entry", 64, 256).aims(CHEAP),
    part("warm-one", "us", 64, 256).aims(&[Below(5.0)]),
    part("ring-one", "us", 64, 256).aims(&[Below(1.0)]),
    part("warm-chunk", "MiB/s", 64, 1024).aims(&[Above(1024.0)]),
    part("cold-chunk", "MiB/s", 64, 1024).aims(&[AtLeast(5.0, RAFT)]),
    part("cold-bytes", "bytes per payload byte", 64, 256).aims(&[Below(1.3)]),
    part("open", "ms", 4, 256).aims(&[AtMost(0.1, RAFT)]),
    part("open-bytes", "percent read", 4, 256).aims(&[Below(5.0)]),
    part("memory", "bytes of RSS per entry", 10, 8).aims(&[Below(16.0)]),
    part("idle", "bytes of RSS per region", 100_000, 8).aims(&[Below(300.0)]),
    part("soak-bytes", "device bytes per payload byte", 10_000, 512).aims(CHEAP),
    part("soak-space", "of 2 x live + 128 MiB", 10_000, 512).aims(&[Below(1.0)]),
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
        "sync" => writes::sync(&*opened()?, &source, part.threads),
        // What has no tickets is given as many threads.
        "tickets" if ["segment", RAW].contains(&engine) => {
            writes::tickets(&*opened()?, &source, part.threads as u64)
        }
        "tickets" => writes::sync(&*opened()?, &source, part.threads),
        "rotation" => writes::rotation(&*opened()?, &source, None).map(|w| w.per_second()),
        "rotation-longest" => writes::rotation(&*opened()?, &source, None).map(|w| w.longest_ms()),
        "paced-p999" => writes::rotation(&*opened()?, &source, PACE).map(|w| w.p999_ms()),
        "paced-longest" => writes::rotation(&*opened()?, &source, PACE).map(|w| w.longest_ms()),
        "log-bytes" => writes::log_bytes(&*opened()?, &source, part.threads as u64),
        "cpu" => writes::cpu(&*opened()?, &source, part.threads as u64),
        "warm-one" | "ring-one" => {
            let engine = opened()?;
            let count = fill(&*engine, &source, 1_000)?;
            reads::one(&*engine, count, part.name == "ring-one")
        }
        "warm-chunk" => reads::chunks(&*opened()?, &source, None).map(|read| read.speed),
        "cold-chunk" => reads::chunks(&*opened()?, &source, Some(dir)).map(|read| read.speed),
        "cold-bytes" => reads::chunks(&*opened()?, &source, Some(dir)).map(|read| read.amplified),
        "open" | "open-bytes" => recovery::reopen(engine, &source, dir, part.name == "open"),
        "memory" => memory::memory(&*opened()?, &source, part.threads as u64),
        "idle" => memory::idle(&*opened()?, &source, part.threads as u64),
        "soak-bytes" => soak::soak(&*opened()?, &source, dir, part).map(|soaked| soaked.0),
        "soak-space" => soak::soak(&*opened()?, &source, dir, part).map(|soaked| soaked.1),
        other => Err(format!("no part {other}").into()),
    }
}

/// Writes batches over all regions; returns how many entries each has.
fn fill(engine: &dyn Engine, source: &Source, rounds: u64) -> Outcome<u64> {
    for index in 1..=rounds {
        let writes = (1..=REGIONS).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok(rounds)
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
