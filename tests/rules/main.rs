//! The rules that keep a region whole over crashes, one test or more each, named by their numbers in
//! `docs/architecture.md`.

mod bugs;
mod building;
mod by_hand;
mod coordinated;
mod fetching;
mod hostile;
mod install;
#[cfg(feature = "rocksdb")] // Without it a node forgets everything with its process.
mod killing;
mod node_dir;
mod opening;
mod persistence;
mod recording;
mod regions;
mod retention;
mod seeds;
mod snapshots;
mod stepping;
mod support;
mod writing;
