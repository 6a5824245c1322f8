//! A cluster of four stores, each a process: replicates a directory over TCP, loses a store to `kill -9`,
//! splits, moves and merges regions meanwhile, and compares every byte on every store.
//!
//! `cargo run --example cluster -- --help`

#[path = "cluster/mod.rs"]
mod cluster;

use std::process::ExitCode;

fn main() -> ExitCode {
    cluster::main(&[], std::env::args_os().skip(1))
}
