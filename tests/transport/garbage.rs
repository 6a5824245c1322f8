//! Bytes of any kind at every stage: the listener lives, takes no memory for them, and believes none.

use std::sync::{LazyLock, Mutex};

use peerstore::tcp::Reason;
use proptest::prelude::*;

use crate::support::*;

/// One store takes all of it.
static STORE: LazyLock<Mutex<Store>> = LazyLock::new(|| Mutex::new(Store::new(1)));

/// At which stage the garbage comes.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Handshake,
    Messages,
    Offer,
    Chunks,
}

/// Garbage, as it is or in an intact frame.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let kind = (0..12_u8, bytes.clone()).prop_map(|(kind, rest)| [vec![kind], rest].concat());
    prop_oneof![
        bytes.clone(),
        bytes.prop_map(|b| framed(&b)),
        kind.prop_map(|b| framed(&b)),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    prop::sample::select(vec![
        Stage::Handshake,
        Stage::Messages,
        Stage::Offer,
        Stage::Chunks,
    ])
}

/// A client that has come as far as `stage`.
fn at(stage: Stage, store: &Store) -> Client {
    match stage {
        Stage::Handshake => Client::connect(store),
        Stage::Messages => Client::welcomed(store, 2, MESSAGES),
        Stage::Offer => Client::welcomed(store, 2, SNAPSHOT),
        Stage::Chunks => loop {
            let other = snapshot_dir(&peerstore::memory::MemFs::new());
            let info = write_snapshot(&other, 77, 1000);
            let mut client = Client::welcomed(store, 2, SNAPSHOT);
            let message = snapshot_message(&info, 2, store.id, Vec::new());
            client.write(&offer(info.file_bytes, &message));
            // Its predecessors may still hold the places.
            if client.read_frame().is_some_and(|answer| answer[0] == 5) {
                break client;
            }
        },
    }
}

/// The frame that offers a file.
pub fn offer(bytes: u64, message: &peerstore::PeerMessage) -> Vec<u8> {
    let mut payload = vec![4];
    payload.extend(bytes.to_le_bytes());
    let message = peerstore::StoreMessage::Peer(Box::new(message.clone()));
    message.encode(&mut payload).unwrap();
    framed(&payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_at_any_stage_leaves_a_store_that_serves(
        stage in stage(), parts in prop::collection::vec(garbage(), 1..4),
    ) {
        let store = STORE.lock().unwrap_or_else(|e| e.into_inner());
        let before = store.inbox.seen().messages.len();
        let mut client = at(stage, &store);
        for part in &parts {
            client.write(part);
        }
        client.finish_writing();
        prop_assert!(client.is_closed());
        prop_assert_eq!(store.inbox.seen().messages.len(), before);
        // What broke off may be gone on with; none of it is a snapshot.
        let is_unfinished = |name: &String| name.ends_with(".tmp") || name.ends_with(".part");
        prop_assert!(store.snapshot_names().iter().all(is_unfinished));
        assert_serves(&store);
    }
}

#[test]
fn the_length_of_a_frame_is_checked_before_its_bytes_are_awaited() {
    let store = Store::new(1);
    // Neither sends what it announces, and neither is waited for.
    let mut stranger = Client::connect(&store);
    stranger.write(&2000_u32.to_le_bytes());
    stranger.write(&[0; 4]);
    assert!(stranger.is_closed());
    store.wait_refused(Reason::Stranger, 1);
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    client.write(&u32::MAX.to_le_bytes());
    client.write(&[0; 4]);
    assert!(client.is_closed());
    store.wait_refused(Reason::TooLong, 1);
    let mut client = Client::welcomed(&store, 2, MESSAGES);
    client.write(&[0; 8]);
    assert!(client.is_closed());
    store.wait_refused(Reason::TooLong, 2);
    assert_serves(&store);
}
