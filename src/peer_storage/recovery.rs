//! The rules that an open checks: what may stand together on disk after a crash. Uses: proto, error.
//! Never does I/O: it is told what the log holds.
//!
//! raft-rs panics on most of what is refused here, and would lose a vote or an acknowledged entry on
//! the rest. The numbers are those of the table in `docs/architecture.md`.

use raft::eraftpb::HardState;

use crate::conf::check_conf_state;
use crate::error::{RecoveryError, Result};
use crate::proto::{RaftApplyState, RaftLocalState, RegionLocalState};

/// The three states of a region as they were stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub region: RegionLocalState,
    pub raft: RaftLocalState,
    pub apply: RaftApplyState,
}

/// Why an open stopped: the states contradict each other, or the log could not be read.
pub(super) enum Refusal {
    Rule(RecoveryError),
    Read(crate::error::Error),
}

impl From<RecoveryError> for Refusal {
    fn from(error: RecoveryError) -> Self {
        Refusal::Rule(error)
    }
}

impl Stored {
    /// Checks rules 1 to 7 and moves the commit forward by rule 2. `term_in_log` answers the term of
    /// an entry, if the log holds it. Returns the term of the last entry.
    pub fn check(
        &mut self,
        mut term_in_log: impl FnMut(u64) -> Result<Option<u64>>,
    ) -> Result<u64, Refusal> {
        let truncated = self.apply.truncated();
        let last_index = self.raft.last_index;
        let mut term = |index: u64| -> Result<Option<u64>, Refusal> {
            if index == truncated.index {
                return Ok(Some(truncated.term));
            }
            if index < truncated.index || index > last_index {
                return Ok(None);
            }
            term_in_log(index).map_err(Refusal::Read)
        };
        self.check_hard_state()?;
        self.check_bounds()?;
        self.check_commit(&mut term)?;
        if term(self.apply.applied_index)?.is_none() {
            return Err(Refusal::Rule(RecoveryError::AppliedEntryMissing {
                applied: self.apply.applied_index,
                truncated_index: truncated.index,
            }));
        }
        let last_term = term(last_index)?.ok_or(RecoveryError::LastEntryMissing {
            last_index,
            truncated_index: truncated.index,
        })?;
        let (applied, commit) = (self.apply.applied_index, self.raft.hard_state.commit);
        if applied > commit {
            return Err(RecoveryError::AppliedBeyondCommit { applied, commit }.into());
        }
        let reason = check_conf_state(&self.region.conf_state).err();
        match reason {
            Some(reason) => Err(RecoveryError::ConfStateInvalid { reason }.into()),
            None => Ok(last_term),
        }
    }

    /// Rules 3 and 7.
    fn check_hard_state(&self) -> Result<(), RecoveryError> {
        let hard_state = &self.raft.hard_state;
        if self.region.region.is_initialized() && *hard_state == HardState::default() {
            return Err(RecoveryError::HardStateMissing);
        }
        if hard_state.term < self.apply.commit_term {
            return Err(RecoveryError::TermBehindCommit {
                got: hard_state.term,
                expected: self.apply.commit_term,
            });
        }
        Ok(())
    }

    /// Rules 1 and 6, and the half of 4 that needs no log.
    fn check_bounds(&self) -> Result<(), RecoveryError> {
        let last_index = self.raft.last_index;
        let commit = self.raft.hard_state.commit.max(self.apply.commit_index);
        if commit > last_index {
            return Err(RecoveryError::CommitBeyondLog { commit, last_index });
        }
        let applied = self.apply.applied_index;
        if applied > last_index {
            return Err(RecoveryError::AppliedBeyondLog {
                applied,
                last_index,
            });
        }
        Ok(())
    }

    /// Rule 2: what was applied is committed, whatever the hard state still says.
    fn check_commit(
        &mut self,
        term: &mut impl FnMut(u64) -> Result<Option<u64>, Refusal>,
    ) -> Result<(), Refusal> {
        let (index, expected) = (self.apply.commit_index, self.apply.commit_term);
        if self.raft.hard_state.commit >= index {
            return Ok(());
        }
        let got = term(index)?;
        if got != Some(expected) {
            return Err(Refusal::Rule(RecoveryError::CommitTermMismatch {
                index,
                got,
                expected,
            }));
        }
        self.raft.hard_state.commit = index;
        Ok(())
    }
}
