//! Cuts the power of a whole node: both databases, the snapshots, the directory itself.
//!
//! A life of the node runs once on a file system of ours, mounted through FUSE, which writes down
//! every change. From that list the disk as any cut leaves it is made again, with what was not synced
//! lost, half lost, or not lost; it is opened, and everything that had been acknowledged must be there.
//! `PEERSTORE_CUTS` says how many cuts to make, where the default is to take about a minute.
#![cfg(target_os = "linux")]

mod cuts;
mod disk;
mod journal;
mod life;
mod mount;

use cuts::record;
use mount::{Mount, say_skipped};

/// How many cuts a test makes, if nobody says otherwise.
fn cuts(default: usize) -> usize {
    let given = std::env::var("PEERSTORE_CUTS").ok();
    given.map_or(default, |text| {
        text.parse().expect("PEERSTORE_CUTS is a number")
    })
}

#[test]
fn every_cut_leaves_what_was_acknowledged() {
    if !Mount::is_possible() {
        return say_skipped("cuts of a node's power");
    }
    let donation = life::donation();
    let recording = record(life::config(), &donation);
    let journal = &recording.journal;
    eprintln!(
        "{} changes, {} acknowledgements",
        recording.ops.len(),
        journal.acks.len()
    );
    let places = recording.places(cuts(150), 0);
    let tally = recording.cut(&places, 1, &|place, node| {
        journal.check(journal.acked_at(place), node)
    });
    tally.assert_held();
}
