//! What opening costs after a kill. Uses: the engines.

use std::path::Path;
use std::time::Instant;

use super::{Source, forget, io};
use crate::engines::{Outcome, open};

/// Opens a gigabyte that a process left that was killed.
pub fn reopen(engine: &str, source: &Source, dir: &Path, time: bool) -> Outcome<f64> {
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
