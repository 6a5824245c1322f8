//! Messages between stores: order, loss, and coming back.

use std::net::TcpListener;
use std::time::Duration;

use peerstore::tcp::{Reason, TcpOptions, TcpTransport};
use peerstore::{Error, PeerBody, PeerId, RegionId, StoreMessage, Transport as _};

use crate::support::*;

#[test]
fn messages_go_both_ways_and_keep_their_order() {
    const COUNT: u64 = 20_000;
    let (one, two) = pair();
    for number in 0..COUNT {
        one.send(2, numbered(5, 1, 2, number, 10));
        two.send(1, numbered(6, 2, 1, number, 10));
    }
    for (store, other) in [(&one, &two), (&two, &one)] {
        let seen = store
            .inbox
            .when(|seen| seen.messages.len() == COUNT as usize);
        for (number, (from, message)) in (0..).zip(&seen.messages) {
            assert_eq!((*from, number_of(message)), (other.id, number));
        }
        assert!(seen.unreachable.is_empty());
        drop(seen);
        let stats = store.transport.stats();
        assert_eq!(stats.messages_received, COUNT);
        assert!(
            stats.frames_received < COUNT / 2,
            "messages share frames: {stats:?}"
        );
        assert_eq!(
            stats.bytes_received,
            other.wait_stats(|s| s.messages_sent == COUNT).bytes_sent
        );
    }
}

#[test]
fn every_kind_of_message_arrives_as_it_was() {
    let (one, two) = pair();
    let bodies = [
        PeerBody::Gone { into: None },
        PeerBody::Prepare { low: 5 },
        PeerBody::Prepared,
        PeerBody::Wake,
        PeerBody::Sleep { term: 3, commit: 9 },
    ];
    let mut sent = vec![StoreMessage::Alive { max_id: 77 }];
    sent.extend(bodies.map(|body| StoreMessage::Peer(Box::new(message(5, 1, 2, body)))));
    sent.push(StoreMessage::Peer(Box::new(numbered(5, 1, 2, 1, 3 << 20))));
    for message in &sent {
        one.transport.send(2, message.clone());
    }
    let seen = two.inbox.when(|seen| seen.messages.len() == sent.len());
    assert!(seen.messages.iter().map(|(_, m)| m).eq(&sent));
}

#[test]
fn a_store_that_restarts_is_reached_again() {
    let (one, two) = pair();
    one.send(2, numbered(5, 1, 2, 1, 10));
    two.inbox.wait(|seen| seen.messages.len() == 1);
    two.transport.stop();
    let again = Store::new(2);
    one.knows(&again);
    // What was on its way is lost, as raft expects; what comes later arrives.
    let mut number = 2;
    while again.inbox.seen().messages.is_empty() {
        one.send(2, numbered(5, 1, 2, number, 10));
        number += 1;
        std::thread::yield_now();
    }
    let last = number;
    one.send(2, numbered(5, 1, 2, last, 10));
    let arrived = |seen: &Seen| seen.messages.iter().any(|(_, m)| number_of(m) == last);
    // The very last may fall into a pause only if there was another failure; there was none.
    let seen = again.inbox.when(arrived);
    let numbers: Vec<u64> = seen.messages.iter().map(|(_, m)| number_of(m)).collect();
    assert!(numbers.is_sorted());
    assert_eq!(two.inbox.seen().messages.len(), 1);
}

#[test]
fn a_store_that_is_not_reached_is_reported_once_for_each_peer() {
    let one = Store::new(1);
    // Nobody listens there: the port was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    one.knows_address(2, &free.to_string());
    for number in 0..1000 {
        one.send(2, numbered(5 + number % 2, 1, 2, number, 10));
    }
    one.inbox.wait(|seen| seen.unreachable.len() == 2);
    one.wait_stats(|stats| stats.messages_dropped == 1000);
    let mut unreachable = one.inbox.seen().unreachable.clone();
    unreachable.sort();
    assert_eq!(
        unreachable,
        [(RegionId(5), PeerId(12)), (RegionId(6), PeerId(12))]
    );
    one.wait_ended(Reason::Unreachable);
    // Without an address it is the same.
    one.send(3, numbered(7, 1, 3, 1, 10));
    one.inbox
        .wait(|seen| seen.unreachable.contains(&(RegionId(7), PeerId(13))));
}

#[test]
fn a_queue_that_is_full_drops_and_reports_and_never_waits() {
    let one = Store::with(TcpOptions {
        queue_bytes_max: 64 << 10,
        ..options(1)
    });
    // It takes the connection and says nothing: the queue fills up.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows_address(2, &mute.local_addr().unwrap().to_string());
    for number in 0..1000 {
        one.send(2, numbered(5, 1, 2, number, 1000));
    }
    let dropped = one.transport.stats().messages_dropped;
    assert!((900..1000).contains(&dropped), "{dropped}");
    assert_eq!(one.inbox.seen().unreachable, [(RegionId(5), PeerId(12))]);
}

#[test]
fn a_message_that_is_too_large_is_dropped_and_the_next_arrives() {
    let (one, two) = (
        Store::new(1),
        Store::with(TcpOptions {
            frame_bytes_max: 64 << 10,
            ..options(2)
        }),
    );
    one.knows(&two);
    one.send(2, numbered(5, 1, 2, 1, 65 << 10));
    for number in 2..102 {
        one.send(2, numbered(6, 1, 2, number, 10_000));
    }
    let seen = two.inbox.when(|seen| seen.messages.len() == 100);
    assert!(seen.messages.iter().map(|(_, m)| number_of(m)).eq(2..102));
    assert_eq!(one.inbox.seen().unreachable, [(RegionId(5), PeerId(12))]);
    assert_eq!(one.transport.stats().ended, [(Reason::TooLong, 1)].into());
}

#[test]
fn a_connection_that_is_half_open_is_noticed() {
    let one = Store::with(TcpOptions {
        keepalive: Duration::from_millis(5),
        io_timeout: Duration::from_secs(2),
        ..options(1)
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows_address(2, &listener.local_addr().unwrap().to_string());
    one.send(2, numbered(5, 1, 2, 1, 10));
    let mut client = Client(listener.accept().unwrap().0);
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_frame().unwrap();
    client.write(&welcome(2, 30_000));
    assert_eq!(client.read_frame().unwrap()[0], 1);
    assert_eq!(client.read_frame().unwrap(), [2], "a ping");
    client.write(&framed(&[3]));
    assert_eq!(client.read_frame().unwrap(), [2], "the next ping");
    // Nobody answers any more, though the connection stands.
    one.wait_ended(Reason::Slow);
}

/// A welcome of the store `id`, which gives up after `idle_ms` without a word.
pub fn welcome(id: u64, idle_ms: u32) -> Vec<u8> {
    let mut payload = b"peerwire\x01\0\0\0".to_vec();
    payload.extend(CLUSTER.to_le_bytes());
    payload.extend(id.to_le_bytes());
    payload.extend((1_u32 << 20).to_le_bytes());
    payload.extend(idle_ms.to_le_bytes());
    payload.push(0);
    framed(&payload)
}

#[test]
fn a_connection_is_asked_as_often_as_the_other_store_needs_it() {
    let one = Store::with(TcpOptions {
        keepalive: Duration::from_secs(3600),
        ..options(1)
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows_address(2, &listener.local_addr().unwrap().to_string());
    one.send(2, numbered(5, 1, 2, 1, 10));
    let mut client = Client(listener.accept().unwrap().0);
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_frame().unwrap();
    client.write(&welcome(2, 300));
    assert_eq!(client.read_frame().unwrap()[0], 1);
    assert_eq!(
        client.read_frame().unwrap(),
        [2],
        "a ping, long before the hour is over"
    );
}

#[test]
fn a_store_that_says_nothing_for_too_long_is_given_up() {
    let store = Store::with(TcpOptions {
        idle_timeout: Duration::from_millis(100),
        ..options(1)
    });
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    assert!(client.is_closed());
    store.wait_refused(Reason::Slow, 1);
}

#[test]
fn after_stop_nothing_comes_and_everything_is_over() {
    let (one, two) = pair();
    for number in 0..10_000 {
        one.send(2, numbered(5, 1, 2, number, 100));
    }
    two.inbox.wait(|seen| !seen.messages.is_empty());
    two.transport.stop();
    let count = two.inbox.seen().messages.len();
    let inboxes = std::sync::Arc::strong_count(&two.inbox);
    assert_eq!(inboxes, 1, "the transport has let go of the inbox");
    // What is written before the end of the connection shows is lost without a report.
    while one.inbox.seen().unreachable.is_empty() {
        one.send(2, numbered(5, 1, 2, 1, 100));
        two.send(1, numbered(5, 2, 1, 1, 100));
        std::thread::yield_now();
    }
    let seen = two.inbox.seen();
    assert_eq!((seen.messages.len(), seen.unreachable.len()), (count, 0));
    drop(seen);
    two.transport.stop();
    one.transport.stop();
    let address = two.transport.local_address();
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "nobody listens"
    );
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_so_and_does_not_go_on_in_plain_text() {
    let one = Store::new(1);
    let tls = peerstore::tcp::TlsOptions {
        ca: "ca.pem".into(),
        cert: "store.crt".into(),
        key: "store.key".into(),
    };
    let options = TcpOptions {
        tls: Some(tls),
        ..options(2)
    };
    let error = TcpTransport::bind(options, one.placement.clone())
        .err()
        .unwrap();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

#[test]
fn what_cannot_be_set_up_is_refused_with_what_is_wrong() {
    let one = Store::new(1);
    let bind = |options: TcpOptions| {
        TcpTransport::bind(options, one.placement.clone())
            .err()
            .expect("it is refused")
    };
    let taken = one.transport.local_address().to_string();
    let error = bind(TcpOptions::new(taken.clone(), CLUSTER, 2));
    assert!(
        matches!(&error, Error::Io { .. }) && error.to_string().contains(&taken),
        "{error}"
    );
    for wrong in [
        TcpOptions::new("127.0.0.1:0", 0, 2),
        TcpOptions::new("127.0.0.1:0", CLUSTER, 0),
        TcpOptions {
            frame_bytes_max: 10,
            ..options(2)
        },
        TcpOptions {
            snapshot_bytes_per_second: 1,
            ..options(2)
        },
        TcpOptions {
            keepalive: Duration::ZERO,
            ..options(2)
        },
        TcpOptions {
            handshakes_max: 0,
            ..options(2)
        },
    ] {
        let error = bind(wrong);
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
}
