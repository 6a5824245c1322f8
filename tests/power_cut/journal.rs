//! What a node holds, as its interface tells it; what it has acknowledged; whether the one keeps the
//! other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use peerstore::{Error, Keyspace, PeerStorage, Result};
use raft::eraftpb::{Entry, EntryType};
use raft::{GetEntriesContext, Storage as _};

pub type Data = BTreeMap<Vec<u8>, Vec<u8>>;

/// One region. What is in here is there after an acknowledged write, or nothing of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    pub peer: u64,
    pub term: u64,
    pub vote: u64,
    pub truncated: (u64, u64),
    /// Term, and what is in it, of every entry behind the truncated one.
    pub entries: Vec<(u64, u64)>,
    pub conf_state: String,
    pub conf_ver: u64,
}

/// And what may lag behind, because it is found again: data from the log, the commit from the leader.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub fixed: Fixed,
    pub commit: u64,
    pub applied: u64,
    pub data: Data,
}

pub type Node = BTreeMap<u64, Seen>;

/// Looks at a region through its interface.
pub fn observe(storage: &PeerStorage) -> Result<Seen> {
    let first = storage.truncated_index() + 1;
    let last = storage.raft_state().last_index;
    let entries = read(storage, first, last + 1)?;
    let numbers: Vec<u64> = entries.iter().map(|e| e.index).collect();
    assert_eq!(numbers, (first..last + 1).collect::<Vec<_>>());
    let mut data = Data::new();
    let region = storage.region();
    if region.is_initialized() {
        let app = storage.app();
        app.scan(Keyspace::Data, &region.range(), &mut |key, value| {
            data.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let hard_state = storage.hard_state();
    Ok(Seen {
        fixed: Fixed {
            peer: storage.peer_id().0,
            term: hard_state.term,
            vote: hard_state.vote,
            truncated: (storage.truncated_index(), storage.truncated_term()),
            entries: entries.iter().map(|e| (e.term, content(e))).collect(),
            conf_state: format!("{:?}", storage.conf_state()),
            conf_ver: region.region_epoch.conf_ver,
        },
        // What was applied is committed, whatever the hard state still says.
        commit: hard_state.commit.max(storage.applied_index()),
        applied: storage.applied_index(),
        data,
    })
}

/// The entries of `[low, high)`.
pub fn read(storage: &PeerStorage, low: u64, high: u64) -> Result<Vec<Entry>> {
    let read = storage.entries(low, high, None, GetEntriesContext::empty(false));
    read.map_err(|error| Error::Engine {
        op: "read entries of",
        path: format!("region {}", storage.region_id()).into(),
        message: error.to_string(),
    })
}

fn content(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        entry.get_entry_type() as i32,
        &entry.data[..],
        &entry.context[..],
    )
        .hash(&mut hasher);
    hasher.finish()
}

/// What an entry does to the data: `key=value` puts, `key` alone removes.
pub fn effect(entry: &Entry) -> Option<(&[u8], Option<&[u8]>)> {
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return None;
    }
    let bytes = &entry.data[..];
    Some(match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    })
}

pub fn apply_to(data: &mut Data, entry: &Entry) {
    match effect(entry) {
        Some((key, Some(value))) => drop(data.insert(key.to_vec(), value.to_vec())),
        Some((key, None)) => drop(data.remove(key)),
        None => {}
    }
}

/// Applies committed entries to the store.
pub fn apply_entries(storage: &mut PeerStorage, entries: &[Entry]) -> Result<()> {
    storage.apply(entries, |entry, batch| {
        match effect(entry) {
            Some((key, Some(value))) => batch.put(key, value),
            Some((key, None)) => batch.delete(key),
            None => {}
        }
        Ok(())
    })
}

/// A step of the workload that has returned.
#[derive(Clone, Debug)]
pub struct Ack {
    /// How many changes of the disk there had been.
    pub position: usize,
    pub what: String,
    pub node: Node,
    /// By region: below these, commit and applied index do not fall any more.
    floors: BTreeMap<u64, Floor>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    commit: u64,
    applied: u64,
}

/// Which of the two databases a step made durable, with all that was written to it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    Nothing,
    Log,
    Data,
    Both,
}

/// Everything that was acknowledged, in order.
#[derive(Clone, Debug)]
pub struct Journal {
    pub acks: Vec<Ack>,
    /// By region and peer: what the data is at each applied index.
    pub data_at: BTreeMap<(u64, u64), BTreeMap<u64, Data>>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal {
            acks: vec![Ack {
                position: 0,
                what: "the beginning".into(),
                node: Node::new(),
                floors: BTreeMap::new(),
            }],
            data_at: BTreeMap::new(),
        }
    }

    pub fn last(&self) -> &Ack {
        &self.acks[self.acks.len() - 1]
    }

    pub fn ack(&mut self, position: usize, what: String, node: Node, synced: Synced) {
        let mut floors = self.last().floors.clone();
        floors.retain(|region, _| node.contains_key(region));
        for (region, seen) in &node {
            let floor = floors.entry(*region).or_default();
            if matches!(synced, Synced::Log | Synced::Both) {
                floor.commit = seen.commit;
            }
            if matches!(synced, Synced::Data | Synced::Both) {
                floor.applied = seen.applied;
            }
            let known = self.data_at.entry((*region, seen.fixed.peer)).or_default();
            let expected = known
                .entry(seen.applied)
                .or_insert_with(|| seen.data.clone());
            assert_eq!(*expected, seen.data, "{what}: data of region {region}");
        }
        self.acks.push(Ack {
            position,
            what,
            node,
            floors,
        });
    }

    /// Notes what applying `entries` makes of the data, before it is done.
    pub fn expect_applied(&mut self, region: u64, peer: u64, entries: &[Entry]) {
        let known = self.data_at.entry((region, peer)).or_default();
        for entry in entries {
            let mut data = known.get(&(entry.index - 1)).cloned().unwrap_or_default();
            apply_to(&mut data, entry);
            known.insert(entry.index, data);
        }
    }

    /// Which step was the last to return before change `position`.
    pub fn acked_at(&self, position: usize) -> usize {
        self.acks.partition_point(|ack| ack.position <= position) - 1
    }

    /// Whether `node` is as after step `acked`, or as after the next, which had perhaps begun.
    pub fn check(&self, acked: usize, node: &Node) -> Result<(), String> {
        let floors = &self.acks[acked].floors;
        let reason = match self.matches(node, &self.acks[acked], floors) {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        };
        let Some(next) = self.acks.get(acked + 1) else {
            let last = &self.acks[acked].what;
            return Err(format!("not as after \"{last}\": {reason}"));
        };
        self.matches(node, next, floors).map_err(|other| {
            let (this, next) = (&self.acks[acked].what, &next.what);
            format!("not as after \"{this}\": {reason}\nnor as after \"{next}\": {other}")
        })
    }

    fn matches(&self, node: &Node, ack: &Ack, floors: &BTreeMap<u64, Floor>) -> Result<(), String> {
        let regions = |node: &Node| node.keys().copied().collect::<Vec<_>>();
        if regions(node) != regions(&ack.node) {
            let expected = regions(&ack.node);
            return Err(format!(
                "regions {:?}, expected {expected:?}",
                regions(node)
            ));
        }
        for (region, seen) in node {
            let expected = &ack.node[region];
            let of = |what: String| format!("region {region}: {what}");
            if seen.fixed != expected.fixed {
                let (got, expected) = (shown(&seen.fixed), shown(&expected.fixed));
                return Err(of(format!("{got}, expected {expected}")));
            }
            let floor = floors.get(region).copied().unwrap_or_default();
            for (what, got, low, high) in [
                ("commit", seen.commit, floor.commit, expected.commit),
                ("applied", seen.applied, floor.applied, expected.applied),
            ] {
                if !(low..=high).contains(&got) {
                    return Err(of(format!("{what} {got}, expected {low} to {high}")));
                }
            }
            let data = &self.data_at[&(*region, seen.fixed.peer)];
            if data.get(&seen.applied) != Some(&seen.data) {
                let (index, count) = (seen.applied, seen.data.len());
                return Err(of(format!(
                    "the data, {count} keys, is not that at {index}"
                )));
            }
        }
        Ok(())
    }
}

/// With the entries counted only, unless they are few.
fn shown(fixed: &Fixed) -> String {
    let terms: Vec<u64> = fixed.entries.iter().map(|(term, _)| *term).collect();
    format!(
        "peer {} term {} vote {} truncated {:?} terms {terms:?} conf {} {}",
        fixed.peer, fixed.term, fixed.vote, fixed.truncated, fixed.conf_ver, fixed.conf_state
    )
}
