//! The driver of many regions: what an entry costs, what an fsync carries, what sleeps, what catches up.
//!
//! ```text
//! cargo bench --bench store [-- --quick] [-- --only throughput|profile|latency|idle|catch-up]
//! ```

mod catch_up;
mod cluster;
#[path = "../support/heap.rs"]
mod heap;
mod idle;
mod latency;
mod plain;
#[path = "../support/mod.rs"]
mod support;
mod throughput;

use support::{Args, Outcome};

#[global_allocator]
static HEAP: heap::Counted = heap::Counted;

fn main() -> Outcome {
    let args = Args::read()?;
    if args.runs("throughput") {
        throughput::run(&args)?;
    }
    // For a profiler: nothing but the cluster at work.
    if args.only.as_deref() == Some("profile") {
        throughput::profile(&args)?;
    }
    if args.runs("latency") {
        latency::run(&args)?;
    }
    if args.runs("idle") {
        idle::run(&args)?;
    }
    if args.runs("catch-up") {
        catch_up::run(&args)?;
    }
    Ok(())
}
