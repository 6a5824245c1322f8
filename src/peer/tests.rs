//! The order in which raft is told things, with the disk, the applier and the network played by hand.

use std::sync::Arc;

use raft::StateRole;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

use super::{Outbox, Peer, PeerOptions, Stage};
use crate::app_store::AppBatch;
use crate::command::{AdminCommand, CompactLog, EntryHeader};
use crate::composite::{CompositeStorage, Parts};
use crate::config::Config;
use crate::kv::{KvCommand, KvStateMachine};
use crate::memory::{MemoryData, MemoryLog, MemorySnapshots};
use crate::proto::{INITIAL_INDEX, INITIAL_TERM, Peer as PeerMeta, Region};
use crate::snapshot_data::RaftSnapshotData;
use crate::transport::{PeerBody, PeerMessage};
use crate::types::{KeyRange, LogPosition, PeerId};
use crate::workers::{Applied, ApplyWork, PeerKey, SlowTask, SteppedWorkers};

/// Peer 1 of region 1, which the peers 2 and 3 share.
struct Rig {
    node: CompositeStorage,
    _workers: SteppedWorkers,
    peer: Peer,
    out: Outbox,
}

const FIRST: u64 = INITIAL_INDEX + 1;

impl Rig {
    fn new() -> Rig {
        let parts = Parts {
            log: Arc::new(MemoryLog::new()),
            app: Arc::new(MemoryData::new()),
            snapshots: Arc::new(MemorySnapshots::new()),
        };
        let config = Config {
            store_id: 1,
            ..Config::default()
        };
        let opened = CompositeStorage::from_parts_stepped(parts, &config);
        let (node, workers) = opened.expect("a node in memory");
        let voters = [1, 2, 3].map(|id| (PeerId(id), id));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        let storage = node.create_region(&region).expect("created");
        let key = PeerKey {
            region: 1.into(),
            incarnation: 1,
        };
        let peer = Peer::new(key, storage, Arc::new(PeerOptions::default()), 1);
        Rig {
            node,
            _workers: workers,
            peer: peer.expect("raft starts"),
            out: Outbox::new(1, Arc::new(|_| Box::new(KvStateMachine))),
        }
    }

    fn hear(&mut self, message: Message) {
        let meta = |id| PeerMeta {
            id,
            store_id: id,
            role: 0,
        };
        let envelope = PeerMessage {
            region: 1.into(),
            from: meta(message.from),
            to: meta(1),
            epoch: self.peer.region().region_epoch,
            range: None,
            body: PeerBody::Wake,
        };
        let heard = self.peer.step(&envelope, message);
        heard.expect("nothing is wrong with it");
        self.peer.collect(&mut self.out).expect("collected");
    }

    /// What was sent since the last call: kind, and the index that it is about.
    fn sent(&mut self) -> Vec<(MessageType, u64)> {
        let raft = |message: PeerMessage| match message.body {
            PeerBody::Raft(message) => Some((message.get_msg_type(), message.index)),
            _ => None,
        };
        let messages = self.out.messages.drain(..);
        messages.filter_map(|(_, message)| raft(message)).collect()
    }

    /// Writes what waits; the numbers of the readies that are in it. Nobody is told.
    fn write(&mut self) -> Vec<u64> {
        let task = std::mem::take(&mut self.out.write);
        self.node.write_log(&task.batch).expect("written");
        task.readies.into_iter().map(|(_, number)| number).collect()
    }

    fn persisted(&mut self, number: u64) {
        let told = self.peer.persisted(number, &mut self.out);
        told.expect("accepted");
        self.peer.collect(&mut self.out).expect("collected");
    }

    fn write_all(&mut self) {
        for number in self.write() {
            self.persisted(number);
        }
    }

    /// Applies everything that was handed over, as far as the raft thread can tell; the indexes.
    fn apply(&mut self) -> Vec<u64> {
        let mut indexes = Vec::new();
        for task in std::mem::take(&mut self.out.apply) {
            if let ApplyWork::Entries { entries, .. } = task.work {
                indexes.extend(entries.iter().map(|e| e.index));
            }
        }
        if let Some(last) = indexes.last() {
            let mut state = self.peer.storage().apply_state().clone();
            state.applied_index = *last;
            (state.commit_index, state.commit_term) = (*last, INITIAL_TERM);
            let applied = Applied {
                peer: self.peer.key(),
                state,
                region: None,
                bytes: 0,
            };
            self.peer.applied(applied, &mut self.out);
            self.peer.collect(&mut self.out).expect("collected");
        }
        indexes
    }
}

fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (2, 1, term);
    message
}

fn put(index: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (INITIAL_TERM, index);
    entry.data = KvCommand::put(index.to_string(), "v").encode().into();
    entry
}

/// An append of peer 2, which leads, of one entry for each of `indexes`.
fn append(indexes: std::ops::Range<u64>, commit: u64) -> Message {
    let mut append = message(MessageType::MsgAppend, INITIAL_TERM);
    (append.index, append.log_term) = (indexes.start - 1, INITIAL_TERM);
    append.commit = commit;
    append.set_entries(indexes.map(put).collect::<Vec<_>>().into());
    append
}

fn heartbeat(commit: u64) -> Message {
    let mut heartbeat = message(MessageType::MsgHeartbeat, INITIAL_TERM);
    heartbeat.commit = commit;
    heartbeat
}

const ACK: MessageType = MessageType::MsgAppendResponse;

/// Peer 1 as a candidate of the next term, with its vote for itself still to be written.
fn candidate() -> Rig {
    let mut rig = Rig::new();
    rig.peer.campaign().expect("it may");
    rig.peer.collect(&mut rig.out).expect("collected");
    // Who asks beforehand promises nothing, and writes nothing.
    assert_eq!(rig.sent().len(), 2);
    assert!(rig.out.write.batch.is_empty());
    let kind = MessageType::MsgRequestPreVoteResponse;
    rig.hear(message(kind, INITIAL_TERM + 1));
    assert_eq!(rig.peer.raft.raft.state, StateRole::Candidate);
    rig
}

#[test]
fn a_vote_is_asked_for_and_given_only_when_it_is_durable() {
    let mut rig = candidate();
    assert_eq!(rig.sent(), []);
    rig.write_all();
    let asked = rig.sent();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|m| m.0 == MessageType::MsgRequestVote));

    let mut rig = Rig::new();
    let mut request = message(MessageType::MsgRequestVote, INITIAL_TERM + 1);
    (request.index, request.log_term) = (INITIAL_INDEX, INITIAL_TERM);
    rig.hear(request);
    assert_eq!(rig.sent(), []);
    rig.write_all();
    assert_eq!(rig.sent(), [(MessageType::MsgRequestVoteResponse, 0)]);
}

#[test]
fn a_leader_s_messages_leave_before_its_own_disk_has_the_entries() {
    let mut rig = candidate();
    rig.write_all();
    rig.sent();
    rig.hear(message(
        MessageType::MsgRequestVoteResponse,
        INITIAL_TERM + 1,
    ));
    assert!(rig.peer.is_leader());
    let appends = [(MessageType::MsgAppend, INITIAL_INDEX); 2];
    assert_eq!(rig.sent(), appends);
    assert_eq!(
        rig.out.write.readies.len(),
        1,
        "and it is still to be written"
    );
    // One follower and a disk that has not answered are no majority of three.
    let mut ack = message(ACK, INITIAL_TERM + 1);
    ack.index = FIRST;
    rig.hear(ack);
    assert_eq!(rig.peer.raft.raft.raft_log.committed, INITIAL_INDEX);
    rig.write_all();
    assert_eq!(rig.peer.raft.raft.raft_log.committed, FIRST);
}

#[test]
fn a_follower_acknowledges_what_is_durable_and_several_writes_are_on_their_way() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 1, INITIAL_INDEX));
    let first = rig.write();
    rig.hear(append(FIRST + 1..FIRST + 3, INITIAL_INDEX));
    let second = rig.write();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(rig.peer.in_flight.len(), 2);
    assert_eq!(rig.sent(), []);
    rig.persisted(first[0]);
    assert_eq!(rig.sent(), [(ACK, FIRST)]);
    rig.persisted(second[0]);
    assert_eq!(rig.sent(), [(ACK, FIRST + 2)]);
    // One notice may stand for several.
    rig.hear(append(FIRST + 3..FIRST + 4, INITIAL_INDEX));
    rig.hear(append(FIRST + 4..FIRST + 5, INITIAL_INDEX));
    let numbers = rig.write();
    assert_eq!(numbers.len(), 2);
    rig.persisted(numbers[1]);
    assert_eq!(rig.sent(), [(ACK, FIRST + 3), (ACK, FIRST + 4)]);
    assert!(rig.peer.in_flight.is_empty());
}

#[test]
fn a_commit_alone_writes_nothing_and_its_answer_leaves_at_once() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 2, INITIAL_INDEX));
    rig.write_all();
    rig.sent();
    rig.hear(heartbeat(FIRST + 1));
    assert!(rig.out.write.batch.is_empty());
    assert!(rig.peer.in_flight.is_empty());
    assert_eq!(rig.sent(), [(MessageType::MsgHeartbeatResponse, 0)]);
    assert_eq!(rig.peer.storage().raft_state().hard_state.commit, FIRST + 1);
    assert_eq!(rig.apply(), [FIRST, FIRST + 1]);
}

#[test]
fn what_has_nothing_to_write_waits_for_the_last_write_that_is_on_its_way() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 1, INITIAL_INDEX));
    rig.hear(append(FIRST + 1..FIRST + 2, INITIAL_INDEX));
    let numbers = rig.write();
    rig.hear(heartbeat(INITIAL_INDEX));
    assert!(rig.out.write.batch.is_empty());
    assert_eq!(rig.sent(), []);
    rig.persisted(numbers[0]);
    assert_eq!(rig.sent(), [(ACK, FIRST)]);
    rig.persisted(numbers[1]);
    let answers = [(ACK, FIRST + 1), (MessageType::MsgHeartbeatResponse, 0)];
    assert_eq!(rig.sent(), answers);
}

#[test]
fn committed_entries_are_applied_only_when_this_disk_has_them() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 2, FIRST + 1));
    assert_eq!(rig.apply(), [0; 0]);
    rig.write_all();
    assert_eq!(rig.apply(), [FIRST, FIRST + 1]);
}

/// A snapshot of the region at `index`, by peer 2.
fn snapshot(rig: &Rig, index: u64) -> Message {
    let data = RaftSnapshotData {
        region: rig.peer.region().clone(),
        file_size: 0,
        version: 1,
        inline_file: b"never looked into".to_vec(),
        sequence: 1,
        digest: vec![0; 32],
        ..RaftSnapshotData::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.data = prost::Message::encode_to_vec(&data).into();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (index, INITIAL_TERM);
    meta.mut_conf_state().voters = vec![1, 2, 3];
    let mut message = message(MessageType::MsgSnapshot, INITIAL_TERM);
    message.set_snapshot(snapshot);
    message
}

#[test]
fn rule_23_a_snapshot_waits_until_everything_before_it_is_written_and_applied() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 2, FIRST + 1));
    rig.hear(snapshot(&rig, 50));
    assert!(
        rig.peer.snapshot_to_install().is_none(),
        "a write is on its way"
    );
    rig.write_all();
    assert!(
        rig.peer.snapshot_to_install().is_none(),
        "entries are being applied"
    );
    rig.apply();
    assert!(rig.peer.snapshot_to_install().is_some());
    assert!(rig.peer.snapshot_to_install().is_none(), "it is taken once");
}

#[test]
fn rule_24_a_peer_that_installs_a_snapshot_neither_ticks_nor_steps() {
    let mut rig = Rig::new();
    rig.hear(snapshot(&rig, 50));
    let offered = rig.peer.snapshot_to_install().expect("it may");
    let begun = rig.peer.install(offered, AppBatch::default(), &mut rig.out);
    begun.expect("begun");
    assert!(matches!(rig.peer.stage(), Stage::Installing(_)));
    assert!(matches!(rig.out.slow[..], [SlowTask::Install(..)]));
    let elapsed = rig.peer.raft.raft.election_elapsed;
    rig.peer.tick(&mut rig.out);
    assert_eq!(rig.peer.raft.raft.election_elapsed, elapsed);
    rig.hear(message(MessageType::MsgHeartbeat, INITIAL_TERM + 7));
    assert_eq!(rig.peer.raft.raft.term, INITIAL_TERM);
    assert_eq!(rig.sent(), []);
    assert!(rig.out.write.batch.is_empty());
    // Who is told to leave now waits for the install all the same.
    rig.peer.leave();
    assert!(!rig.peer.is_settled());
}

#[test]
fn no_election_is_begun_while_a_write_is_on_its_way() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 1, INITIAL_INDEX));
    for _ in 0..100 {
        rig.peer.tick(&mut rig.out);
    }
    rig.hear(message(MessageType::MsgTimeoutNow, INITIAL_TERM));
    assert!(rig.peer.campaign().is_err());
    assert_eq!(rig.peer.raft.raft.state, StateRole::Follower);
    assert_eq!(rig.peer.raft.raft.term, INITIAL_TERM);
    rig.write_all();
    rig.hear(message(MessageType::MsgTimeoutNow, INITIAL_TERM));
    assert_eq!(rig.peer.raft.raft.term, INITIAL_TERM + 1);
}

#[test]
fn an_admin_entry_waits_for_those_before_it_and_holds_up_those_behind_it() {
    let mut rig = Rig::new();
    let mut append = append(FIRST..FIRST + 3, FIRST + 2);
    let compact = AdminCommand::CompactLog(CompactLog {
        index: INITIAL_INDEX,
        term: INITIAL_TERM,
    });
    let admin = &mut append.mut_entries()[1];
    admin.data = Vec::new().into();
    admin.context = EntryHeader::admin(1, compact).to_context().into();
    rig.hear(append);
    rig.write_all();
    assert!(rig.out.admin.is_empty(), "what is before it is not applied");
    assert_eq!(rig.apply(), [FIRST]);
    assert_eq!(rig.out.admin, [rig.peer.key()]);
    assert_eq!(rig.apply(), [0; 0], "what is behind it waits");
    let entry = rig
        .peer
        .admin_entry()
        .expect("it decodes")
        .expect("its turn");
    assert_eq!(entry.entry.index, FIRST + 1);
}

#[test]
fn what_a_merge_carries_may_begin_before_a_log_that_a_snapshot_brought() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 2, INITIAL_INDEX));
    let carried: Vec<Entry> = (FIRST - 2..FIRST + 3).map(put).collect();
    let before = LogPosition::new(INITIAL_TERM, FIRST - 3);
    rig.peer.catch_up(before, FIRST + 2, &carried);
    let log = &rig.peer.raft.raft.raft_log;
    assert_eq!((log.committed, log.last_index()), (FIRST + 2, FIRST + 2));
}

#[test]
fn a_peer_that_leaves_goes_on_leaving_when_something_of_it_fails() {
    let mut rig = Rig::new();
    rig.hear(append(FIRST..FIRST + 1, FIRST));
    rig.write_all();
    rig.peer.leave();
    assert!(!rig.peer.is_settled(), "an entry is being applied");
    rig.peer.applier_failed();
    rig.peer.stop("the applier has failed");
    assert!(matches!(rig.peer.stage(), Stage::Leaving));
    assert!(rig.peer.is_settled());
}
