//! What writing costs: time, bytes and processor. Uses: the engines.

use std::time::{Duration, Instant};

use super::{Source, io};
use crate::engines::{Engine, Outcome};

/// How long a part writes.
const WRITE_FOR: Duration = Duration::from_millis(1_500);

/// Writes a second, and the longest wait in milliseconds.
pub fn sync(engine: &dyn Engine, source: &Source, threads: usize) -> Outcome<(f64, f64)> {
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
