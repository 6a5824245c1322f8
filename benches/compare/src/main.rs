//! The append-only log, raft-engine, RocksDB's log and the bare disk side by side: one engine a
//! process, in turns, as medians with their spread.
//!
//! ```text
//! cargo run --release --manifest-path benches/compare/Cargo.toml -- \
//!     [--runs N] [--dir DIR] [--plot FILE.svg] [PART ..]
//! ```

mod engines;
mod parts;
mod plot;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use engines::Outcome;
use parts::{PARTS, Part};
use table::Figures;

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
    let mut plot = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => runs = words.next().ok_or("--runs needs a number")?.parse()?,
            "--dir" => dir = PathBuf::from(words.next().ok_or("--dir needs a directory")?),
            "--plot" => plot = Some(words.next().ok_or("--plot needs a file")?),
            part => only.push(part.to_string()),
        }
    }
    println!("{}", table::head());
    let mut measured = Vec::new();
    for (at, part) in PARTS.iter().enumerate() {
        if only.is_empty() || only.iter().any(|name| name == part.name) {
            let figures = take_turns(at, part, runs, &dir)?;
            println!("{}", table::rows(part, &figures));
            measured.push((part, figures));
        }
    }
    if let Some(plot) = plot {
        std::fs::write(plot, plot::svg(&measured))?;
        println!("\nThe same as a picture: {plot}");
    }
    Ok(())
}

fn take_turns(at: usize, part: &Part, runs: usize, dir: &Path) -> Outcome<Vec<Figures>> {
    let figures = |engine| Figures {
        engine,
        runs: Vec::new(),
    };
    let mut of_engines = ENGINES.map(figures);
    for _ in 0..runs {
        for of_engine in &mut of_engines {
            // What costs no fsync is measured in memory, so that the disk is not measured with it.
            let home = match part.name {
                "cpu" => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(dir))?,
                _ => tempfile::tempdir_in(dir)?,
            };
            let log = home.path().join("log");
            let output = Command::new(std::env::current_exe()?)
                .args(["part", &at.to_string(), of_engine.engine])
                .arg(&log)
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            of_engine.runs.extend(text.trim().parse::<f64>());
        }
    }
    Ok(of_engines.into())
}
