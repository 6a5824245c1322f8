//! Three stores and several regions in one process: replicates a directory, loses a store halfway,
//! catches it up by snapshots, and compares every byte.
//!
//! `cargo run --example cluster -- --help`

#[path = "cluster/mod.rs"]
mod cluster;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cluster::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}
