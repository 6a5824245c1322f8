//! What must hold of one region, as plain data.

use std::collections::BTreeMap;

use peerstore::LogPosition;
use raft::eraftpb::{ConfState, Entry, HardState};

/// Term, vote, commit and entries: what the log store keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    pub entries: BTreeMap<u64, Entry>,
    pub last: u64,
    pub hard: HardState,
}

impl Log {
    /// Replaces what follows the first of `entries`.
    pub fn append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        self.entries.split_off(&first.index);
        self.entries
            .extend(entries.iter().map(|e| (e.index, e.clone())));
        self.last = last.index;
    }
}

/// What the data store keeps, moved by one batch at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kv {
    pub truncated: LogPosition,
    pub applied: u64,
    pub conf: ConfState,
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One region: what reads must show, and what a power cut may leave.
#[derive(Clone, Debug)]
pub struct Region {
    pub id: u64,
    pub peer: u64,
    /// Whether its peers are known. Nothing is applied before.
    pub initialized: bool,
    /// With everything that is staged.
    pub visible: Log,
    /// What the written batches hold.
    pub durable: Log,
    /// A commit that no power cut takes back.
    pub commit_min: u64,
    /// The states that a power cut may leave, in their order; the last is the present one.
    pub kv: Vec<Kv>,
}

/// What was read from a region that was just opened.
#[derive(Debug)]
pub struct Observed {
    pub log: Log,
    pub kv: Kv,
    pub peer: u64,
}

impl Region {
    pub fn now(&self) -> &Kv {
        self.kv.last().expect("there is always a present state")
    }

    /// The term of an index of the visible log.
    pub fn term(&self, index: u64) -> Option<u64> {
        let truncated = self.now().truncated;
        if index == truncated.index {
            return Some(truncated.term);
        }
        let in_log = index > truncated.index && index <= self.visible.last;
        in_log.then(|| self.visible.entries[&index].term)
    }

    /// The visible entries of `[low, high)`.
    pub fn entries(&self, low: u64, high: u64) -> Vec<Entry> {
        let range = self.visible.entries.range(low..high.max(low));
        range.map(|(_, entry)| entry.clone()).collect()
    }

    /// A batch that was not synced.
    pub fn push_kv(&mut self, kv: Kv) {
        self.kv.push(kv);
    }

    /// A batch of the data store was synced, and with it all before.
    pub fn kv_synced(&mut self) {
        self.kv.drain(..self.kv.len() - 1);
    }

    /// A batch of the log store was synced, and with it all before.
    pub fn log_synced(&mut self) {
        self.commit_min = self.durable.hard.commit;
    }

    /// The call that led here from `before` failed in the middle: what it would have synced along with
    /// its own may not be.
    pub fn may_not_be_synced(&mut self, before: &Region) {
        self.commit_min = self.commit_min.min(before.commit_min);
        if self.kv.last() == before.kv.last() {
            self.kv = before.kv.clone();
        }
    }

    /// What the region is if `seen` was found, or why it must not be found.
    pub fn after(&self, seen: &Observed) -> Result<Region, String> {
        let kv = self.kv.iter().rev().find(|kv| **kv == seen.kv);
        let kv = kv.ok_or_else(|| {
            format!(
                "region {}: data store has {:?}, expected one of {:?}",
                self.id, seen.kv, self.kv
            )
        })?;
        let want = &self.durable;
        let complain = |what: &str| {
            let (id, log) = (self.id, &seen.log);
            format!("region {id}: {what}: log has {log:?}, expected {want:?}")
        };
        if seen.peer != self.peer {
            return Err(complain("another peer"));
        }
        if seen.log.last != want.last {
            return Err(complain("last index"));
        }
        let from = kv.truncated.index + 1;
        let kept: BTreeMap<_, _> = want.entries.range(from..).collect();
        if kept != seen.log.entries.iter().collect() {
            return Err(complain("entries"));
        }
        let (got, hard) = (&seen.log.hard, &want.hard);
        if (got.term, got.vote) != (hard.term, hard.vote) {
            return Err(complain("term or vote"));
        }
        let low = self.commit_min.max(kv.applied);
        let high = hard.commit.max(kv.applied);
        if !(low..=high).contains(&got.commit) {
            return Err(complain(&format!("commit not in {low}..={high}")));
        }
        // What recovery made of the commit is in memory only; the log may still have less.
        Ok(Region {
            visible: seen.log.clone(),
            durable: seen.log.clone(),
            commit_min: self.commit_min,
            kv: vec![kv.clone()],
            ..self.clone()
        })
    }
}

/// What an entry does to the data of its region.
pub enum Effect {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Conf(ConfState),
    Nothing,
}

/// The effect of `entry` in `region`, told by its first bytes.
pub fn effect(region: u64, entry: &Entry) -> Effect {
    let key = |n: u8| format!("{region}/{}", n % 8).into_bytes();
    match entry.data[..] {
        [kind, n, ..] if kind < 160 => Effect::Put(key(n), entry.data.to_vec()),
        [kind, n, ..] if kind < 220 => Effect::Delete(key(n)),
        [_, n, ..] => Effect::Conf(conf(n)),
        _ => Effect::Nothing,
    }
}

/// One of several configurations; every peer that a test uses votes in all of them.
pub fn conf(n: u8) -> ConfState {
    let mut conf = ConfState::default();
    conf.voters = (1..=9).collect();
    conf.learners = vec![20 + u64::from(n % 4)];
    if n % 2 == 1 {
        conf.voters_outgoing = (1..=8).collect();
        conf.auto_leave = true;
    }
    conf
}

/// Carries out `entries` on a copy of `kv`.
pub fn applied(region: u64, kv: &Kv, entries: &[Entry]) -> Kv {
    let mut kv = kv.clone();
    for entry in entries {
        kv.applied = entry.index;
        match effect(region, entry) {
            Effect::Put(key, value) => drop(kv.data.insert(key, value)),
            Effect::Delete(key) => drop(kv.data.remove(&key)),
            Effect::Conf(conf) => kv.conf = conf,
            Effect::Nothing => {}
        }
    }
    kv
}
