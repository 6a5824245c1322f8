//! RocksDB under the log and under the data. Uses: types, error, proto, keys, raft_log, app_store,
//! transaction.
//!
//! [`RocksLog`] and [`RocksData`] are two databases, because their lives differ: the log is appended,
//! fsynced and soon dropped, the data is written at random, replayed from the log after a crash, and
//! stays. Both share what is safety here:
//!
//! - `open`: a directory is ours whole or not at all, and nothing foreign, newer or locked is touched;
//! - `engine`: one place writes and syncs. The first failure poisons it, and no fsync is retried;
//! - `wal`: damage in the middle of the write-ahead log is an error, where RocksDB alone would drop
//!   everything behind it and say nothing.
//!
//! [`RocksTransactions`] is the data without raft, under RocksDB's own transactions.
//!
//! What one process has open, no other can open, nor the same one twice: the directory itself is
//! locked (`flock`) before it is looked at, and RocksDB locks its `LOCK` file. Views and imports keep
//! their database open, and so locked, until they are dropped.

mod data;
mod decided;
mod engine;
mod entry;
mod import;
mod log;
mod open;
mod options;
mod reclaim;
mod transactions;
mod wal;

pub use data::RocksData;
pub use log::RocksLog;
pub use options::{RocksCompression, RocksOptions};
pub use transactions::RocksTransactions;
