//! Readies as raft makes them: a follower over raft's own `MemStorage` is told what a leader says.

use peerstore::raft_logger;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use raft::storage::MemStorage;
use raft::{Config, RawNode, Ready};

use crate::region::Region;

const LEADER: u64 = 9;

fn follower(region: &Region) -> RawNode<MemStorage> {
    let store = MemStorage::new();
    let (kv, log) = (region.now(), &region.visible);
    let mut core = store.wl();
    if kv.truncated.index > 0 {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (kv.truncated.index, kv.truncated.term);
        metadata.set_conf_state(kv.conf.clone());
        core.apply_snapshot(snapshot).expect("a new MemStorage");
    } else {
        core.set_conf_state(kv.conf.clone());
    }
    let entries = region.entries(kv.truncated.index + 1, log.last + 1);
    core.append(&entries).expect("a contiguous log");
    core.set_hardstate(log.hard.clone());
    drop(core);
    let config = Config {
        id: region.peer,
        applied: kv.applied,
        ..Config::default()
    };
    RawNode::new(&config, store, &raft_logger()).expect("a state that raft can start from")
}

fn told(region: &Region, mut message: Message) -> Option<Ready> {
    let mut node = follower(region);
    message.to = region.peer;
    node.step(message).expect("step");
    node.has_ready().then(|| node.ready())
}

fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.term) = (LEADER, term.max(1));
    message
}

/// A leader's entries, which begin behind the commit, and how far it has committed.
pub fn append(region: &Region, term: u64, entries: &[Entry], commit: u64) -> Option<Ready> {
    let mut append = message(MessageType::MsgAppend, term);
    append.index = entries.first()?.index - 1;
    append.log_term = region.term(append.index)?;
    append.commit = commit;
    append.entries = entries.to_vec().into();
    told(region, append)
}

/// A leader's word that `commit` is committed.
pub fn heartbeat(region: &Region, commit: u64) -> Option<Ready> {
    let mut heartbeat = message(MessageType::MsgHeartbeat, region.visible.hard.term);
    heartbeat.commit = commit;
    told(region, heartbeat)
}

/// A candidate who is ahead of everybody.
pub fn vote(region: &Region, candidate: u64) -> Option<Ready> {
    let term = region.visible.hard.term + 1;
    let mut vote = message(MessageType::MsgRequestVote, term);
    (vote.from, vote.log_term, vote.index) = (candidate, term, u64::MAX);
    told(region, vote)
}

/// A leader's snapshot.
pub fn snapshot(region: &Region, snapshot: &Snapshot) -> Option<Ready> {
    let term = (region.visible.hard.term).max(snapshot.get_metadata().term);
    let mut message = message(MessageType::MsgSnapshot, term);
    message.set_snapshot(snapshot.clone());
    told(region, message)
}
