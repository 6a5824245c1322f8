//! The bytes of messages: golden, bounded, and nothing that panics.

use proptest::prelude::*;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::wire::ENTRIES_MAX;
use super::*;

fn full_raft_message() -> Message {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    (entry.term, entry.index) = (7, 300);
    entry.data = b"data".to_vec().into();
    entry.context = b"ctx".to_vec().into();
    entry.sync_log = true;
    let mut snapshot = Snapshot::default();
    snapshot.data = b"snap".to_vec().into();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (5, 6);
    let mut conf_state = ConfState::from((vec![1, 2], vec![3]));
    conf_state.auto_leave = true;
    meta.set_conf_state(conf_state);
    let mut m = Message::default();
    m.set_msg_type(MessageType::MsgAppend);
    (m.to, m.from, m.term) = (2, 1, 7);
    (m.log_term, m.index) = (6, 299);
    m.set_entries(vec![entry].into());
    (m.commit, m.commit_term) = (298, 5);
    m.set_snapshot(snapshot);
    (m.reject, m.reject_hint) = (true, 9);
    m.context = b"c".to_vec().into();
    (m.request_snapshot, m.deprecated_priority, m.priority) = (10, 11, -1);
    m
}

fn from_peer_to_peer(range: Option<KeyRange>, body: PeerBody) -> StoreMessage {
    let peer = |id, store_id| Peer {
        id,
        store_id,
        role: 0,
    };
    StoreMessage::Peer(Box::new(PeerMessage {
        region: RegionId(9),
        from: peer(1, 101),
        to: peer(2, 102),
        epoch: RegionEpoch {
            conf_ver: 3,
            version: 4,
        },
        range,
        body,
    }))
}

fn bytes_of(message: &StoreMessage) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    message.encode(&mut bytes).unwrap();
    bytes.split_off(6)
}

/// raft's own message, field by field in the order of the numbers.
const RAFT_MESSAGE: &[u8] = b"\x08\x03\x10\x02\x18\x01\x20\x07\x28\x06\x30\xab\x02\
    \x3a\x14\x08\x02\x10\x07\x18\xac\x02\x22\x04data\x28\x01\x32\x03ctx\
    \x40\xaa\x02\
    \x4a\x17\x0a\x04snap\x12\x0f\x0a\x09\x0a\x02\x01\x02\x12\x01\x03\x28\x01\x10\x05\x18\x06\
    \x50\x01\x58\x09\x62\x01c\x68\x0a\x70\x0b\x78\x05\
    \x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";

// The same literals under either of raft's codecs: stores built with different ones understand each other.
#[test]
fn messages_have_their_golden_bytes_under_both_codecs_and_come_back() {
    let head: &[u8] = b"\x08\x09\x12\x04\x08\x01\x10\x65\x1a\x04\x08\x02\x10\x66";
    let epoch: &[u8] = b"\x2a\x04\x08\x03\x10\x04";
    let cases: [(StoreMessage, Vec<&[u8]>); 8] = [
        (
            from_peer_to_peer(
                Some(KeyRange::new("a", "b")),
                PeerBody::Raft(full_raft_message()),
            ),
            vec![
                b"\x22\x58",
                RAFT_MESSAGE,
                epoch,
                b"\x3a\x01a\x42\x01b\xd8\x3e\x01",
            ],
        ),
        (
            from_peer_to_peer(Some(KeyRange::all()), PeerBody::Gone { into: None }),
            vec![epoch, b"\x30\x01\xd8\x3e\x01"],
        ),
        (
            from_peer_to_peer(
                None,
                PeerBody::Gone {
                    into: Some(Region::single(3, 4)),
                },
            ),
            vec![
                epoch,
                b"\x30\x01\x4a\x0e\x08\x03\x22\x04\x08\x01\x10\x01\x2a\x04\x08\x04\x10\x04",
            ],
        ),
        (
            from_peer_to_peer(None, PeerBody::Sleep { term: 7, commit: 8 }),
            vec![epoch, b"\xca\x3e\x04\x08\x07\x10\x08"],
        ),
        (
            from_peer_to_peer(None, PeerBody::Wake),
            vec![epoch, b"\xd0\x3e\x01"],
        ),
        (
            from_peer_to_peer(None, PeerBody::Prepare { low: 300 }),
            vec![epoch, b"\xe0\x3e\xac\x02"],
        ),
        (
            from_peer_to_peer(None, PeerBody::Prepared),
            vec![epoch, b"\xe8\x3e\x01"],
        ),
        (StoreMessage::Alive { max_id: 300 }, vec![]),
    ];
    for (message, parts) in cases {
        let golden = match &message {
            StoreMessage::Alive { .. } => b"\x12\x03\x08\xac\x02".to_vec(),
            StoreMessage::Peer(_) => {
                let body = [head, &parts.concat()].concat();
                let mut golden = vec![0x0a];
                prost::encode_length_delimiter(body.len(), &mut golden).unwrap();
                [golden, body].concat()
            }
        };
        assert_eq!(bytes_of(&message), golden, "{message:?}");
        assert_eq!(StoreMessage::decode(&golden).unwrap(), message);
    }
}

#[test]
fn raft_reads_the_bytes_of_its_message_as_the_same_message() {
    let mut message = Message::default();
    message.merge_from_bytes(RAFT_MESSAGE).unwrap();
    assert_eq!(message, full_raft_message());
}

#[test]
fn an_absent_snapshot_stays_absent_and_an_empty_one_stays() {
    let mut empty = Message::default();
    empty.set_snapshot(Snapshot::default());
    for raft in [Message::default(), empty] {
        let message = from_peer_to_peer(None, PeerBody::Raft(raft));
        assert_eq!(StoreMessage::decode(&bytes_of(&message)).unwrap(), message);
    }
}

#[test]
fn a_message_that_says_nothing_or_two_things_is_refused() {
    let refused = |bytes: &[u8]| StoreMessage::decode(bytes).unwrap_err().to_string();
    assert_eq!(refused(b""), "StoreMessage has 0 contents, expected 1");
    let both = [
        bytes_of(&from_peer_to_peer(None, PeerBody::Wake)),
        b"\x12\x00".to_vec(),
    ]
    .concat();
    assert_eq!(refused(&both), "StoreMessage has 2 contents, expected 1");
    assert_eq!(
        refused(b"\x0a\x02\x08\x09"),
        "RaftMessage has 0 contents, expected 1"
    );
    assert_eq!(
        refused(b"\x0a\x07\x08\x09\x30\x01\xd0\x3e\x01"),
        "RaftMessage has 2 contents, expected 1"
    );
    assert_eq!(
        refused(b"\x0a\x02\x30\x01"),
        "the message is for region 0, which cannot exist"
    );
}

#[test]
fn a_type_that_raft_does_not_have_is_refused() {
    let of = |raft: &[u8]| {
        let head = [8, 9, 0x22, raft.len() as u8];
        let message = [&head[..], raft].concat();
        let bytes = [&[0x0a, message.len() as u8][..], &message].concat();
        StoreMessage::decode(&bytes).unwrap_err().to_string()
    };
    assert_eq!(of(b"\x08\x13"), "Message.msg_type is 19, expected 0 to 18");
    assert_eq!(
        of(b"\x3a\x02\x08\x03"),
        "Entry.entry_type is 3, expected 0 to 2"
    );
    let negative = of(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    assert_eq!(negative, "Message.msg_type is -1, expected 0 to 18");
}

/// An outer field around `inner`.
fn wrapped(tag: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    prost::encode_length_delimiter(inner.len(), &mut bytes).unwrap();
    [bytes, inner.to_vec()].concat()
}

#[test]
fn entries_without_number_are_refused_before_they_take_memory() {
    let entries = b"\x3a\x00".repeat(ENTRIES_MAX + 1);
    let peer = [b"\x08\x09".to_vec(), wrapped(4, &entries)].concat();
    let refused = StoreMessage::decode(&wrapped(1, &peer)).unwrap_err();
    let (got, max) = (ENTRIES_MAX + 1, ENTRIES_MAX);
    let what = "entries";
    assert_eq!(refused, MessageError::TooMany { what, got, max });
    let mut raft = Message::default();
    raft.set_entries(vec![Entry::default(); got].into());
    let mut buffer = Vec::new();
    let message = from_peer_to_peer(None, PeerBody::Raft(raft));
    assert_eq!(message.encode(&mut buffer), Err(refused));
    assert!(buffer.is_empty());
}

#[test]
fn a_configuration_of_millions_of_peers_is_refused() {
    let conf_state = wrapped(1, &vec![1; 1 << 20]);
    let snapshot = wrapped(2, &wrapped(1, &conf_state));
    let peer = [b"\x08\x09".to_vec(), wrapped(4, &wrapped(9, &snapshot))].concat();
    let refused = StoreMessage::decode(&wrapped(1, &peer)).unwrap_err();
    assert!(matches!(refused, MessageError::TooMany { .. }), "{refused}");
}

#[test]
fn nested_groups_without_end_are_an_error_and_no_stack_overflow() {
    const GROUP_START: u8 = 15 << 3 | 3;
    let groups = vec![GROUP_START; 1_000_000];
    let mut closed = groups.clone();
    closed.extend(vec![GROUP_START + 1; 1_000_000]);
    let decode = move || {
        for groups in [groups, closed] {
            let peer = [b"\x08\x09".to_vec(), wrapped(4, &groups)].concat();
            for bytes in [wrapped(1, &peer), wrapped(1, &groups), groups] {
                assert!(StoreMessage::decode(&bytes).is_err());
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(decode).unwrap().join().unwrap();
}

#[test]
fn a_length_beyond_the_end_takes_no_memory() {
    // Each says that a gigabyte follows.
    for bytes in [
        &b"\x0a\x80\x80\x80\x80\x04"[..],
        b"\x0a\x08\x08\x09\x22\x80\x80\x80\x80\x04",
    ] {
        assert!(StoreMessage::decode(bytes).is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = StoreMessage::decode(&bytes);
        let peer = [b"\x08\x09".to_vec(), wrapped(4, &bytes)].concat();
        let _ = StoreMessage::decode(&wrapped(1, &peer));
    }

    #[test]
    fn a_message_with_changed_bytes_decodes_or_is_refused(
        at in 0..200_usize, to in any::<u8>(), cut in 0..200_usize,
    ) {
        let message = from_peer_to_peer(Some(KeyRange::all()), PeerBody::Raft(full_raft_message()));
        let mut bytes = bytes_of(&message);
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(decoded) = StoreMessage::decode(&bytes) {
            // What was understood can be said again.
            prop_assert_eq!(StoreMessage::decode(&bytes_of(&decoded)).unwrap(), decoded);
        }
        let _ = StoreMessage::decode(&bytes[..cut % bytes.len()]);
    }
}
