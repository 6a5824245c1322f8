//! The stores under openraft: its own suite, restarts, crashes, and a cluster.

mod cluster;
mod crashes;
mod entries;
mod flushing;
mod reopening;
mod snapshots;
mod suite;
mod support;
