//! What must hold at every moment, looked at from outside: by what stores show, say and have on disk.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use peerstore::memory::MemoryData;
use peerstore::{
    DataRead, KeyRange, Keyspace, PeerBody, PeerState, RaftApplyState, RaftLogStorage, Region,
    RegionId, RegionLocalState, RegionStage, StoreMessage,
};
use raft::eraftpb::MessageType;

use crate::disk_log::DiskLog;
use crate::node::Node;
use crate::trace::mix;

type Disks = (Arc<DiskLog>, Arc<MemoryData>);

#[derive(Default)]
pub struct Checks {
    /// Who led a region in a term.
    leaders: BTreeMap<(RegionId, u64), u64>,
    /// What was applied at an index, and what the region and its data were then.
    entries: BTreeMap<(RegionId, u64), (u64, u64)>,
    replicas: BTreeMap<(RegionId, u64), (String, String)>,
    /// How far each replica was looked at.
    looked: BTreeMap<(u64, RegionId), (u64, u64)>,
    /// Where a store was ever told that a peer is gone for good.
    tombstones: BTreeMap<(u64, RegionId), u64>,
    /// How often two replicas were at the same index.
    pub compared: u64,
    /// For the network, which looks at what is said when it arrives.
    pub promises: Arc<Promises>,
}

/// What peers have said must be in their logs.
#[derive(Default)]
pub struct Promises {
    disks: Mutex<BTreeMap<u64, Disks>>,
    pub broken: Mutex<Option<String>>,
}

/// The regions on a disk, without those that are gone.
pub fn regions_of(data: &MemoryData) -> Vec<RegionLocalState> {
    let mut found = Vec::new();
    let all = KeyRange::all();
    let scanned = data.scan(Keyspace::RegionState, &all, &mut |key, value| {
        let id = peerstore::keys::parse_region_key(key).expect("a region's key");
        found.push(RegionLocalState::decode_of(id, value).expect("a region's state"));
        Ok(ControlFlow::Continue(()))
    });
    scanned.expect("a scan in memory");
    found
}

pub fn apply_state(data: &MemoryData, region: RegionId) -> Option<RaftApplyState> {
    let key = peerstore::keys::region_key(region);
    let bytes = data
        .get(Keyspace::ApplyState, &key)
        .expect("a read in memory");
    bytes.map(|b| RaftApplyState::decode_of(region, &b).expect("an apply state"))
}

/// The keys and values of a range.
pub fn content_of(data: &MemoryData, range: &KeyRange) -> String {
    let mut content = String::new();
    let scanned = data.scan(Keyspace::Data, range, &mut |key, value| {
        content += &String::from_utf8_lossy(key);
        content += "=";
        content += &String::from_utf8_lossy(value);
        content += ";";
        Ok(ControlFlow::Continue(()))
    });
    scanned.expect("a scan in memory");
    content
}

impl Checks {
    /// A store was opened over these disks: all of it is to be looked at again.
    pub fn opened(&mut self, node: &Node) {
        self.looked.retain(|(store, _), _| *store != node.id);
        let disks = (Arc::clone(&node.log), Arc::clone(&node.data));
        self.promises.disks.lock().unwrap().insert(node.id, disks);
    }

    /// What a restart finds: logs without a gap, whose terms never go down.
    pub fn check_logs(node: &Node) -> Result<(), String> {
        for state in regions_of(&node.data) {
            let region = state.region.region_id();
            if state.state == PeerState::Tombstone || !state.region.is_initialized() {
                continue;
            }
            let log = node.log.read_state(region).expect("a read in memory");
            let (Some(log), Some(apply)) = (log, apply_state(&node.data, region)) else {
                return Err(format!("store {}: region {region} lacks a state", node.id));
            };
            let mut term = apply.truncated_state.term;
            for index in apply.truncated_state.index + 1..=log.last_index {
                let entry = node
                    .log
                    .read_entry(region, index)
                    .expect("a read in memory");
                let found = entry.map_or(0, |e| e.term);
                if found < term || found > log.hard_state.term {
                    let id = node.id;
                    return Err(format!(
                        "store {id}: region {region} has term {found} at {index} behind {term}: {log:?}"
                    ));
                }
                term = found;
            }
        }
        Ok(())
    }

    /// What the store shows.
    pub fn look_at_store(&mut self, node: &Node) -> Result<(), String> {
        let Some(store) = node.store() else {
            return Ok(());
        };
        for status in store.regions() {
            let (id, region) = (node.id, status.region.region_id());
            if let RegionStage::Stopped(reason) = &status.state {
                let injected =
                    node.faulty || node.apply_failed.load(std::sync::atomic::Ordering::Relaxed);
                if !injected {
                    return Err(format!("store {id}: region {region} stopped: {reason}"));
                }
                continue;
            }
            if status.is_leader {
                let key = (region, status.term);
                let leader = *self.leaders.entry(key).or_insert(status.peer.0);
                if leader != status.peer.0 {
                    let (term, other) = (status.term, status.peer);
                    return Err(format!(
                        "region {region}: {leader} and {other} lead term {term}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What the store has on disk.
    pub fn look_at_disk(&mut self, node: &Node) -> Result<(), String> {
        let id = node.id;
        let states = regions_of(&node.data);
        check_ranges(id, &states)?;
        for state in states {
            let region = state.region.region_id();
            let gone = self.tombstones.entry((id, region)).or_default();
            if state.state == PeerState::Tombstone {
                *gone = state.peer_id.0.max(*gone);
                continue;
            }
            if state.peer_id.0 <= *gone {
                let peer = state.peer_id;
                return Err(format!("store {id}: peer {peer} of {region} came back"));
            }
            let is_whole = matches!(state.state, PeerState::Normal | PeerState::Merging);
            if is_whole && state.region.is_initialized() {
                self.look_at_replica(node, &state)?;
            }
        }
        Ok(())
    }

    fn look_at_replica(&mut self, node: &Node, state: &RegionLocalState) -> Result<(), String> {
        let (id, region) = (node.id, state.region.region_id());
        let Some(apply) = apply_state(&node.data, region) else {
            return Err(format!(
                "store {id}: region {region} without an apply state"
            ));
        };
        let applied = apply.applied_index;
        let looked = self.looked.entry((id, region)).or_insert((0, 0));
        if *looked == (state.peer_id.0, applied) {
            return Ok(());
        }
        let from = match looked.0 == state.peer_id.0 {
            true => looked.1.max(apply.truncated_state.index),
            false => apply.truncated_state.index,
        };
        *looked = (state.peer_id.0, applied);
        for index in from + 1..=applied {
            self.look_at_entry(node, region, index)?;
        }
        let content = content_of(&node.data, &state.region.range());
        let shown = format!("{:?} {:?}", state.state, show_region(&state.region));
        let seen = self.replicas.get(&(region, applied));
        match seen {
            Some((other, region_then)) => {
                self.compared += 1;
                if *other != content || *region_then != shown {
                    return Err(format!(
                        "store {id}: region {region} at {applied} is {content} {shown}, \
                         another replica was {other} {region_then}"
                    ));
                }
            }
            None => {
                self.replicas.insert((region, applied), (content, shown));
            }
        }
        Ok(())
    }

    /// Log matching: what is applied at an index is the same entry everywhere, for ever.
    fn look_at_entry(&mut self, node: &Node, region: RegionId, index: u64) -> Result<(), String> {
        // It may be compacted or, while a snapshot is being installed, not be there.
        let Ok(Some(entry)) = node.log.read_entry(region, index) else {
            return Ok(());
        };
        let content = mix(mix(0, &entry.data), &entry.context);
        let found = (entry.term, content);
        let known = *self.entries.entry((region, index)).or_insert(found);
        if known != found {
            let id = node.id;
            return Err(format!(
                "store {id}: region {region} has applied {found:?} at {index}, another replica {known:?}"
            ));
        }
        Ok(())
    }
}

/// No key has two owners on a store.
fn check_ranges(id: u64, states: &[RegionLocalState]) -> Result<(), String> {
    let live = |s: &&RegionLocalState| s.state != PeerState::Tombstone && s.region.is_initialized();
    let mut regions: Vec<&Region> = states.iter().filter(live).map(|s| &s.region).collect();
    regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    for pair in regions.windows(2) {
        let (left, right) = (pair[0], pair[1]);
        if left.end_key.is_empty() || left.end_key > right.start_key {
            let (left, right) = (show_region(left), show_region(right));
            return Err(format!("store {id}: {left} and {right} overlap"));
        }
    }
    Ok(())
}

pub fn show_region(region: &Region) -> String {
    let peers: Vec<String> = (region.peers.iter())
        .map(|p| {
            format!(
                "{}@{}{}",
                p.id,
                p.store_id,
                ["", "l", "i", "d"][p.role as usize & 3]
            )
        })
        .collect();
    let epoch = region.region_epoch;
    format!(
        "region {} [{}, {}) v{}.{} {}",
        region.id,
        region.start_key.escape_ascii(),
        region.end_key.escape_ascii(),
        epoch.version,
        epoch.conf_ver,
        peers.join(" ")
    )
}

pub fn show_message(message: &StoreMessage) -> String {
    let StoreMessage::Peer(envelope) = message else {
        return "alive".to_owned();
    };
    let (region, from, to) = (envelope.region, envelope.from.id, envelope.to.id);
    let body = match &envelope.body {
        PeerBody::Raft(m) => format!(
            "{:?} term {} log {}.{} commit {} entries {} reject {}",
            m.get_msg_type(),
            m.term,
            m.log_term,
            m.index,
            m.commit,
            m.entries.len(),
            m.reject
        ),
        PeerBody::Gone { into } => format!("gone into {:?}", into.as_ref().map(|r| r.id)),
        other => format!("{other:?}"),
    };
    format!("region {region} {from} to {to}: {body}")
}

impl Promises {
    /// What a message says that its sender has on disk must be there: a vote, entries.
    pub fn hear(&self, from: u64, message: &StoreMessage) {
        let StoreMessage::Peer(envelope) = message else {
            return;
        };
        let PeerBody::Raft(message) = &envelope.body else {
            return;
        };
        let kind = message.get_msg_type();
        let speaks = matches!(
            kind,
            MessageType::MsgRequestVoteResponse | MessageType::MsgAppendResponse
        );
        if message.reject || !speaks {
            return;
        }
        let disks = self.disks.lock().unwrap();
        let Some((log, data)) = disks.get(&from) else {
            return;
        };
        let key = peerstore::keys::region_key(envelope.region);
        let state = data
            .get(Keyspace::RegionState, &key)
            .expect("a read in memory");
        let state = state.and_then(|b| RegionLocalState::decode_of(envelope.region, &b).ok());
        // A peer that is gone has nothing to keep.
        let same = |s: &RegionLocalState| {
            s.peer_id.0 == message.from
                && !matches!(s.state, PeerState::Tombstone | PeerState::Applying)
        };
        if !state.is_some_and(|s| same(&s)) {
            return;
        }
        let durable = log.read_state(envelope.region).expect("a read in memory");
        let durable = durable.unwrap_or_default();
        let hard = &durable.hard_state;
        let kept = hard.term > message.term
            || hard.term == message.term
                && match kind {
                    MessageType::MsgRequestVoteResponse => hard.vote == message.to,
                    _ => durable.last_index >= message.index,
                };
        if !kept {
            let region = envelope.region;
            *self.broken.lock().unwrap() = Some(format!(
                "store {from}: region {region} said {kind:?} term {} index {} to {}, on disk {durable:?}",
                message.term, message.index, message.to
            ));
        }
    }
}
