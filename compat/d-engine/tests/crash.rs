//! A process that is killed in the middle of its writes loses nothing that it acknowledged, and leaves
//! nothing half done.
//!
//! The test runs itself as the process that is killed: it says on its standard output what d-engine would
//! have been told, and the kernel keeps what it said.
#![cfg(feature = "rocksdb")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use d_engine_core::{Error, HardState, LogStore as _, MetaStore as _};
use d_engine_core::{StateMachine as _, StorageEngine as _};
use d_engine_proto::common::LogId;
use d_engine_proto::server::election::VotedFor;
use peerstore_d_engine::Persistence;
use support::{Home, PERSISTENCES, Stores, entries, fields, insert, insert_until};

const DIR: &str = "PEERSTORE_D_ENGINE_DIR";
const STORES: &str = "PEERSTORE_D_ENGINE_STORES";
/// Stores that outlive a process.
const ON_DISK: [Stores; 2] = [Stores::AppendLogAndRocks, Stores::Rocks];
/// How many entries one round persists and applies.
const BATCH: u64 = 3;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The home that a process and its parent name alike.
fn home(dir: &Path, number: usize) -> Home {
    let (stores, persistence) = (ON_DISK[number / 2], PERSISTENCES[number % 2]);
    Home::new(dir, stores, persistence)
}

fn hard_state(term: u64) -> HardState {
    HardState {
        current_term: term,
        voted_for: Some(VotedFor {
            voted_for_id: 7,
            voted_for_term: term,
            committed: false,
        }),
    }
}

/// Writes until it is killed: a hard state, entries, the same applied, now and then a conflict, a purge or a
/// snapshot. What it has said is acknowledged.
async fn write_for_ever(home: &Home) -> Result<(), Error> {
    let (engine, state_machine) = home.open()?;
    let (log, meta) = (engine.log_store(), engine.meta_store());
    println!("ready");
    for round in 1.. {
        let (first, last) = ((round - 1) * BATCH + 1, round * BATCH);
        meta.save_hard_state(&hard_state(round))?;
        println!("voted {round}");
        if round % 7 == 0 {
            // Entries of a leader that did not win: replaced by the next ones, with more behind them.
            log.persist_entries(entries(first..=last + 4, round - 1))
                .await?;
            log.replace_range(first, entries(first..=last, round))
                .await?;
        } else {
            log.persist_entries(entries(first..=last, round)).await?;
        }
        if !log.is_write_durable() {
            log.flush()?;
        }
        println!("persisted {last}");
        let chunk: Vec<_> = (first..=last).map(applied_as).collect();
        state_machine.apply_chunk(&chunk).await?;
        println!("applied {last}");
        if round % 20 == 0 {
            let (index, term) = (last - 5, 1);
            let included = LogId { index, term };
            let dir = tempfile::tempdir().unwrap();
            let checksum =
                (state_machine.generate_snapshot_data(dir.path().join("s"), included)).await?;
            assert_eq!(checksum.len(), 32);
            log.purge(included).await?;
            println!("purged {index}");
        }
    }
    Ok(())
}

fn applied_as(index: u64) -> d_engine_core::ApplyEntry {
    let value = index.to_string();
    match index % 3 {
        0 => insert_until(index, "session", &value, Some(3600)),
        1 => insert(index, &format!("key {index:08}"), &value),
        _ => insert(index, "counter", &value),
    }
}

/// What a process has said before it was killed.
#[derive(Debug, Default)]
struct Acknowledged {
    voted: u64,
    persisted: u64,
    applied: u64,
    purged: u64,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let Some((what, number)) = line.split_once(' ') else {
            return;
        };
        let Ok(number) = number.trim().parse::<u64>() else {
            return;
        };
        match what {
            "voted" => self.voted = number,
            "persisted" => self.persisted = number,
            "applied" => self.applied = number,
            "purged" => self.purged = number,
            _ => {}
        }
    }
}

/// The process, whose end is seen to if the test fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process and kills it once it has said `lines` things.
fn kill_after(dir: &Path, number: usize, lines: usize) -> Acknowledged {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_process_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DIR, dir)
        .env(STORES, number.to_string())
        .stdout(Stdio::piped())
        .spawn();
    let mut victim = Victim(child.unwrap());
    let mut said: BufReader<ChildStdout> = BufReader::new(victim.0.stdout.take().unwrap());
    let mut acknowledged = Acknowledged::default();
    let mut read = |said: &mut BufReader<ChildStdout>| {
        let mut line = String::new();
        let is_line = said.read_line(&mut line).unwrap() > 0 && line.ends_with('\n');
        acknowledged.take(&line);
        is_line
    };
    for line in 0..lines {
        assert!(read(&mut said), "it ended by itself behind line {line}");
    }
    victim.0.kill().unwrap();
    while read(&mut said) {}
    acknowledged
}

/// Everything that was acknowledged is there, and what more is there is whole.
async fn check(home: &Home, acknowledged: &Acknowledged) -> Result<(), Error> {
    let (engine, state_machine) = home.open()?;
    let (log, meta) = (engine.log_store(), engine.meta_store());
    let term = fields(meta.load_hard_state()?).map_or(0, |(term, vote)| {
        assert_eq!(vote, hard_state(term).voted_for);
        term
    });
    assert!(
        (acknowledged.voted..=acknowledged.voted + 1).contains(&term),
        "{term}: {acknowledged:?}"
    );

    let last = log.last_index();
    assert!(last >= acknowledged.persisted, "{last}: {acknowledged:?}");
    let purged = log.load_purge_boundary()?.map_or(0, |purged| purged.index);
    assert!(purged >= acknowledged.purged, "{purged}: {acknowledged:?}");
    let there = log.get_entries(1..=u64::MAX)?;
    assert_eq!(there.len() as u64, last - purged);
    for (entry, index) in there.iter().zip(purged + 1..) {
        assert_eq!(
            *entry,
            support::entry(index, entry.term),
            "as it was persisted"
        );
        let round = (index - 1) / BATCH + 1;
        // Only the last round may be that of the leader that did not win.
        let lost = index > acknowledged.persisted && entry.term < round;
        assert!(
            entry.term == round || lost,
            "entry {index} of term {}",
            entry.term
        );
    }

    let applied = state_machine.last_applied().index;
    assert!(
        (acknowledged.applied..=last).contains(&applied),
        "{applied}: {acknowledged:?}"
    );
    assert_eq!(applied % BATCH, 0, "a chunk is applied whole");
    let keys = applied.div_ceil(3);
    let scan = state_machine.scan_prefix(b"key ")?;
    assert_eq!((scan.entries.len() as u64, scan.revision), (keys, applied));
    if applied > 0 {
        let value = |index: u64| Some(index.to_string().into());
        assert_eq!(state_machine.get(b"session")?, value(applied));
        assert_eq!(state_machine.get(b"counter")?, value(applied - 1));
    }
    Ok(())
}

#[test]
#[ignore = "the tests below run it, to kill it"]
fn the_process_that_is_killed() {
    let dir = std::env::var_os(DIR).expect("a directory");
    let number = std::env::var(STORES).unwrap().parse().unwrap();
    let home = home(Path::new(&dir), number);
    runtime().block_on(write_for_ever(&home)).unwrap();
}

fn kill_and_check(stores: Stores, persistence: Persistence) {
    let number = (0..ON_DISK.len() * 2)
        .find(|n| ON_DISK[n / 2] == stores && PERSISTENCES[n % 2] == persistence)
        .unwrap();
    // Each in another place of a round; the last one behind purges and snapshots.
    for lines in [3, 9, 31, 62, 200] {
        let dir = tempfile::tempdir().unwrap();
        let acknowledged = kill_after(dir.path(), number, lines);
        let home = home(dir.path(), number);
        runtime().block_on(check(&home, &acknowledged)).unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_with_the_append_log_disk_first() {
    kill_and_check(Stores::AppendLogAndRocks, Persistence::DiskFirst);
}

#[test]
fn nothing_acknowledged_is_lost_with_the_append_log_mem_first() {
    kill_and_check(Stores::AppendLogAndRocks, Persistence::MemFirst);
}

#[test]
fn nothing_acknowledged_is_lost_with_rocksdb_disk_first() {
    kill_and_check(Stores::Rocks, Persistence::DiskFirst);
}

#[test]
fn nothing_acknowledged_is_lost_with_rocksdb_mem_first() {
    kill_and_check(Stores::Rocks, Persistence::MemFirst);
}
