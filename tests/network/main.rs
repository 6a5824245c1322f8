//! What the network in memory does to messages and snapshots, and that a seed decides all of it.

mod snapshots;
mod support;
mod threads;

use std::collections::BTreeSet;
use std::sync::Arc;

use peerstore::memory::{MessageKind, NetworkOptions, Traffic};
use peerstore::{PeerBody, PeerId, PeerMessage, RegionId, StoreMessage};

use support::*;

/// What was heard, how much of it after each step, and what became of the messages.
type Story = (Vec<(u64, Heard)>, Vec<usize>, Traffic);

/// Everything that can happen, as `chances` has it.
fn story(seed: u64, chances: u64) -> Story {
    let mut town = Town::stepped(seed, rough());
    let key = snapshot_of(&town.store(1).ears);
    let mut chances = Dice::new(chances);
    let mut lengths = Vec::new();
    for number in 0..600 {
        let (a, b) = (chances.within(1..=3), chances.within(1..=4));
        match chances.within(0..=29) {
            0 => town.network.cut(a, b),
            1 => town.network.isolate(b),
            2..=4 => town.network.heal(),
            5 => {
                town.network.disconnect(a);
                town.stores[a as usize - 1] = town.connect(a, chances.within(0..=2) == 0);
            }
            6 => town
                .store(1)
                .transport
                .send_snapshot(b, snapshot_message(1, b), key),
            7..=9 => town.network.tick(),
            10..=14 => drop(town.network.deliver_next()),
            15 => town
                .store(a)
                .transport
                .send(b, StoreMessage::Alive { max_id: number }),
            _ => town.send(a, b, number),
        }
        town.assert_balanced();
        lengths.push(town.trace.lock().unwrap().len());
    }
    town.settle();
    town.assert_balanced();
    (town.heard(), lengths, town.network.total())
}

#[test]
fn the_same_seed_and_calls_give_the_same_story() {
    let stories: Vec<Story> = (0..10).map(|seed| story(seed, 1)).collect();
    for (seed, told) in (0..).zip(&stories) {
        assert!(story(seed, 1) == *told, "seed {seed}");
        assert!(story(seed + 1, 1) != *told, "seed {seed}");
    }
    let t: Traffic = stories.iter().map(|(_, _, traffic)| *traffic).sum();
    let faults = [
        t.duplicated,
        t.reordered,
        t.lost,
        t.cut,
        t.unreached,
        t.refused,
    ];
    assert!(faults.iter().all(|count| *count > 0), "{t:?}");
}

#[test]
fn without_a_fault_everything_arrives_once_in_order_and_in_its_time() {
    let town = Town::stepped(3, of_delay(2..=4));
    for number in 0..50 {
        town.send(1, 2, number);
        town.send(3, 2, number);
    }
    town.network.tick();
    assert!(!town.network.deliver_next());
    assert_eq!((town.network.now(), town.network.in_flight()), (1, 100));
    for _ in 0..3 {
        town.network.tick();
        while town.network.deliver_next() {}
    }
    assert_eq!(town.network.in_flight(), 0);
    let sent: Vec<u64> = (0..50).collect();
    assert_eq!(town.numbers(1, 2), sent);
    assert_eq!(town.numbers(3, 2), sent);
    let traffic = town.network.traffic(MessageKind::Raft);
    assert_eq!(traffic, town.network.total());
    assert_eq!(
        (traffic.sent, traffic.delivered, traffic.reordered),
        (100, 100, 0)
    );
    let mut senders = town.heard().into_iter().map(|(_, heard)| match heard {
        Heard::Message { from, .. } => from,
        other => panic!("{other:?}"),
    });
    let first = senders.next();
    let mixed = senders.any(|from| Some(from) != first) && senders.any(|from| Some(from) == first);
    assert!(mixed, "the ways do not wait for each other");
}

#[test]
fn messages_overtake_each_other_only_if_they_may() {
    let options = NetworkOptions {
        reorder: true,
        ..of_delay(1..=1)
    };
    let town = Town::stepped(3, options);
    let sent: Vec<u64> = (0..50).collect();
    sent.iter().for_each(|number| town.send(1, 2, *number));
    town.settle();
    let mut got = town.numbers(1, 2);
    assert_ne!(got, sent);
    got.sort_unstable();
    assert_eq!(got, sent);
    let reordered = town.network.total().reordered;
    assert!((10..50).contains(&reordered), "{reordered}");
}

#[test]
fn messages_are_lost_and_doubled_as_often_as_asked_for() {
    let town = Town::stepped(5, of_delay(0..=0));
    let send = |loss_per_mille, duplicate_per_mille| {
        town.network.set_options(NetworkOptions {
            loss_per_mille,
            duplicate_per_mille,
            ..of_delay(0..=0)
        });
        let before = town.network.total();
        (0..1000).for_each(|number| town.send(1, 2, number));
        town.settle();
        town.assert_balanced();
        let now = town.network.total();
        (now.lost - before.lost, now.duplicated - before.duplicated)
    };
    assert_eq!(send(1000, 0), (1000, 0));
    assert_eq!(town.heard(), [], "a loss is not told");
    assert_eq!(send(0, 1000), (0, 1000));
    let twice: Vec<u64> = (0..1000).flat_map(|number| [number, number]).collect();
    assert_eq!(town.numbers(1, 2), twice);
    let (lost, doubled) = send(300, 200);
    assert!(
        (250..350).contains(&lost) && (100..180).contains(&doubled),
        "{lost} {doubled}"
    );
}

#[test]
fn a_cut_loses_what_is_sent_and_what_is_on_its_way() {
    let town = Town::stepped(1, of_delay(1..=1));
    let both = || {
        for (from, to) in [(1, 2), (2, 1), (2, 3), (1, 3)] {
            town.send(from, to, from * 10 + to);
        }
        town.settle();
        let heard = town.heard().into_iter().map(|(store, heard)| match heard {
            Heard::Message { from, .. } => (from, store),
            other => panic!("a cut is not told: {other:?}"),
        });
        heard.collect::<BTreeSet<_>>()
    };
    town.network.cut(1, 2);
    assert_eq!(both(), [(2, 1), (2, 3), (1, 3)].into());
    town.network.cut_both(2, 3);
    assert_eq!(both(), [(2, 1), (1, 3)].into());
    town.network.heal();
    town.network.isolate(1);
    assert_eq!(both(), [(2, 3)].into());
    town.network.heal();
    assert_eq!(both().len(), 4);
    town.send(1, 2, 5);
    town.network.cut(1, 2);
    town.settle();
    town.network.heal();
    assert_eq!(town.heard(), []);
    assert_eq!(town.network.total().cut, 1 + 2 + 3 + 1);
    town.assert_balanced();
}

#[test]
fn a_store_that_is_gone_is_reported_for_each_message_of_a_peer() {
    let mut town = Town::stepped(1, of_delay(1..=1));
    let unreachable = |store: u64| (1, Heard::Unreachable(RegionId(7), PeerId(store + 100)));
    town.send(1, 9, 0);
    assert_eq!(town.heard(), [unreachable(9)], "at once");
    town.send(1, 2, 1);
    town.send(1, 3, 2);
    town.store(1)
        .transport
        .send(2, StoreMessage::Alive { max_id: 1 });
    town.send(2, 3, 3);
    town.network.disconnect(2);
    assert_eq!(town.heard(), [unreachable(2)]);
    town.send(2, 3, 4); // by a transport that is no more
    town.settle();
    assert_eq!((town.numbers(1, 3), town.numbers(2, 3)), (vec![2], vec![3]));
    town.heard();
    town.stores[1] = town.connect(2, false);
    town.settle();
    town.send(1, 2, 5);
    town.send(2, 1, 6);
    town.settle();
    assert_eq!((town.numbers(1, 2), town.numbers(2, 1)), (vec![5], vec![6]));
    assert_eq!(town.network.total().unreached, 3);
    town.assert_balanced();
}

#[test]
fn an_old_transport_that_stops_leaves_the_new_one_alone() {
    let mut town = Town::stepped(1, of_delay(1..=1));
    let old = Arc::clone(&town.store(2).transport);
    town.stores[1] = town.connect(2, false);
    town.send(1, 2, 1);
    old.stop();
    town.settle();
    assert_eq!(town.numbers(1, 2), [1]);
    old.send(1, StoreMessage::Alive { max_id: 1 });
    town.settle();
    assert!(town.numbers(2, 1).is_empty());
}

#[test]
fn the_filter_sees_every_message_and_it_survives_as_it_was() {
    let town = Town::stepped(1, of_delay(1..=1));
    town.network.set_filter(|from, to, message| {
        assert_eq!((from, to), (1, 2));
        (number(&message) != Some(3)).then_some(message)
    });
    let mut bodies = vec![
        PeerBody::Gone { into: None },
        PeerBody::Sleep { term: 5, commit: 6 },
        PeerBody::Wake,
    ];
    bodies.extend((2..5).map(|number| peer_message(1, 2, number).body));
    let messages = bodies.into_iter().map(|body| {
        let range = None;
        let from_one = peer_message(1, 2, 0);
        StoreMessage::Peer(Box::new(PeerMessage {
            range,
            body,
            ..from_one
        }))
    });
    let messages: Vec<StoreMessage> = messages.collect();
    for message in &messages {
        town.store(1).transport.send(2, message.clone());
    }
    town.settle();
    let heard = town.heard().into_iter().map(|(_, heard)| match heard {
        Heard::Message { message, .. } => message,
        other => panic!("{other:?}"),
    });
    let passed = messages.into_iter().filter(|m| number(m) != Some(3));
    assert!(heard.eq(passed));
    for kind in [MessageKind::Gone, MessageKind::Sleep, MessageKind::Wake] {
        assert_eq!(town.network.traffic(kind).delivered, 1, "{kind:?}");
    }
    let raft = town.network.traffic(MessageKind::Raft);
    assert_eq!((raft.sent, raft.delivered, raft.lost), (3, 2, 1));
}
