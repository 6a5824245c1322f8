//! The lives of regions over several stores, a step at a time, with a store that dies at every step.
//!
//! Everything runs on one thread: each step of a store's raft thread and of its workers, each message
//! and each tick is a step that is counted, and the same run always takes the same steps. So a scenario
//! is run once to count them, and then once for each of them, with a store that dies right behind it.

mod app_data;
mod check;
mod compacting;
mod cuts;
#[path = "../disk_log/mod.rs"]
mod disk_log;
mod driving;
mod lives;
mod merging;
mod removing;
mod site;
mod splitting;
mod world;
