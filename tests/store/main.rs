//! The driver on real threads: three stores over RocksDB, or in memory.

mod basic;
mod cluster;
mod contain;
mod flushing;
mod forged;
mod hostile;
mod stepped;
