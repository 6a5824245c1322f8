//! What a message must satisfy before raft sees it. Uses: command, conf,
//! transport.
//!
//! raft 0.7 takes its peers' word: a message that contradicts what it knows ends the process. Here such
//! a message is refused, and nothing has changed.

use raft::StateRole;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::raw_node::is_local_msg;

use super::Peer;
use crate::command::{EntryHeader, conf_change_of, is_conf_change};
use crate::conf::check_conf_state;
use crate::snapshot_data::RaftSnapshotData;
use crate::transport::PeerMessage;

/// Why a message was refused: counted by its name, and logged with the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The kind.
    pub kind: &'static str,
    /// What was found and what was expected.
    pub detail: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Refusal { kind, detail }
    }
}

type Checked = Result<(), Refusal>;

fn refuse(kind: &'static str, detail: impl Into<String>) -> Checked {
    Err(Refusal::new(kind, detail))
}

impl Peer {
    /// Whether raft can take `message`, which came in `envelope`.
    ///
    /// # Errors
    /// Why not.
    pub fn check_message(&self, envelope: &PeerMessage, message: &Message) -> Checked {
        let own = self.id().0;
        if message.to != own || envelope.to.id != own {
            let got = format!("for peer {}, this is peer {own}", message.to);
            return refuse("addressee", got);
        }
        if message.from == 0 || message.from != envelope.from.id || message.from == own {
            let got = format!("from peer {}, sent by {}", message.from, envelope.from.id);
            return refuse("sender", got);
        }
        let kind = message.get_msg_type();
        if does_not_travel(kind) {
            return refuse("message type", format!("{kind:?} does not travel"));
        }
        if message.term == 0 && !travels_without_term(kind) {
            return refuse("term", format!("{kind:?} of term 0"));
        }
        check_numbers(message)?;
        match kind {
            MessageType::MsgAppend => self.check_append(message),
            MessageType::MsgHeartbeat => self.check_heartbeat(message),
            MessageType::MsgSnapshot => self.check_snapshot(message),
            MessageType::MsgAppendResponse => self.check_append_response(message),
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => check_read_index(message),
            _ => Ok(()),
        }
    }

    /// Whether raft would take `message` as coming from the leader of the newest term.
    fn is_heeded(&self, message: &Message) -> bool {
        message.term >= self.raft.raft.term
    }

    /// There is one leader in a term, and it does not write to itself.
    fn check_one_leader(&self, message: &Message) -> Checked {
        let raft = &self.raft.raft;
        if message.term != raft.term {
            return Ok(());
        }
        let other = raft.leader_id != 0 && raft.leader_id != message.from;
        if raft.state == StateRole::Leader || other {
            let (from, leader, term) = (message.from, raft.leader_id, raft.term);
            return refuse(
                "leader",
                format!("peer {from} leads term {term}, as does {leader}"),
            );
        }
        Ok(())
    }

    fn check_append(&self, message: &Message) -> Checked {
        if !self.is_heeded(message) {
            return Ok(());
        }
        self.check_one_leader(message)?;
        if message.log_term > message.term {
            let (log_term, term) = (message.log_term, message.term);
            return refuse(
                "term",
                format!("log term {log_term} in an append of term {term}"),
            );
        }
        let mut before = message.log_term;
        for (entry, index) in message.entries.iter().zip(message.index + 1..) {
            if entry.index != index {
                let got = entry.index;
                return refuse("entries", format!("index {got}, expected {index}"));
            }
            if entry.term < before || entry.term > message.term {
                let (got, term) = (entry.term, message.term);
                return refuse(
                    "entries",
                    format!("term {got} at {index} behind {before}, in {term}"),
                );
            }
            self.check_readable(entry)?;
            before = entry.term;
        }
        self.check_committed(message)
    }

    /// Whether the store will know what to do with the entry once it is committed: it could not skip it
    /// then.
    fn check_readable(&self, entry: &Entry) -> Checked {
        let region = self.region_id();
        let header = EntryHeader::of(region, entry);
        let change = match is_conf_change(entry) {
            true => conf_change_of(region, entry).map(drop),
            false => Ok(()),
        };
        match header.map(drop).and(change) {
            Ok(()) => Ok(()),
            Err(error) => refuse("entries", error.to_string()),
        }
    }

    /// What is committed here is what every leader has.
    fn check_committed(&self, message: &Message) -> Checked {
        let log = &self.raft.raft.raft_log;
        if message.index < log.committed {
            // raft answers with its commit and looks no further.
            return Ok(());
        }
        if message.index == log.committed
            && log.committed > 0
            && log.term(message.index).is_ok_and(|t| t != message.log_term)
        {
            let (index, got) = (message.index, message.log_term);
            return refuse(
                "committed",
                format!("term {got} at {index}, which is committed"),
            );
        }
        Ok(())
    }

    fn check_heartbeat(&self, message: &Message) -> Checked {
        if !self.is_heeded(message) {
            return Ok(());
        }
        self.check_one_leader(message)?;
        let last = self.raft.raft.raft_log.last_index();
        if message.commit > last {
            let commit = message.commit;
            return refuse(
                "commit",
                format!("commit {commit} beyond the last index {last}"),
            );
        }
        Ok(())
    }

    fn check_append_response(&self, message: &Message) -> Checked {
        let last = self.raft.raft.raft_log.last_index();
        let current = message.term == self.raft.raft.term && self.is_leader();
        if current && !message.reject && message.index > last {
            let index = message.index;
            return refuse(
                "response",
                format!("acknowledges {index}, the log ends at {last}"),
            );
        }
        Ok(())
    }

    fn check_snapshot(&self, message: &Message) -> Checked {
        if !self.is_heeded(message) {
            return Ok(());
        }
        self.check_one_leader(message)?;
        let snapshot = message.get_snapshot();
        let meta = snapshot.get_metadata();
        if meta.index == 0 || meta.term == 0 || meta.term > message.term || meta.index > INDEX_MAX {
            let (index, term) = (meta.index, meta.term);
            return refuse("snapshot", format!("it is at index {index} of term {term}"));
        }
        let conf_state = meta.get_conf_state();
        if conf_state.voters.is_empty() {
            return refuse("snapshot", "its configuration has no voters");
        }
        if let Err(reason) = check_conf_state(conf_state) {
            return refuse("snapshot", format!("its configuration: {reason}"));
        }
        let region = self.region_id();
        match RaftSnapshotData::of_snapshot(region, snapshot) {
            Err(error) => refuse("snapshot", error.to_string()),
            Ok(None) => refuse("snapshot", "it has no data"),
            Ok(Some(data)) => self.check_snapshot_region(&data.region),
        }
    }

    fn check_snapshot_region(&self, theirs: &crate::proto::Region) -> Checked {
        let region = self.region_id();
        if theirs.id != region.0 {
            return refuse(
                "snapshot",
                format!("it is of region {}, this is {region}", theirs.id),
            );
        }
        if theirs.range().is_empty() || !theirs.is_initialized() {
            return refuse("snapshot", format!("its range is {}", theirs.range()));
        }
        let (got, own) = (theirs.region_epoch, self.region().region_epoch);
        if got.version < own.version {
            return refuse(
                "snapshot epoch",
                format!("{got:?}, this peer is at {own:?}"),
            );
        }
        Ok(())
    }
}

/// raft sends these with the term 0: it forwards them, and ends the process over one that has a term.
fn travels_without_term(kind: MessageType) -> bool {
    kind == MessageType::MsgReadIndex
}

/// Local messages, and those by which a follower would pass on what its clients want: here a store
/// answers its clients with the leader's address instead.
fn does_not_travel(kind: MessageType) -> bool {
    is_local_msg(kind)
        || matches!(
            kind,
            MessageType::MsgPropose | MessageType::MsgTransferLeader
        )
}

/// raft counts on from what it is told, without looking for the end of the numbers.
fn check_numbers(message: &Message) -> Checked {
    let terms = [message.term, message.log_term, message.commit_term];
    let indexes = [message.index, message.commit, message.reject_hint];
    if terms.iter().any(|t| *t > TERM_MAX) || indexes.iter().any(|i| *i > INDEX_MAX) {
        let found = format!("terms {terms:?}, indexes {indexes:?}: near the end");
        return refuse("number", found);
    }
    if message.request_snapshot != 0 {
        // Nobody here asks that way, and raft would believe any index.
        let index = message.request_snapshot;
        return refuse("number", format!("asks for a snapshot at {index}"));
    }
    Ok(())
}

fn check_read_index(message: &Message) -> Checked {
    let (entries, term) = (message.entries.len(), message.term);
    if entries != 1 {
        return refuse("read index", format!("{entries} entries, expected 1"));
    }
    if message.get_msg_type() == MessageType::MsgReadIndex && term != 0 {
        return refuse("read index", format!("asked in term {term}, expected none"));
    }
    Ok(())
}

/// Nobody has that many; raft would count past the end.
const TERM_MAX: u64 = u64::MAX >> 1;
const INDEX_MAX: u64 = u64::MAX >> 1;
