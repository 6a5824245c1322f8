//! Everything in memory: for tests, and to learn from. Uses: the seams. Never does I/O.

mod fs;
mod snapshots;

pub use fs::{Lost, MemFs};
pub use snapshots::MemorySnapshots;
