//! Golden bytes of what openraft has stored: stores in the field have them.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{BasicNode, CommittedLeaderId, EntryPayload, LogId, Membership, Vote};
use prost::Message as _;

use super::*;
use crate::kv::KvReply;

const REGION: RegionId = RegionId(7);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether the table of golden bytes in the documentation has these.
#[track_caller]
fn assert_documented(bytes: &[u8]) {
    let text = include_str!("../../../docs/data-model.md").replace(' ', "");
    let hex = hex(bytes);
    assert!(
        text.contains(&format!("|`{hex}`|")),
        "{hex} is not in docs/data-model.md"
    );
}

fn log_id(term: u64, node: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, node), index)
}

fn joint() -> Membership<u64, BasicNode> {
    let nodes = [(1, "a"), (2, "b"), (300, ""), (4, "learner")];
    let nodes: BTreeMap<u64, BasicNode> = nodes.map(|(id, addr)| (id, BasicNode::new(addr))).into();
    let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 300])];
    Membership::new(configs, nodes)
}

fn entry(payload: EntryPayload<crate::openraft::TypeConfig>) -> Entry {
    Entry {
        log_id: log_id(3, 300, 9),
        payload,
    }
}

#[test]
fn entries_have_their_golden_bytes() {
    let put = encode_entry(&entry(EntryPayload::Normal(KvCommand::put("k", "v"))));
    assert_eq!((put.term, put.index), (3, 9));
    assert_eq!(put.entry_type as i32, 0);
    assert_eq!(hex(&put.data), "0a060a016b120176");
    assert_eq!(hex(&put.context), "c83eac02");

    let blank = encode_entry(&entry(EntryPayload::Blank));
    assert_eq!(
        (hex(&blank.data), hex(&blank.context)),
        ("".into(), "c83eac02".into())
    );

    let members = encode_entry(&entry(EntryPayload::Membership(joint())));
    assert!(members.data.is_empty());
    let golden = concat!(
        "c83eac02", // node 300
        "d23e2d",
        "0a040a020102",   // voters 1 and 2
        "0a050a0302ac02", // voters 2 and 300
        "12050801120161",
        "12050802120162",
        "120b080412076c6561726e6572",
        "120308ac02",
    );
    assert_eq!(hex(&members.context), golden);
    assert_documented(&put.context);
    assert_documented(&members.context);
}

#[test]
fn states_have_their_golden_bytes() {
    let meta = LogMeta {
        vote: Some(Vote::new_committed(5, 300).into()),
        committed: Some(log_id(4, 2, 11).into()),
        purged: Some(log_id(0, 0, 0).into()),
        first_index: 1,
    };
    // The log id of entry 0 is there, though it has no bytes.
    assert_eq!(
        hex(&meta.encode_to_vec()),
        "0a07080510ac021801 1206080410021 80b 1a00 2001".replace(' ', "")
    );
    let stored = StoredMembership::new(Some(log_id(1, 2, 3)), Membership::new(vec![], ()));
    let record = ApplyRecord::new(log_id(6, 300, 12), &stored);
    assert_eq!(
        hex(&record.encode_to_vec()),
        "080c 1200 200c 2806 ca3e07080610ac02180c d23e0a0a06080110021803 1200".replace(' ', "")
    );
    assert_documented(&meta.encode_to_vec());
    assert_documented(&record.encode_to_vec());
    let about = About {
        last_log_id: Some(log_id(6, 300, 12).into()),
        membership: (&stored).into(),
    };
    assert_eq!(
        hex(&about.encode_to_vec()),
        "0a07080610ac02180c 120a0a06080110021803 1200".replace(' ', "")
    );
}

#[test]
fn what_reads_the_states_of_raft_rs_understands_these() -> Result<()> {
    let record = ApplyRecord::new(log_id(6, 300, 12), &StoredMembership::default());
    let bytes = record.encode_to_vec();
    let read: crate::proto::RaftApplyState = decode(REGION, "RaftApplyState", &bytes)?;
    assert_eq!(
        (read.applied_index, read.commit_index, read.commit_term),
        (12, 12, 6)
    );
    let put = encode_entry(&entry(EntryPayload::Membership(joint())));
    let header = crate::command::EntryHeader::of(REGION, &put)?;
    assert_eq!(header, crate::command::EntryHeader::default());
    Ok(())
}

#[test]
fn every_field_comes_back() -> Result<()> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(KvCommand::put("key", [0, 255])),
        EntryPayload::Membership(joint()),
    ];
    for payload in payloads {
        let entry = entry(payload);
        assert_eq!(decode_entry(REGION, &encode_entry(&entry))?, entry);
    }
    for vote in [
        Vote::new(5, 0),
        Vote::new_committed(5, 300),
        Vote::new(0, 0),
    ] {
        assert_eq!(Vote::from(WireVote::from(vote)), vote);
    }
    for membership in [joint(), Membership::default()] {
        let stored = StoredMembership::new(Some(log_id(1, 2, 3)), membership);
        let wire = WireStoredMembership::from(&stored);
        let bytes = wire.encode_to_vec();
        let read: WireStoredMembership = decode(REGION, "membership", &bytes)?;
        assert_eq!(StoredMembership::from(read), stored);
    }
    Ok(())
}

#[test]
fn an_entry_of_another_kind_is_corruption_that_names_it() {
    let mut foreign = RaftEntry::default();
    (foreign.index, foreign.data) = (17, b"raft-rs's own".to_vec().into());
    let mut both = encode_entry(&entry(EntryPayload::Membership(joint())));
    both.data = KvCommand::delete("k").encode().into();
    let mut bad_context = RaftEntry::default();
    bad_context.context = vec![0xff; 3].into();
    for (damaged, expected) in [
        (foreign, "entry 17 is corrupt: its data is not a command"),
        (both, "a membership and a command, expected one"),
        (bad_context, "entry context is corrupt"),
    ] {
        let error = decode_entry(REGION, &damaged).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn commands_and_replies_travel_as_their_own_bytes() {
    #[derive(::serde::Deserialize)]
    struct Message {
        command: KvCommand,
        reply: KvReply,
    }
    // What a text format makes of bytes.
    let text = "command = [10, 6, 10, 1, 107, 18, 1, 118]\nreply = [10, 0]\n";
    let message: Message = toml::from_str(text).expect("both are there");
    assert_eq!(message.command, KvCommand::put("k", "v"));
    assert_eq!(message.reply, KvReply::Done);
    let damaged = toml::from_str::<Message>("command = [1, 2]\nreply = []\n");
    let error = damaged.err().expect("that is no command").to_string();
    assert!(error.contains("the bytes are not a KvCommand"), "{error}");

    let yaml = serde_saphyr::to_string(&KvCommand::put("k", "v")).expect("bytes can be written");
    let command: KvCommand = serde_saphyr::from_str(&yaml).expect(&yaml);
    assert_eq!(command, KvCommand::put("k", "v"));
}
