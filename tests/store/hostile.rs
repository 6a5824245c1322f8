//! Messages of a store that has gone mad: each is refused before anything is touched, and counted.

use std::sync::{Arc, Mutex};

use peerstore::memory::MemorySnapshots;
use peerstore::{
    Inbox, KeyRange, Peer, PeerBody, PeerId, PeerMessage, RegionId, RegionStatus, Result, Store,
    StoreMessage, Transport,
};
use proptest::prelude::*;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::cluster::{Cluster, wait};
use crate::forged::{Forged, by_log, by_snapshot, by_words, message};

/// The third store of a cluster of three, after something else has come in its place.
struct Mad {
    transport: Arc<dyn Transport>,
    heard: Arc<Heard>,
}

/// The newest append that a leader has sent it.
#[derive(Default)]
struct Heard(Mutex<Option<Message>>);

impl Inbox for Heard {
    fn message(&self, _: u64, message: StoreMessage) {
        if let StoreMessage::Peer(peer) = message
            && let PeerBody::Raft(message) = peer.body
            && message.get_msg_type() == MessageType::MsgAppend
        {
            *self.0.lock().unwrap() = Some(message);
        }
    }

    fn unreachable(&self, _: RegionId, _: PeerId) {}

    fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}

    fn accepts_snapshot(&self, _: u64, _: &PeerMessage) -> Result<()> {
        Ok(())
    }
}

/// Stores 1 and 2 of three, with region 1 below "k" and the region of the answer above; store 3 is mad.
fn cluster() -> (Cluster, Mad, RegionId) {
    let mut cluster = Cluster::new(3);
    cluster.create_region();
    cluster.put("a", "1");
    cluster.put("z", "1");
    wait("the split", || {
        let region = cluster.region_of("a")?;
        cluster
            .leader(region.0)
            .split(region, "k")
            .wait(crate::cluster::PATIENCE)
            .ok()
    });
    let right = wait("the new region", || {
        cluster.region_of("z").filter(|region| region.0 != 1)
    });
    cluster.put("z", "2");
    cluster.stop(3);
    for key in ["a", "z"] {
        cluster.put(key, "3");
    }
    let heard = Arc::new(Heard::default());
    let transport = cluster.network.transport(3);
    let inbox = Arc::clone(&heard);
    transport
        .start(inbox, Arc::new(MemorySnapshots::new()))
        .unwrap();
    (cluster, Mad { transport, heard }, right)
}

fn peer(id: u64, store_id: u64) -> Peer {
    Peer {
        id,
        store_id,
        role: 0,
    }
}

impl Mad {
    /// What its peer of region 1 says to the one on the store that `status` is of.
    fn envelope(&self, status: &RegionStatus, store: u64, message: Message) -> PeerMessage {
        PeerMessage {
            region: RegionId(1),
            from: peer(103, 3),
            to: peer(status.peer.0, store),
            epoch: status.region.region_epoch,
            range: None,
            body: PeerBody::Raft(message),
        }
    }

    fn send(&self, store: u64, envelope: PeerMessage) {
        self.transport
            .send(store, StoreMessage::Peer(Box::new(envelope)));
    }

    /// Where the leader's log ends, and what it has committed: told by its next append.
    fn end_of_log(&self, leader: &Store) -> Message {
        let status = leader.region(1).unwrap();
        wait("an append", || {
            let mut alive = message(MessageType::MsgHeartbeatResponse, &status);
            alive.term = leader.region(1)?.term;
            self.send(
                leader.store_id(),
                self.envelope(&status, leader.store_id(), alive),
            );
            self.heard.0.lock().unwrap().take()
        })
    }
}

fn total(store: &Store) -> u64 {
    store.stats().refused.values().sum()
}

fn data(store: &Store) -> Option<Vec<u8>> {
    wait("a read", || {
        store.read(1).wait(crate::cluster::PATIENCE).ok()
    })
    .get(b"a")
    .unwrap()
}

#[test]
fn what_raft_could_not_survive_is_refused_before_anything_is_touched() {
    let (cluster, mad, right) = cluster();
    let leader = cluster.leader(1);
    let end = mad.end_of_log(leader);
    let follower = cluster
        .stores
        .values()
        .find(|s| s.store_id() != leader.store_id());
    for store in [leader, follower.unwrap()] {
        let all = by_log().into_iter().chain(by_words()).chain(by_snapshot());
        for Forged { kind, what, make } in all {
            let before = (store.region(1).unwrap(), data(store), total(store));
            let counted = store.stats().refused.get(kind).copied();
            let forged = make(&before.0, &end);
            mad.send(
                store.store_id(),
                mad.envelope(&before.0, store.store_id(), forged),
            );
            wait(what, || (total(store) > before.2).then_some(()));
            let now = store.stats().refused.get(kind).copied();
            assert_eq!(
                now,
                Some(counted.unwrap_or(0) + 1),
                "{what}: {:?}",
                store.stats()
            );
            assert_eq!(
                (store.region(1).unwrap(), data(store)),
                (before.0, before.1),
                "{what}"
            );
        }
        assert_eq!(store.stats().regions_stopped, 0);
        assert!(store.read(right).wait(crate::cluster::PATIENCE).is_ok());
    }
    cluster.put("a", "4");
}

#[test]
fn a_leader_is_not_told_of_entries_that_it_has_not() {
    let (cluster, mad, _) = cluster();
    let leader = cluster.leader(1);
    let before = leader.region(1).unwrap();
    let mut forged = message(MessageType::MsgAppendResponse, &before);
    forged.index = mad.end_of_log(leader).commit + 100;
    mad.send(
        leader.store_id(),
        mad.envelope(&before, leader.store_id(), forged),
    );
    wait("a refusal", || {
        leader.stats().refused.get("response").copied()
    });
    assert_eq!(leader.region(1).unwrap(), before);
    cluster.put("a", "4");
}

#[test]
fn envelopes_that_lie_are_refused_before_anything_is_touched() {
    type Forge = fn(&mut PeerMessage);
    let cases: [(&str, Forge); 6] = [
        ("foreign sender", |e| e.from.store_id = 1),
        ("foreign store", |e| e.to.store_id = 9),
        ("ids", |e| e.region = RegionId(0)),
        ("ids", |e| e.from.id = 0),
        ("unknown sender", |e| {
            e.from.id = 77;
            if let PeerBody::Raft(message) = &mut e.body {
                message.from = 77;
            }
        }),
        // The store is one of the region's, and the peer lives on another.
        ("unknown sender", |e| {
            e.from.id = 102;
            if let PeerBody::Raft(message) = &mut e.body {
                message.from = 102;
            }
        }),
    ];
    let (cluster, mad, _) = cluster();
    let store = cluster.leader(1);
    for (kind, forge) in cases {
        let (before, count) = (store.region(1).unwrap(), total(store));
        let mut vote = message(MessageType::MsgRequestVote, &before);
        vote.term += 5;
        let mut envelope = mad.envelope(&before, store.store_id(), vote);
        forge(&mut envelope);
        mad.send(store.store_id(), envelope);
        wait(kind, || (total(store) > count).then_some(()));
        assert!(
            store.stats().refused.contains_key(kind),
            "{:?}",
            store.stats()
        );
        assert_eq!(store.region(1).unwrap(), before, "{kind}");
    }
    cluster.put("a", "4");
}

#[test]
fn a_message_makes_no_peer_over_keys_of_another_region_nor_of_what_it_may_not() {
    let (cluster, mad, _) = cluster();
    let store = cluster.leader(1);
    let status = store.region(1).unwrap();
    let count = total(store);
    let mut vote = message(MessageType::MsgRequestVote, &status);
    vote.to = 70;
    let mut envelope = mad.envelope(&status, store.store_id(), vote);
    envelope.region = RegionId(55);
    envelope.to.id = 70;
    envelope.range = Some(KeyRange::new("b", "c"));
    mad.send(store.store_id(), envelope.clone());
    wait("a refusal", || (total(store) > count).then_some(()));
    assert!(store.stats().refused.contains_key("overlap"));
    // An append makes nobody; the next message that is refused says that it was looked at.
    let mut append = message(MessageType::MsgAppend, &status);
    append.to = 70;
    let mut nobody = envelope.clone();
    (nobody.range, nobody.body) = (None, PeerBody::Raft(append));
    let before = store.stats().refused["overlap"];
    mad.send(store.store_id(), nobody);
    mad.send(store.store_id(), envelope);
    wait("the second", || {
        (store.stats().refused["overlap"] > before).then_some(())
    });
    assert_eq!(store.region(55), None);
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..20u64,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX >> 1),
        1 => any::<u64>(),
    ]
}

/// Every type of raft's messages, whatever its codec.
const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

const ENTRY_KINDS: [EntryType; 3] = [
    EntryType::EntryNormal,
    EntryType::EntryConfChange,
    EntryType::EntryConfChangeV2,
];

prop_compose! {
    fn any_message()(
        kind in 0..19i32,
        to in prop_oneof![Just(0u64), Just(101), Just(102), Just(103)],
        term in 0..4u64,
        numbers in proptest::array::uniform6(numbers()),
        near in any::<[bool; 3]>(),
        reject in any::<bool>(),
        entries in proptest::collection::vec((0..4u64, 0..3i32, proptest::collection::vec(any::<u8>(), 0..4)), 0..3),
        context in proptest::collection::vec(any::<u8>(), 0..26),
        broken in 0..40u8,
    ) -> (Message, u64, u8) {
        let mut message = Message::default();
        message.set_msg_type(KINDS[kind as usize % KINDS.len()]);
        message.from = 103;
        message.term = term;
        message.index = numbers[0];
        message.log_term = numbers[1];
        message.commit = numbers[2];
        message.reject_hint = numbers[3];
        message.request_snapshot = if near[0] { 0 } else { numbers[4] };
        message.commit_term = numbers[5];
        message.reject = reject;
        message.context = context.into();
        let first = message.index;
        let entries = entries.into_iter().zip(1..).map(|((term, kind, bytes), at)| {
            let mut entry = Entry::default();
            entry.term = term;
            entry.index = first.wrapping_add(at);
            entry.set_entry_type(ENTRY_KINDS[kind as usize % ENTRY_KINDS.len()]);
            entry.data = bytes.clone().into();
            if near[1] { entry.context = bytes.into(); }
            entry
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        (message, to, broken)
    }
}

#[test]
fn whatever_a_mad_peer_says_no_region_stops_and_the_others_serve() {
    let (cluster, mad, right) = cluster();
    let runner_config = ProptestConfig {
        cases: 1_500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        runner_config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let result = runner.run(&any_message(), |(mut message, to, broken)| {
        for store in cluster.stores.values() {
            let Some(status) = store.region(1) else {
                continue;
            };
            message.to = if to == 0 { 0 } else { status.peer.0 };
            let mut forged = message.clone();
            // Mostly of the present term or the next: what is old is not even looked at.
            forged.term = match message.term {
                0 => 0,
                behind => (status.term + behind).saturating_sub(2),
            };
            let base = status.term.saturating_sub(2);
            for entry in forged.mut_entries().iter_mut() {
                entry.term += base;
            }
            let mut envelope = mad.envelope(&status, store.store_id(), forged);
            match broken {
                0 => envelope.region = right,
                1 => envelope.from.id = 7,
                2 => envelope.epoch.version += 5,
                3 => envelope.epoch.conf_ver += 5,
                4 => {
                    envelope.body = PeerBody::Sleep {
                        term: status.term,
                        commit: 8,
                    }
                }
                5 => envelope.body = PeerBody::Wake,
                _ => {}
            }
            mad.send(store.store_id(), envelope);
        }
        Ok(())
    });
    result.unwrap();
    cluster.put("z", "4");
    for store in cluster.stores.values() {
        let stats = store.stats();
        assert_eq!(stats.regions_stopped, 0, "{:?}", store.regions());
        assert!(stats.refused.len() > 5, "{stats:?}");
    }
    let reader = wait("a read", || {
        cluster
            .leader(right.0)
            .read(right)
            .wait(crate::cluster::PATIENCE)
            .ok()
    });
    assert_eq!(reader.get(b"z").unwrap().as_deref(), Some(&b"4"[..]));
}
