//! Who is refused, and that he learns why.

use std::io::Read as _;
use std::time::Duration;

use peerstore::tcp::{Reason, TcpOptions};
use peerstore::{PeerId, RegionId, StoreMessage};

use crate::support::*;

#[test]
fn a_stranger_is_refused_with_a_reason_that_he_reads() {
    let store = Store::new(1);
    let cases = [
        (
            hello(1, MESSAGES, [8, 2, 1]),
            Reason::Cluster,
            "cluster 8, expected 7",
        ),
        (
            hello(2, MESSAGES, [7, 2, 1]),
            Reason::Version,
            "protocol version 2, expected 1",
        ),
        (
            hello(1, MESSAGES, [7, 2, 3]),
            Reason::Store,
            "dialled store 3, this is store 1",
        ),
        (
            hello(1, MESSAGES, [7, 1, 1]),
            Reason::Itself,
            "it says it is store 1, to store 1",
        ),
        (
            hello(1, 3, [7, 2, 1]),
            Reason::Purpose,
            "purpose 3, expected 1 or 2",
        ),
    ];
    for (bytes, reason, text) in cases {
        for count in 1..3 {
            let mut client = Client::connect(&store);
            client.write(&bytes);
            let answer = client.read_frame().unwrap();
            assert_eq!(refusal(&answer), (reason as u8, text.to_string()));
            client.finish_writing();
            assert!(client.is_closed());
            store.wait_refused(reason, count);
        }
    }
    assert_eq!(store.transport.stats().accepted, 0);
    assert_serves(&store);
}

#[test]
fn a_store_learns_why_it_is_refused() {
    let one = Store::new(1);
    let mut foreign = options(2);
    foreign.cluster_id = 8;
    let foreign = Store::with(foreign);
    one.knows(&foreign);
    one.knows_address(3, &foreign.transport.local_address().to_string());
    one.knows_address(1, &one.transport.local_address().to_string());
    one.send(2, numbered(5, 1, 2, 1, 1));
    one.wait_ended(Reason::Cluster);
    // Itself, under its own name and under another's.
    one.send(1, numbered(6, 1, 1, 1, 1));
    one.wait_ended(Reason::Itself);
    one.knows_address(4, &one.transport.local_address().to_string());
    one.send(4, numbered(7, 1, 4, 1, 1));
    one.wait_ended(Reason::Store);
    one.inbox.wait(|seen| seen.unreachable.len() == 3);
    assert!(foreign.inbox.seen().messages.is_empty());
}

#[test]
fn messages_in_the_name_of_another_store_are_dropped() {
    let store = Store::new(1);
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    client.write(&messages_frame(&[
        numbered(5, 3, 1, 1, 1), // from a peer of store 3, by store 2
        numbered(5, 2, 4, 2, 1), // for store 4, to store 1
        numbered(5, 2, 1, 3, 1),
    ]));
    let seen = store.inbox.when(|seen| !seen.messages.is_empty());
    assert_eq!(number_of(&seen.messages[0].1), 3);
    drop(seen);
    store.wait_refused(Reason::Misaddressed, 2);
}

#[test]
fn a_message_that_does_not_decode_costs_nobody_else() {
    let store = Store::new(1);
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    let mut good = Vec::new();
    let message = StoreMessage::Peer(Box::new(numbered(5, 2, 1, 3, 1)));
    message.encode(&mut good).unwrap();
    let mut payload = vec![1, 3, 0, 0, 0, 0xff, 0xff, 0xff];
    payload.extend((good.len() as u32).to_le_bytes());
    payload.extend(good);
    client.write(&framed(&payload));
    store
        .inbox
        .wait(|seen| seen.messages == [(2, message.clone())]);
    store.wait_refused(Reason::Message, 1);
    // A length beyond the frame leaves nothing to go on with.
    client.write(&framed(&[1, 9, 0, 0, 0, 1]));
    store.wait_refused(Reason::Protocol, 1);
    assert!(client.is_closed());
}

#[test]
fn a_changed_byte_ends_the_connection_and_the_message_is_not_believed() {
    let store = Store::new(1);
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    let mut frame = messages_frame(&[numbered(5, 2, 1, 1, 100)]);
    let last = frame.len() - 10;
    frame[last] ^= 1;
    client.write(&frame);
    assert!(client.is_closed());
    store.wait_refused(Reason::Checksum, 1);
    assert!(store.inbox.seen().messages.is_empty());
    assert_serves(&store);
}

#[test]
fn strangers_who_say_nothing_are_sent_away_and_block_nobody() {
    let store = Store::with(TcpOptions {
        handshake_timeout: Duration::from_secs(2),
        ..options(1)
    });
    let mut mute: Vec<Client> = (0..20).map(|_| Client::connect(&store)).collect();
    for (at, client) in mute.iter_mut().enumerate() {
        client.write(&hello(1, MESSAGES, [7, 2, 1])[..at]); // a part of a handshake, and no more
    }
    assert_serves(&store);
    for client in &mut mute {
        assert!(client.is_closed());
    }
    store.wait_refused(Reason::Slow, 20);
    assert_serves(&store);
}

#[test]
fn a_handshake_that_trickles_has_the_same_time_as_one_that_is_mute() {
    let store = Store::with(TcpOptions {
        handshake_timeout: Duration::from_secs(2),
        ..options(1)
    });
    let mut client = Client::connect(&store);
    client.write(&1024_u32.to_le_bytes());
    // A byte every few milliseconds, until it is closed: each read there comes to something.
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    let mut bytes = 0;
    while !matches!(client.0.read(&mut [0]), Ok(0)) && bytes < 1000 {
        client.write(&[0]);
        bytes += 1;
    }
    store.wait_refused(Reason::Slow, 1);
    assert!(bytes < 1000, "it was listened to to the end");
}

#[test]
fn too_many_connections_are_refused_and_room_comes_back() {
    let store = Store::with(TcpOptions {
        connections_max: 3,
        ..options(1)
    });
    let clients: Vec<Client> = (2..5)
        .map(|id| Client::welcomed(&store, id, MESSAGES))
        .collect();
    let mut fourth = Client::connect(&store);
    assert!(fourth.is_closed());
    store.wait_refused(Reason::Busy, 1);
    drop(clients);
    // Room comes back as the connections end.
    loop {
        let mut client = Client::connect(&store);
        client.write(&hello(1, MESSAGES, [CLUSTER, 6, 1]));
        if client.read_frame().is_some() {
            break;
        }
    }
}

#[test]
fn a_store_that_connects_again_takes_the_place_of_its_earlier_connection() {
    let store = Store::new(1);
    let mut first = Client::welcomed(&store, 2, MESSAGES);
    first.write(&messages_frame(&[numbered(5, 2, 1, 1, 1)]));
    store.inbox.wait(|seen| seen.messages.len() == 1);
    let mut second = Client::welcomed(&store, 2, MESSAGES);
    assert!(first.is_closed());
    second.write(&messages_frame(&[numbered(5, 2, 1, 2, 1)]));
    store.inbox.wait(|seen| seen.messages.len() == 2);
    let unreachable: &[(RegionId, PeerId)] = &[];
    assert_eq!(store.inbox.seen().unreachable, unreachable);
}
