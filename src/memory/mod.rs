//! Backends that live in memory, for tests. Uses: the seams. Never touches a disk.
//!
//! [`MemoryLog`] and [`MemoryData`] keep apart what was written and what was synced, so that a test
//! can cut the power ([`MemoryLog::crash_copy`]) or let a write fail ([`MemoryLog::fail_next_write`]).
//! [`MemoryNetwork`] is the network between stores, step by step from a seed or at once.

mod app;
mod fs;
mod journal;
mod log;
mod network;
mod placement;
mod snapshots;
#[cfg(test)]
mod tests;
mod transactions;

pub use app::MemoryData;
pub use fs::{Lost, MemFs};
pub use journal::WriteFault;
pub use log::MemoryLog;
pub use network::{MemoryNetwork, MessageKind, NetworkOptions, Traffic};
pub use placement::MemoryPlacement;
pub use snapshots::MemorySnapshots;
