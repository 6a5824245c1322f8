//! The plainest storage that passes the suite of `raft::Storage`, and what is left of it with a flaw.

use peerstore::conformance::raft_storage::{StorageUnderTest, check, run};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

#[derive(Clone, Copy, Default, PartialEq)]
enum Flaw {
    #[default]
    None,
    ForgetsTheTermAtTheCut,
    RestartsAfterCompaction,
    LeavesGaps,
    KeepsTheTail,
    KeepsTheLogUnderASnapshot,
    TakesOldSnapshots,
    LosesContext,
    LosesAutoLeave,
    LosesTheVote,
    LosesTheVoteOfAnEmptyPeer,
    IgnoresTheLimit,
    CompactsOneTooMany,
    AnswersOldSnapshots,
}

/// Everything in fields; "on disk" is a copy of them.
#[derive(Clone, Default)]
struct Plain {
    flaw: Flaw,
    state: HardState,
    conf_state: ConfState,
    cut: (u64, u64),
    entries: Vec<Entry>,
    applied: u64,
    snapshot: Option<Snapshot>,
}

fn refuse<T>(error: StorageError) -> raft::Result<T> {
    Err(Error::Store(error))
}

impl Plain {
    fn last(&self) -> u64 {
        self.cut.0 + self.entries.len() as u64
    }

    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }
}

impl Storage for Plain {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.cut.0 {
            return refuse(StorageError::Compacted);
        }
        assert!(high <= self.last() + 1, "high {high}");
        let at = |index: u64| (index - self.cut.0 - 1) as usize;
        let mut entries = self.entries[at(low)..at(high)].to_vec();
        if !self.is(Flaw::IgnoresTheLimit) {
            raft::util::limit_size(&mut entries, max_size.into());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.cut.0 {
            return match self.flaw {
                Flaw::ForgetsTheTermAtTheCut if index > 0 => refuse(StorageError::Compacted),
                _ => Ok(self.cut.1),
            };
        }
        if index < self.cut.0 {
            return refuse(StorageError::Compacted);
        }
        match self.entries.get((index - self.cut.0 - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => refuse(StorageError::Unavailable),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cut.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        if self.applied < request_index {
            return refuse(StorageError::SnapshotTemporarilyUnavailable);
        }
        let term = self.term(self.applied)?;
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.applied, term);
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

impl StorageUnderTest for Plain {
    type Storage = Plain;

    fn storage(&self) -> &Plain {
        self
    }

    fn append(&mut self, entries: &[Entry]) -> raft::Result<()> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if first.index <= self.cut.0 {
            return refuse(StorageError::Compacted);
        }
        let gap = first.index > self.last() + 1;
        let gap = gap || entries.windows(2).any(|w| w[1].index != w[0].index + 1);
        if gap && !self.is(Flaw::LeavesGaps) {
            return refuse(StorageError::Unavailable);
        }
        let from = ((first.index - self.cut.0 - 1) as usize).min(self.entries.len());
        let behind = (from + entries.len()).min(self.entries.len());
        let tail = match self.flaw {
            Flaw::KeepsTheTail => self.entries[behind..].to_vec(),
            _ => Vec::new(),
        };
        self.entries.truncate(from);
        self.entries.extend_from_slice(entries);
        self.entries.extend(tail);
        if self.is(Flaw::LosesContext) {
            let clear = |entry: &mut Entry| entry.context = Default::default();
            self.entries.iter_mut().for_each(clear);
        }
        Ok(())
    }

    fn set_hard_state(&mut self, state: &HardState) -> raft::Result<()> {
        self.state = state.clone();
        Ok(())
    }

    fn set_conf_state(&mut self, state: &ConfState) -> raft::Result<()> {
        self.conf_state = state.clone();
        Ok(())
    }

    fn compact(&mut self, first_index: u64) -> raft::Result<()> {
        let first_index = match self.flaw {
            Flaw::CompactsOneTooMany => first_index + 1,
            _ => first_index,
        };
        if first_index <= self.cut.0 + 1 {
            return Ok(());
        }
        if first_index > self.last() + 1 {
            return refuse(StorageError::Unavailable);
        }
        let term = self.term(first_index - 1)?;
        self.entries
            .drain(..(first_index - self.cut.0 - 1) as usize);
        self.cut = (first_index - 1, term);
        if self.entries.is_empty() && self.is(Flaw::RestartsAfterCompaction) {
            self.cut = (0, 0);
        }
        Ok(())
    }

    fn install_snapshot(&mut self, snapshot: Snapshot) -> raft::Result<()> {
        let metadata = snapshot.get_metadata();
        if metadata.index <= self.cut.0 && !self.is(Flaw::TakesOldSnapshots) {
            return refuse(StorageError::SnapshotOutOfDate);
        }
        let covered = (metadata.index.saturating_sub(self.cut.0) as usize).min(self.entries.len());
        match self.flaw {
            Flaw::KeepsTheLogUnderASnapshot => drop(self.entries.drain(..covered)),
            _ => self.entries.clear(),
        }
        self.cut = (metadata.index, metadata.term);
        self.applied = metadata.index;
        self.state.commit = metadata.index;
        self.state.term = self.state.term.max(metadata.term);
        self.conf_state = metadata.get_conf_state().clone();
        Ok(())
    }

    fn advance_applied(&mut self, index: u64) -> raft::Result<()> {
        self.applied = index;
        Ok(())
    }

    fn snapshot_now(&mut self, request_index: u64) -> raft::Result<Snapshot> {
        if let (Flaw::AnswersOldSnapshots, Some(old)) = (self.flaw, &self.snapshot) {
            return Ok(old.clone());
        }
        let snapshot = self.storage().snapshot(request_index, 2)?;
        self.snapshot = Some(snapshot.clone());
        Ok(snapshot)
    }

    fn reopen(&mut self) -> raft::Result<bool> {
        match self.flaw {
            Flaw::LosesAutoLeave => self.conf_state.auto_leave = false,
            Flaw::LosesTheVote => self.state.vote = 0,
            Flaw::LosesTheVoteOfAnEmptyPeer if self.last() == 0 => {
                self.state = HardState::default()
            }
            _ => {}
        }
        Ok(true)
    }

    fn another(&mut self, _: u64) -> raft::Result<Option<Self>> {
        Ok(Some(Plain {
            flaw: self.flaw,
            ..Plain::default()
        }))
    }
}

#[test]
fn a_plain_storage_conforms() {
    run(Plain::default);
}

/// That `case` is among those that fail.
fn caught(flaw: Flaw, case: &str) {
    let new = || Plain {
        flaw,
        ..Plain::default()
    };
    let failures = check(new);
    let names: Vec<&str> = failures.iter().map(|f| f.case.as_str()).collect();
    assert!(names.contains(&case), "{case} not in {names:?}");
}

#[test]
fn suite_catches_a_storage_that_forgets_the_term_at_the_cut() {
    let case = "the_term_at_the_cut_stays_known";
    caught(Flaw::ForgetsTheTermAtTheCut, case);
}

#[test]
fn suite_catches_a_storage_that_starts_again_after_compaction() {
    let case = "a_compaction_of_everything_keeps_the_indexes";
    caught(Flaw::RestartsAfterCompaction, case);
}

#[test]
fn suite_catches_a_storage_that_leaves_gaps() {
    let case = "an_append_that_leaves_a_gap_is_unavailable";
    caught(Flaw::LeavesGaps, case);
    caught(Flaw::LeavesGaps, "an_append_with_a_gap_in_it_is_refused");
}

#[test]
fn suite_catches_a_storage_that_keeps_an_overwritten_tail() {
    caught(Flaw::KeepsTheTail, "an_overwrite_removes_the_tail");
}

#[test]
fn suite_catches_a_storage_that_keeps_the_log_under_a_snapshot() {
    let case = "an_installed_snapshot_replaces_a_longer_log";
    caught(Flaw::KeepsTheLogUnderASnapshot, case);
}

#[test]
fn suite_catches_a_storage_that_takes_old_snapshots() {
    let case = "a_snapshot_below_the_first_index_is_out_of_date";
    caught(Flaw::TakesOldSnapshots, case);
}

#[test]
fn suite_catches_a_storage_that_loses_the_context() {
    caught(Flaw::LosesContext, "every_field_of_an_entry_is_kept");
}

#[test]
fn suite_catches_a_storage_that_loses_auto_leave() {
    let case = "reopening_keeps_every_field_of_the_configuration";
    caught(Flaw::LosesAutoLeave, case);
}

#[test]
fn suite_catches_a_storage_that_loses_the_vote() {
    caught(Flaw::LosesTheVote, "reopening_keeps_the_hard_state");
}

#[test]
fn suite_catches_a_storage_that_loses_the_vote_of_an_empty_peer() {
    let case = "the_vote_of_an_empty_peer_is_not_lost";
    caught(Flaw::LosesTheVoteOfAnEmptyPeer, case);
}

#[test]
fn suite_catches_a_storage_that_ignores_the_limit() {
    caught(Flaw::IgnoresTheLimit, "a_size_limit_cuts_as_raft_does");
}

#[test]
fn suite_catches_a_storage_that_compacts_one_too_many() {
    let case = "a_compaction_drops_exactly_what_is_below";
    caught(Flaw::CompactsOneTooMany, case);
}

#[test]
fn suite_catches_a_storage_that_answers_old_snapshots() {
    let case = "a_snapshot_reaches_the_requested_index";
    caught(Flaw::AnswersOldSnapshots, case);
}
