//! The append-only log, raft-engine, RocksDB's log and the bare disk side by side: one engine a
//! process, in turns, as medians with their spread.
//!
//! ```text
//! cargo run --release --manifest-path benches/compare/Cargo.toml [-- [--runs N] [--dir DIR] [PART ..]]
//! ```

mod engines;
mod parts;

use std::path::{Path, PathBuf};
use std::process::Command;

use engines::Outcome;
use parts::{PARTS, Part};

/// Those that are compared; what a part cannot be asked of is left out.
const ENGINES: [&str; 4] = ["raft-engine", "rocksdb", "raw", "segment"];

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["part", at, engine, dir] => {
            println!(
                "{}",
                parts::run(&PARTS[at.parse::<usize>()?], engine, Path::new(dir))?
            );
            Ok(())
        }
        ["fill", engine, dir, batches] => {
            parts::fill_and_die(engine, Path::new(dir), batches.parse()?)
        }
        _ => compare(&words),
    }
}

fn compare(words: &[String]) -> Outcome {
    let (mut runs, mut dir, mut only) = (3, std::env::temp_dir(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => runs = words.next().ok_or("--runs needs a number")?.parse()?,
            "--dir" => dir = PathBuf::from(words.next().ok_or("--dir needs a directory")?),
            part => only.push(part.to_string()),
        }
    }
    println!("| part | engine | median | lowest to highest | segment is |");
    println!("|---|---|---|---|---|");
    for (at, part) in PARTS.iter().enumerate() {
        if only.is_empty() || only.iter().any(|name| name == part.name) {
            take_turns(at, part, runs, &dir)?;
        }
    }
    Ok(())
}

fn take_turns(at: usize, part: &Part, runs: usize, dir: &Path) -> Outcome {
    let mut figures: Vec<(&str, Vec<f64>)> = ENGINES.map(|engine| (engine, Vec::new())).to_vec();
    for _ in 0..runs {
        for (engine, of_engine) in &mut figures {
            // What costs no fsync is measured in memory, so that the disk is not measured with it.
            let home = match part.name {
                "cpu" => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(dir))?,
                _ => tempfile::tempdir_in(dir)?,
            };
            let log = home.path().join("log");
            let output = Command::new(std::env::current_exe()?)
                .args(["part", &at.to_string(), engine, &log.to_string_lossy()])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            of_engine.extend(text.trim().parse::<f64>());
        }
    }
    let medians: Vec<Option<f64>> = figures.iter_mut().map(|(_, f)| median(f)).collect();
    let own = medians.last().copied().flatten();
    for ((engine, of_engine), median) in figures.iter().zip(&medians) {
        let (Some(median), Some((low, high))) = (median, of_engine.first().zip(of_engine.last()))
        else {
            continue;
        };
        let ratio = own.map_or(0.0, |own| own / median);
        println!(
            "| {} {} x {} B | {engine} | {median:.2} {} | {low:.2} to {high:.2} | {ratio:.2} x |",
            part.name, part.threads, part.bytes, part.unit
        );
    }
    Ok(())
}

fn median(figures: &mut [f64]) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
