//! Cuts the power of a whole node: both databases, the snapshots, the directory itself.
//!
//! A life of the node runs once on a file system of ours, mounted through FUSE, which writes down
//! every change. From that list the disk as any cut leaves it is made again, with what was not synced
//! lost, half lost, or not lost; it is opened, and everything that had been acknowledged must be there.
//! `PEERSTORE_CUTS` says how many cuts to make, where the default is to take about a minute.
#![cfg(target_os = "linux")]

mod alone;
mod cuts;
mod disk;
mod faults;
mod journal;
mod life;
mod mount;
mod nested;

use std::collections::BTreeMap;

use peerstore::{Durability, LogBackend};

use cuts::{Tally, record};
use faults::{Disturbed, WhileFull, disturbed, filled};
use mount::{Faults, Mount, say_skipped};
use nested::{Duty, Plan};

/// How many cuts a test makes, if nobody says otherwise.
fn cuts(default: usize) -> usize {
    let given = std::env::var("PEERSTORE_CUTS").ok();
    given.map_or(default, |text| {
        text.parse().expect("PEERSTORE_CUTS is a number")
    })
}

fn is_ci_as_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    is_root && std::env::var("CI").is_ok_and(|ci| ci == "true")
}

#[test]
fn in_ci_as_root_nothing_is_skipped() {
    if is_ci_as_root() {
        assert!(Mount::is_possible(), "/dev/fuse cannot be opened");
        let mount = Mount::new(disk::Disk::new(), Faults::default());
        std::fs::write(mount.path().join("file"), b"bytes").expect("a file on the mount");
        assert!(mount.position() >= 2, "{:?}", mount.ops());
    }
}

/// More cuts than a life has changes take more lives.
#[test]
fn every_cut_leaves_what_was_acknowledged() {
    cut_lives(cuts(400));
}

#[test]
fn every_cut_with_the_append_log_leaves_what_was_acknowledged() {
    life::keep_logs_in(LogBackend::AppendLog);
    cut_lives(cuts(400) / 4);
}

fn cut_lives(wanted: usize) {
    if !Mount::is_possible() {
        return say_skipped("cuts of a node's power");
    }
    let donation = life::donation();
    let mut total = Tally::default();
    for round in 0.. {
        let (recording, journal) = record(life::config(), &donation, round);
        let places = recording.places(wanted - total.cuts, round);
        total.add(recording.cut(&places, round as u64, &|place, node| {
            journal.check(journal.acked_at(place), node)
        }));
        if total.cuts >= wanted {
            break;
        }
    }
    total.assert_held();
}

#[test]
fn a_cut_during_recovery_ends_as_one_without() {
    cut_recoveries(cuts(200) / 20);
}

#[test]
fn a_cut_during_recovery_of_the_append_log_ends_as_one_without() {
    life::keep_logs_in(LogBackend::AppendLog);
    cut_recoveries(cuts(200) / 50);
}

fn cut_recoveries(places: usize) {
    if !Mount::is_possible() {
        return say_skipped("cuts during recovery");
    }
    let donation = life::donation();
    let (recording, journal) = record(life::config(), &donation, 0);
    let mut total = Tally::default();
    for (number, place) in recording.places(places, 3).into_iter().enumerate() {
        let plan = Plan {
            journal: &journal,
            depth: 2,
            cuts: 8,
            seed: number as u64,
        };
        let (lost, image) = recording.image_at(place, plan.seed);
        let duty = Duty::Acked(journal.acked_at(place));
        total.add(plan.run(&format!("cut {place}, lost {lost:?}"), image, &duty, 1));
    }
    total.assert_held();
}

/// The control: if nothing is synced, cuts must show it.
#[test]
fn without_syncs_the_same_cuts_lose_what_was_acknowledged() {
    if !Mount::is_possible() {
        return say_skipped("cuts without syncs");
    }
    let mut config = life::config();
    config.durability = Durability::Buffered;
    let (recording, journal) = record(config, &life::donation(), 0);
    let tally = recording.cut(&recording.places(60, 0), 0, &|place, node| {
        journal.check(journal.acked_at(place), node)
    });
    let lost = tally.failures.len();
    assert!(
        lost >= 20,
        "{lost} of {} images lost something",
        tally.images
    );
}

#[test]
fn a_log_by_itself_survives_every_cut() {
    if !Mount::is_possible() {
        return say_skipped("cuts of a log's power");
    }
    alone::cut_everywhere().assert_held();
}

#[test]
fn a_sync_or_the_power_that_fails_is_never_a_success() {
    fail_syncs(cuts(120));
}

#[test]
fn a_sync_that_fails_under_the_append_log_is_never_a_success() {
    life::keep_logs_in(LogBackend::AppendLog);
    fail_syncs(cuts(120) / 4);
}

fn fail_syncs(count: usize) {
    if !Mount::is_possible() {
        return say_skipped("failing syncs");
    }
    let donation = life::donation();
    let (recording, journal) = record(life::config(), &donation, 0);
    let is_sync = |place: &usize| matches!(recording.ops[*place], disk::Op::Sync { .. });
    let syncs: Vec<usize> = (0..recording.ops.len()).filter(is_sync).collect();
    // RocksDB takes an install that fails back by halves: each of its syncs has its turn.
    let of_install = |place: usize| {
        let step = journal.acks.get(journal.acked_at(place) + 1);
        step.is_some_and(|step| step.what.starts_with("install"))
    };
    let every = (syncs.len() * 10).div_ceil(count).max(1);
    let chosen = |(number, place): &(usize, &usize)| number % every == 0 || of_install(**place);
    let of_sync = |(number, _)| Faults {
        sync: Some(number),
        ..Faults::default()
    };
    let of_power = |place| Faults {
        cut_at: Some(place),
        ..Faults::default()
    };
    let places = recording.places(count / 20, 5);
    let faults = syncs.iter().enumerate().filter(chosen).map(of_sync);
    let (mut total, mut failures) = (Disturbed::default(), Vec::new());
    for faults in faults.chain(places.into_iter().map(of_power)) {
        match disturbed(faults, &journal, &donation) {
            Ok(one) => total.add(&one),
            Err(reason) => failures.push(reason),
        }
    }
    eprintln!("{total:?}, {} failures", failures.len());
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
    assert!(
        total.injected * 10 >= total.lives * 9 && total.refused * 10 <= total.lives,
        "{total:?}"
    );
}

/// RocksDB writes when it opens, so it may have to be given room first. Then all of it is there.
#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    fill_disks(10);
}

#[test]
fn a_full_disk_under_the_append_log_is_named_and_loses_nothing() {
    life::keep_logs_in(LogBackend::AppendLog);
    fill_disks(20);
}

fn fill_disks(parts: usize) {
    if !Mount::is_possible() {
        return say_skipped("full disks");
    }
    let donation = life::donation();
    let (recording, journal) = record(life::config(), &donation, 0);
    let whole = recording.disk_at(recording.ops.len()).used();
    let (mut ends, mut failures) = (BTreeMap::<WhileFull, usize>::new(), Vec::new());
    for part in 1..parts {
        match filled(whole * part / parts, &journal, &donation) {
            Ok(while_full) => *ends.entry(while_full).or_default() += 1,
            Err(reason) => failures.push(reason),
        }
    }
    eprintln!("opened while the disk was full: {ends:?}");
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
}
