//! Many regions, some far busier than others, one in a hundred never compacted: what reaches the disk,
//! and what stays on it. Uses: the engines.

use std::path::Path;

use super::{Part, Source};
use crate::engines::{Engine, Outcome};

/// A region keeps so many entries, unless it lags.
const KEPT: u64 = 16;
const LAGGARD_EVERY: u64 = 100;
/// Entries of one batch, which is synced.
const BATCH: u64 = 256;
/// Space is freed, where the engine has to be told, and measured, every so many batches.
const BATCHES_PER_PURGE: u64 = 256;
const SEGMENTS_FREE_BYTES: u64 = 128 << 20;

struct Herd {
    /// The first and the next index of each region.
    spans: Vec<(u64, u64)>,
    dice: u64,
}

impl Herd {
    /// A region: the cube of an even number between 0 and 1, so a tenth of them write nearly half.
    fn pick(&mut self) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let even = (self.dice >> 11) as f64 / (1u64 << 53) as f64;
        (even.powi(3) * self.spans.len() as f64) as usize
    }

    /// One batch, and the compaction of those that wrote.
    fn step(&mut self, engine: &dyn Engine, source: &Source) -> Outcome {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..BATCH {
            *counts.entry(self.pick()).or_insert(0u64) += 1;
        }
        let (mut writes, mut firsts) = (Vec::new(), Vec::new());
        for (at, count) in counts {
            let (first, next) = &mut self.spans[at];
            let region = at as u64 + 1;
            writes.push(source.write(region, *next, count));
            *next += count;
            let is_laggard = region.is_multiple_of(LAGGARD_EVERY);
            // Not each time: it is done every few seconds.
            if !is_laggard && *next - *first >= 2 * KEPT {
                *first = *next - KEPT;
                firsts.push((region, *first));
            }
        }
        engine.write(&writes, true)?;
        match firsts.is_empty() {
            true => Ok(()),
            false => engine.compact(&firsts),
        }
    }

    fn live_entries(&self) -> u64 {
        self.spans.iter().map(|(first, next)| next - first).sum()
    }
}

fn bytes_on_disk(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        // One may go in between.
        bytes += entry?.metadata().map_or(0, |found| found.len());
    }
    Ok(bytes)
}

/// What was written to the device that `dir` is on, by everybody: a file system of its own, such as one
/// in a loop device, counts ours alone. What a process has made dirty would be no measure, because the
/// kernel counts a page of a file whole, however large it is.
fn device_bytes(dir: &Path) -> Outcome<u64> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let opened = std::fs::File::open(dir)?;
    // SAFETY: the descriptor is open; the call writes the file system out and changes nothing else.
    unsafe { libc::syncfs(opened.as_raw_fd()) };
    let device = opened.metadata()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let counters = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    let sectors = counters.split_whitespace().nth(6).ok_or("no counter")?;
    Ok(sectors.parse::<u64>()? * 512)
}

/// Device bytes per payload byte once the log has reached its size, and the most that it took of twice
/// what lives and 128 MiB.
pub fn soak(engine: &dyn Engine, source: &Source, dir: &Path, part: &Part) -> Outcome<(f64, f64)> {
    let mib = std::env::var("COMPARE_SOAK_MIB").ok();
    let payload = mib.and_then(|mib| mib.parse().ok()).unwrap_or(1024u64) << 20;
    let entry_bytes = part.bytes as u64;
    let batches = payload / (BATCH * entry_bytes);
    let mut herd = Herd {
        spans: vec![(1, 1); part.threads],
        dice: 0x9e37_79b9_7f4a_7c15,
    };
    let (mut before, mut most) = (0, 0.0f64);
    // The first half lets it grow.
    for batch in 0..batches * 3 / 2 {
        if batch == batches / 2 {
            before = device_bytes(dir)?;
        }
        herd.step(engine, source)?;
        if batch % BATCHES_PER_PURGE == 0 {
            engine.purge()?;
            let allowed = 2 * herd.live_entries() * entry_bytes + SEGMENTS_FREE_BYTES;
            most = most.max(bytes_on_disk(dir)? as f64 / allowed as f64);
        }
    }
    let written = device_bytes(dir)? - before;
    Ok((
        written as f64 / (batches * BATCH * entry_bytes) as f64,
        most,
    ))
}
