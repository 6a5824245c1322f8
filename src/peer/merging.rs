//! What a merge needs of its source's log, and of what its target has proposed. Uses: command.

use protobuf::Message as _;
use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use super::{Peer, Stage};
use crate::command::{AdminCommand, CommitMerge};
use crate::types::LogPosition;

impl Peer {
    /// The term of the entry at `before`, and the entries `(before, last]` as raft's messages. None if
    /// they are not all here.
    pub fn entries_to_carry(&self, before: u64, last: u64) -> Option<(u64, Vec<Vec<u8>>)> {
        let log = &self.raft.raft.raft_log;
        let term = log.term(before).ok()?;
        let context = GetEntriesContext::empty(false);
        let entries = log.slice(before + 1, last + 1, None, context).ok()?;
        let bytes = entries.iter().map(|e| e.write_to_bytes().ok());
        let bytes: Option<Vec<Vec<u8>>> = bytes.collect();
        bytes
            .filter(|b| b.len() as u64 == last - before)
            .map(|bytes| (term, bytes))
    }

    /// Whether the log may hold entries of the store's own that are not applied yet: a compaction among
    /// them could drop what a merge is to carry.
    pub fn has_admin_ahead(&self) -> bool {
        let log = &self.raft.raft.raft_log;
        let next = self.storage().applied_index() + 1;
        let context = GetEntriesContext::empty(false);
        match log.slice(next, log.last_index() + 1, None, context) {
            Ok(entries) => entries.iter().any(super::handover::is_admin),
            Err(_) => true,
        }
    }

    /// Takes in entries `(before, commit]`, which are committed, as if the leader had sent them: the
    /// leader may be gone.
    pub fn catch_up(&mut self, before: LogPosition, commit: u64, entries: &[Entry]) {
        let raft = &mut self.raft.raft;
        if !matches!(self.stage, Stage::Active) || raft.raft_log.committed >= commit {
            return;
        }
        // What is committed here is the same there, and a log that a snapshot brought begins behind `before`.
        let from = match raft.raft_log.term(raft.raft_log.committed) {
            Ok(term) if raft.raft_log.committed > before.index => {
                LogPosition::new(term, raft.raft_log.committed)
            }
            _ => before,
        };
        let missing = &entries[entries.partition_point(|e| e.index <= from.index)..];
        if let Some(last) = missing.last()
            && last.term > raft.term
        {
            raft.become_follower(last.term, 0);
        }
        raft.raft_log
            .maybe_append(from.index, from.term, commit, missing);
    }

    /// Proposes to take a neighbour in, unless the last such proposal may still be applied.
    pub fn propose_merge(&mut self, command: CommitMerge) {
        let LogPosition { term, index } = self.merge_proposed;
        let open = term == self.raft.raft.term && index > self.storage().applied_index();
        if open || self.check_proposal("merge", None).is_err() {
            return;
        }
        self.propose_admin(AdminCommand::CommitMerge(command), None);
        let index = self.raft.raft.raft_log.last_index();
        self.merge_proposed = LogPosition::new(self.raft.raft.term, index);
    }
}
