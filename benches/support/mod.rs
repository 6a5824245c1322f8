//! What the benchmarks share: arguments, contenders that take turns, tables with marks, samples of
//! data, what the kernel says about the process. Uses: the public API, as any user.
#![allow(
    dead_code,
    reason = "each benchmark is a program and uses a part of this"
)]

pub mod files;
pub mod raft_node;
pub mod raw_rocks;
pub mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A file system in memory, where there is one: there an fsync does not hide what a write costs.
const MEMORY_DIR: &str = "/dev/shm";

/// How a benchmark was called.
pub struct Args {
    /// A short run that shows that everything works; its figures say little.
    pub quick: bool,
    /// Only the part of this name, if one was named.
    pub only: Option<String>,
    /// The size of what is measured, where that can be chosen.
    pub mib: Option<usize>,
    /// A directory with text for samples.
    pub text: Option<PathBuf>,
    dir: PathBuf,
}

impl Args {
    /// `[--quick] [--only PART] [--mib N] [--text DIR] [--dir DIR]`; cargo adds `--bench`.
    pub fn read() -> Outcome<Args> {
        let mut args = Args {
            quick: false,
            only: None,
            mib: None,
            text: None,
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--quick" => args.quick = true,
                "--only" => args.only = Some(value()?),
                "--mib" => args.mib = Some(value()?.parse()?),
                "--text" => args.text = Some(value()?.into()),
                "--dir" => args.dir = value()?.into(),
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        Ok(args)
    }

    /// Whether the part `name` is to run.
    pub fn runs(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    /// `few` in a quick run, else `many`.
    pub fn pick(&self, few: usize, many: usize) -> usize {
        if self.quick { few } else { many }
    }

    /// A new directory on the disk that `--dir` names, or cargo's target directory lies on.
    pub fn disk(&self) -> Outcome<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }

    /// A new directory in memory; on the disk if the system has no such file system.
    pub fn memory(&self) -> Outcome<tempfile::TempDir> {
        match Path::new(MEMORY_DIR).is_dir() {
            true => Ok(tempfile::tempdir_in(MEMORY_DIR)?),
            false => self.disk(),
        }
    }
}

/// What one run of a contender took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub wall: Duration,
    /// Of the calling thread.
    pub cpu: Duration,
}

/// Runs `work` and says what it took.
pub fn clock<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (cpu, started) = (thread_cpu(), Instant::now());
    let result = work();
    let wall = started.elapsed();
    let cpu = thread_cpu().saturating_sub(cpu);
    (result, Took { wall, cpu })
}

fn thread_cpu() -> Duration {
    cpu_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of this frame; the call has no other effect.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The processor time of all threads of the process, RocksDB's own included.
pub fn process_cpu() -> Duration {
    cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The figures of one contender, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64());
    }

    /// The figures of one call, where each sample is of so many.
    pub fn each_of(&self, calls: f64) -> Samples {
        Samples(self.0.iter().map(|seconds| seconds / calls).collect())
    }

    /// The value below which the share `q` of the samples lies.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last as f64 * q).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// The samples of one contender.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub wall: Samples,
    pub cpu: Samples,
}

/// Lets `contenders` take turns, `rounds` times, each round starting with another one: so that what
/// the machine does meanwhile meets all of them alike.
pub fn take_turns(
    rounds: usize,
    contenders: &mut [&mut dyn FnMut() -> Outcome<Took>],
) -> Outcome<Vec<Series>> {
    let mut series = vec![Series::default(); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let number = (round + turn) % contenders.len();
            let took = contenders[number]()?;
            series[number].wall.push(took.wall);
            series[number].cpu.push(took.cpu);
        }
    }
    Ok(series)
}

/// Bytes that no compression makes smaller, the same in every run.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

/// A field of /proc/self/status, in bytes; 0 where there is no such thing.
pub fn process_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|l| {
        l.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    kib.unwrap_or(0u64) * 1024
}

/// Makes the peak of the resident memory start anew. Returns what is resident now.
pub fn reset_peak_memory() -> u64 {
    let reset = std::fs::write("/proc/self/clear_refs", "5");
    if let Err(error) = reset {
        eprintln!("the peak of the memory was not reset: {error}");
    }
    process_bytes("VmRSS")
}
