//! kill -9 while a region persists, applies, compacts and installs: what was acknowledged is there.
//! `PEERSTORE_KILLS` sets how often; each takes about half a second.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use peerstore::{CompositeStorage, KeyRange, LogPosition, PeerStorage, Region};
use raft::{GetEntriesContext, Storage as _};

use crate::support::{
    Rig, apply, config, config_with_files, data_of, entries, entry, hard_state, receive,
};

/// Where the child works; without it, its test does nothing.
const DIR: &str = "PEERSTORE_KILL_DIR";

/// A child and what it says, line by line. Dropping it kills it.
pub struct Running {
    child: Child,
    pub lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// With SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait_for(&mut self, wanted: &str) {
        let found = (&mut self.lines).map_while(Result::ok).any(|l| l == wanted);
        assert!(found, "the child never said \"{wanted}\"");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This test binary, running only `test`, as a process of its own.
pub fn spawn(test: &str, dir: &Path) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(test)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Running { child, lines }
}

pub fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(DIR).map(Into::into)
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test runner has begun a line of its own.
    writeln!(out, "\n{line}")
        .and_then(|()| out.flush())
        .unwrap();
}

/// A number below `end`, another one at each call.
pub fn random(end: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let random = std::collections::hash_map::RandomState::new();
    random.build_hasher().finish() % end
}

fn logged() -> Region {
    Region::with_voters(1, KeyRange::new("key", "kez"), [(1.into(), 1)])
}

fn installed() -> Region {
    Region::with_voters(2, KeyRange::new("s", "t"), [(1.into(), 1), (2.into(), 2)])
}

fn open_or_create(node: &CompositeStorage, region: &Region) -> PeerStorage {
    match node.open_region(region.id) {
        Err(peerstore::Error::RegionNotFound { .. }) => node.create_region(region).unwrap(),
        opened => opened.unwrap(),
    }
}

/// Applies what is committed and not applied yet, as every start has to.
fn catch_up(storage: &mut PeerStorage) {
    let (low, high) = (storage.applied_index() + 1, storage.hard_state().commit + 1);
    let context = GetEntriesContext::empty(false);
    let committed = storage.entries(low, high, None, context).unwrap();
    apply(storage, &committed).unwrap();
}

#[test]
#[ignore = "the child of the test below"]
fn the_child_that_is_killed() {
    let Some(dir) = child_dir() else { return };
    let node = CompositeStorage::open(dir, config(1)).unwrap();
    let mut storage = open_or_create(&node, &logged());
    catch_up(&mut storage);
    let mut target = open_or_create(&node, &installed());
    for round in 0.. {
        write_round(&mut storage, round);
        if round % 4 == 3 {
            install_round(&node, &mut target, round % 8 == 3);
        }
    }
}

/// A vote, entries, an overwrite of what is not committed, a commit, its application, a compaction.
fn write_round(storage: &mut PeerStorage, round: u64) {
    let term = storage.hard_state().term + u64::from(round.is_multiple_of(3));
    let commit = storage.hard_state().commit;
    let vote = term % 3 + 1;
    storage
        .set_hard_state(&hard_state(term, vote, commit))
        .unwrap();
    say(&format!("vote {term} {vote}"));
    let from = commit + 1;
    storage.append(&entries(term, from..from + 5)).unwrap();
    say(&format!("append {term} {}", from + 4));
    let term = term + 1;
    storage
        .set_hard_state(&hard_state(term, 1, commit))
        .unwrap();
    storage.append(&[entry(term, from + 2)]).unwrap();
    say(&format!("append {term} {}", from + 2));
    storage
        .set_hard_state(&hard_state(term, 1, from + 2))
        .unwrap();
    catch_up(storage);
    say(&format!("apply {term} {}", from + 2));
    if round.is_multiple_of(2) {
        storage.compact(from).unwrap();
        say(&format!("compact {term} {from}"));
    }
}

/// A snapshot of another node replaces the whole region: each of its keys holds the index.
fn install_round(node: &CompositeStorage, target: &mut PeerStorage, file: bool) {
    let index = target.applied_index() + 2;
    let rig = Rig::new(if file {
        config_with_files(2)
    } else {
        config(2)
    });
    let mut leader = rig.node.create_region(&installed()).unwrap();
    leader.append(&entries(6, 6..index + 1)).unwrap();
    let put = |entry: &raft::eraftpb::Entry, batch: &mut peerstore::ApplyBatch| {
        for key in 0..10 {
            batch.put(format!("s{key}"), entry.index.to_string());
        }
        Ok(())
    };
    leader.apply(&entries(6, 6..index + 1), put).unwrap();
    let snapshot = leader.wait_snapshot(crate::support::PATIENCE).unwrap();
    if file {
        let info = rig.snapshots.list(None).unwrap().remove(0);
        let mut bytes = Vec::new();
        (rig.snapshots.send(&info.key).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        receive(&**node.snapshots(), &bytes).unwrap();
    }
    target.install_snapshot(snapshot).unwrap();
    say(&format!("install 6 {index}"));
}

/// The last of each kind that the child has acknowledged.
#[derive(Debug, Default)]
struct Acked {
    vote: (u64, u64),
    last: LogPosition,
    applied: u64,
    first_index: u64,
    installed: u64,
    count: u64,
}

impl Acked {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, first, second] = words[..] else {
            return;
        };
        let (Ok(first), Ok(second)) = (first.parse(), second.parse()) else {
            return;
        };
        match kind {
            "vote" => self.vote = (first, second),
            "append" => self.last = LogPosition::new(first, second),
            "apply" => self.applied = second,
            "compact" => self.first_index = second,
            "install" => self.installed = second,
            _ => return,
        }
        self.count += 1;
    }
}

/// Runs the child until it has acknowledged `acks` more, kills it, and takes in all it had said.
fn run_and_kill(dir: &Path, acks: u64, acked: &mut Acked) {
    let mut child = spawn("killing::the_child_that_is_killed", dir);
    let enough = acked.count + acks;
    while acked.count < enough {
        let line = child.lines.next().expect("the child ended").unwrap();
        acked.take(&line);
    }
    std::thread::sleep(std::time::Duration::from_micros(random(3_000)));
    child.kill();
    let rest = (&mut child.lines).map_while(Result::ok);
    rest.for_each(|line| acked.take(&line));
}

fn check(dir: &Path, acked: &Acked) {
    let node = CompositeStorage::open(dir, config(1)).unwrap();
    if acked.count == 0 {
        return;
    }
    let mut storage = node.open_region(1).unwrap();
    let hard_state = storage.hard_state().clone();
    assert!(hard_state.term >= acked.vote.0, "{hard_state:?} {acked:?}");
    if hard_state.term == acked.vote.0 {
        assert_eq!(hard_state.vote, acked.vote.1, "a vote was lost: {acked:?}");
    }
    assert!(
        storage.last_position() >= acked.last,
        "{storage:?} {acked:?}"
    );
    assert!(storage.applied_index() >= acked.applied, "{acked:?}");
    assert!(storage.first_index().unwrap() >= acked.first_index);
    let (first, last) = (
        storage.first_index().unwrap(),
        storage.last_index().unwrap(),
    );
    let context = GetEntriesContext::empty(false);
    let log = storage.entries(first, last + 1, None, context).unwrap();
    assert_eq!(log.len() as u64, last + 1 - first);
    for found in log {
        assert_eq!(found, entry(found.term, found.index));
    }
    catch_up(&mut storage);
    for index in 6..acked.applied + 1 {
        let value = storage.get(format!("key{index:04}").as_bytes()).unwrap();
        assert!(value.is_some(), "key {index} is lost: {acked:?}");
    }
    check_installed(&node, acked);
}

fn check_installed(node: &CompositeStorage, acked: &Acked) {
    let Ok(target) = node.open_region(2) else {
        return assert_eq!(acked.installed, 0);
    };
    let applied = target.applied_index();
    assert!(applied >= acked.installed, "{target:?} {acked:?}");
    let of_region = data_of(node)
        .into_iter()
        .filter(|(k, _)| k.starts_with('s'));
    let values: Vec<String> = of_region.map(|(_, value)| value).collect();
    assert!(values.iter().all(|v| *v == applied.to_string()), "a mix");
    assert_eq!(values.len(), if applied > 5 { 10 } else { 0 });
    assert_eq!(target.raft_state().last_index, applied);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let kills = std::env::var("PEERSTORE_KILLS").map_or(10, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut acked = Acked::default();
    for _ in 0..kills {
        run_and_kill(dir.path(), 1 + random(60), &mut acked);
        check(dir.path(), &acked);
    }
    assert!(acked.count >= kills && acked.applied > 5);
}
