//! Messages that raft could not survive, or should not believe: what each is, and how it is refused.

use peerstore::{RaftSnapshotData, Region, RegionStatus};
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

/// Makes a message of what the store shows, and of a good one.
pub type Forge = dyn Fn(&RegionStatus, &Message) -> Message;

/// A message that is refused.
pub struct Forged {
    /// As it is counted.
    pub kind: &'static str,
    pub what: &'static str,
    /// Makes it, from what the receiver shows and from the end of its log.
    pub make: Box<Forge>,
}

fn forged(
    kind: &'static str,
    what: &'static str,
    make: impl Fn(&RegionStatus, &Message) -> Message + 'static,
) -> Forged {
    let make = Box::new(make);
    Forged { kind, what, make }
}

/// A message of peer 103 in the receiver's term.
pub fn message(kind: MessageType, status: &RegionStatus) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (103, status.peer.0, status.term);
    message
}

/// The same, changed.
fn with(
    kind: &'static str,
    what: &'static str,
    of: MessageType,
    change: impl Fn(&mut Message) + 'static,
) -> Forged {
    forged(kind, what, move |status, _| {
        let mut message = message(of, status);
        change(&mut message);
        message
    })
}

/// An append of a new leader behind the end of the log; its entry is what `change` makes of a good one.
fn append(
    kind: &'static str,
    what: &'static str,
    change: impl Fn(&mut Message, &mut Entry) + 'static,
) -> Forged {
    forged(kind, what, move |status, end| {
        let mut message = message(MessageType::MsgAppend, status);
        message.term += 1;
        (message.index, message.log_term) = (end.commit, status.term);
        let mut entry = Entry::default();
        (entry.term, entry.index) = (message.term, end.commit + 1);
        change(&mut message, &mut entry);
        message.set_entries(vec![entry].into());
        message
    })
}

/// What contradicts the log.
pub fn by_log() -> Vec<Forged> {
    vec![
        with(
            "commit",
            "a commit beyond the log",
            MessageType::MsgHeartbeat,
            |m| {
                m.term += 1;
                m.commit = 1_000_000;
            },
        ),
        append("committed", "other entries than the committed", |m, _| {
            m.log_term = m.term
        }),
        append("entries", "a gap", |_, entry| entry.index += 1),
        append("entries", "entries of the future", |_, entry| {
            entry.term += 8
        }),
        append("entries", "an entry that nobody could apply", |_, entry| {
            entry.context = vec![0xff; 9].into();
        }),
        append(
            "entries",
            "a change of members that does not decode",
            |_, entry| {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                entry.data = vec![0xff; 9].into();
            },
        ),
    ]
}

/// What contradicts itself, or is not for others to say.
pub fn by_words() -> Vec<Forged> {
    let local = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
    ];
    let local = local.map(|of| with("message type", "what does not travel", of, |_| {}));
    let all = by_role().into_iter().chain(by_number()).chain(by_name());
    all.chain(local).collect()
}

fn by_role() -> Vec<Forged> {
    let question = || vec![Entry::default()];
    vec![
        with(
            "leader",
            "a second leader",
            MessageType::MsgHeartbeat,
            |_| {},
        ),
        with(
            "leader",
            "a second leader that appends",
            MessageType::MsgAppend,
            |_| {},
        ),
        with(
            "read index",
            "a read without a question",
            MessageType::MsgReadIndex,
            |m| m.term = 0,
        ),
        with(
            "read index",
            "what raft could not forward",
            MessageType::MsgReadIndex,
            move |m| {
                m.set_entries(question().into());
            },
        ),
        with(
            "read index",
            "two answers in one",
            MessageType::MsgReadIndexResp,
            |m| {
                m.set_entries(vec![Entry::default(); 2].into());
            },
        ),
    ]
}

fn by_number() -> Vec<Forged> {
    vec![
        with(
            "number",
            "a term at the end",
            MessageType::MsgRequestVote,
            |m| m.term = u64::MAX,
        ),
        with(
            "number",
            "an index at the end",
            MessageType::MsgAppendResponse,
            |m| {
                m.index = u64::MAX;
            },
        ),
        with(
            "number",
            "a hint at the end",
            MessageType::MsgAppendResponse,
            |m| {
                (m.reject, m.reject_hint) = (true, u64::MAX);
            },
        ),
        with(
            "number",
            "a snapshot asked for",
            MessageType::MsgAppendResponse,
            |m| {
                (m.reject, m.request_snapshot) = (true, 7);
            },
        ),
        with(
            "term",
            "a heartbeat of no term",
            MessageType::MsgHeartbeat,
            |m| m.term = 0,
        ),
    ]
}

fn by_name() -> Vec<Forged> {
    vec![
        with(
            "addressee",
            "for another peer",
            MessageType::MsgHeartbeat,
            |m| m.to = 7,
        ),
        with(
            "sender",
            "from another peer",
            MessageType::MsgHeartbeat,
            |m| m.from = 7,
        ),
    ]
}

/// A snapshot of a new leader, which is what `change` makes of a good one.
fn snapshot(
    kind: &'static str,
    what: &'static str,
    change: impl Fn(&mut Snapshot, &mut Region) + 'static,
) -> Forged {
    forged(kind, what, move |status, _| {
        let mut message = message(MessageType::MsgSnapshot, status);
        message.term += 1;
        let mut region = status.region.clone();
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (900, status.term);
        meta.mut_conf_state().voters = vec![101, 102, 103];
        change(&mut snapshot, &mut region);
        if snapshot.data.is_empty() {
            let data = RaftSnapshotData {
                region,
                file_size: 9,
                version: 1,
                inline_file: b"no file".to_vec(),
                sequence: 1,
                digest: vec![0; 32],
                ..RaftSnapshotData::default()
            };
            snapshot.data = prost::Message::encode_to_vec(&data).into();
        }
        message.set_snapshot(snapshot);
        message
    })
}

pub fn by_snapshot() -> Vec<Forged> {
    vec![
        snapshot("snapshot", "of another region", |_, region| region.id = 9),
        snapshot("snapshot", "of an empty range", |_, region| {
            (region.start_key, region.end_key) = (b"d".to_vec(), b"c".to_vec());
        }),
        snapshot("snapshot epoch", "of an old epoch", |_, region| {
            region.region_epoch.version = 0;
        }),
        snapshot("snapshot", "without voters", |snapshot, _| {
            snapshot.mut_metadata().mut_conf_state().voters.clear();
        }),
        snapshot(
            "snapshot",
            "with a peer that votes and learns",
            |snapshot, _| {
                snapshot.mut_metadata().mut_conf_state().learners = vec![102];
            },
        ),
        snapshot("snapshot", "at index 0", |snapshot, _| {
            snapshot.mut_metadata().index = 0
        }),
        snapshot(
            "snapshot",
            "of a later term than its message",
            |snapshot, _| {
                snapshot.mut_metadata().term += 7;
            },
        ),
        snapshot(
            "snapshot",
            "with data that does not decode",
            |snapshot, _| {
                snapshot.data = vec![0xff; 40].into();
            },
        ),
    ]
}
