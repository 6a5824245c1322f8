//! What writing costs: time, bytes and processor. Uses: the engines.

use std::time::{Duration, Instant};

use super::{Source, io};
use crate::engines::{Engine, Outcome};

/// How long a part writes.
const WRITE_FOR: Duration = Duration::from_millis(1_500);
const ROTATE_BYTES: u64 = 288 << 20;
/// Batches between two looks at the clock, which is a call of the kernel too.
const AT_A_TIME: u64 = 50;

/// What `threads` write a second, each waiting for its own.
pub fn sync(engine: &dyn Engine, source: &Source, threads: usize) -> Outcome<f64> {
    let begin = Instant::now();
    let counts = std::thread::scope(|scope| {
        let write = |region: u64| {
            scope.spawn(move || -> Outcome<u64> {
                let mut index = 1;
                while begin.elapsed() < WRITE_FOR {
                    engine.write(&[source.write(region, index, 1)], true)?;
                    index += 1;
                }
                Ok(index - 1)
            })
        };
        let running: Vec<_> = (1..=threads as u64).map(write).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        running.into_iter().map(join).collect::<Outcome<Vec<u64>>>()
    })?;
    let took = begin.elapsed().as_secs_f64();
    let (writes, syncs) = engine.counts();
    if syncs > 0 {
        let together = writes as f64 / syncs as f64;
        eprintln!("{threads} threads: {together:.1} writes per fsync");
    }
    Ok(counts.iter().sum::<u64>() as f64 / took)
}

/// How long each write took, in seconds, ascending.
pub struct Waits(Vec<f64>);

impl Waits {
    pub fn per_second(&self) -> f64 {
        self.0.len() as f64 / self.0.iter().sum::<f64>()
    }

    pub fn p999_ms(&self) -> f64 {
        self.0[self.0.len() * 999 / 1000] * 1e3
    }

    pub fn longest_ms(&self) -> f64 {
        self.0.last().map_or(0.0, |longest| longest * 1e3)
    }
}

/// Writes more than two of the largest segment files that the engines have: one write after the other,
/// or each when its time has come. Then it waits from that time on, also for those before it.
pub fn rotation(engine: &dyn Engine, source: &Source, pace: Option<Duration>) -> Outcome<Waits> {
    let mut waits = Vec::new();
    let mut due = Instant::now();
    for index in 1..=(ROTATE_BYTES / source.bytes as u64) {
        let writes = [source.write(1, index, 1)];
        due = match pace {
            Some(pace) => due + pace,
            None => Instant::now(),
        };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        engine.write(&writes, true)?;
        waits.push(due.elapsed().as_secs_f64());
    }
    waits.sort_by(f64::total_cmp);
    Ok(Waits(waits))
}

pub fn tickets(engine: &dyn Engine, source: &Source, together: u64) -> Outcome<f64> {
    let (begin, mut index) = (Instant::now(), 1);
    while begin.elapsed() < WRITE_FOR {
        let groups = (1..=together).map(|region| vec![source.write(region, index, 1)]);
        engine.write_together(&groups.collect::<Vec<_>>())?;
        index += 1;
    }
    Ok(((index - 1) * together) as f64 / begin.elapsed().as_secs_f64())
}

/// Where the log's own frames can be told from what fills pages, the engine says; else the kernel.
pub fn log_bytes(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
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

pub fn cpu(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    let rounds = 100_000 / regions / AT_A_TIME;
    let mut spent = 0.0;
    for round in 0..rounds {
        let indexes = 1 + round * AT_A_TIME..1 + (round + 1) * AT_A_TIME;
        let batch =
            |index| -> Vec<_> { (1..=regions).map(|r| source.write(r, index, 1)).collect() };
        let batches: Vec<_> = indexes.map(batch).collect();
        let start = cpu_time();
        for writes in &batches {
            engine.write(writes, false)?;
        }
        spent += cpu_time() - start;
    }
    Ok(spent * 1e9 / (rounds * AT_A_TIME * regions) as f64)
}
