//! What was applied on another thread, taken over by memory. Uses: proto. Never does I/O.

use std::ops::Range;

use raft::eraftpb::Entry;

use super::PeerStorage;
use crate::error::{Error, Result};
use crate::proto::{PeerState, RaftApplyState, RegionLocalState};
use crate::types::{LogPosition, RegionId};

/// The states that an apply worker has written beside the data, in one batch.
#[derive(Clone, Debug)]
pub struct AppliedStates {
    /// Applied, truncated and recorded commit.
    pub apply: RaftApplyState,
    /// The region, if it changed.
    pub region: Option<RegionLocalState>,
}

/// The apply state behind the entries at `positions`, which are committed and durable (rule 16): applied and recorded
/// commit move to the last of them, and neither goes back. No entries change nothing.
///
/// # Errors
/// `InvalidArgument` if the entries do not begin right behind the applied index, or have a gap, or a
/// term goes back: applying them would skip one, or apply it twice.
pub fn next_apply_state(
    region: RegionId,
    state: &RaftApplyState,
    positions: impl IntoIterator<Item = LogPosition>,
) -> Result<RaftApplyState> {
    let mut next = state.clone();
    // The term of the applied entry, or where that is not known, one that it is not below.
    let term = match state.commit_index <= state.applied_index {
        true => state.commit_term,
        false => state.truncated().term,
    };
    let mut at = LogPosition::new(term, state.applied_index);
    for entry in positions {
        if entry.index != at.index + 1 || entry.term < at.term {
            let got = entry.to_string();
            let expected = format!("index {} of term {} or more", at.index + 1, at.term);
            return Err(Error::invalid(region, "apply", got, expected));
        }
        at = entry;
    }
    advance(&mut next, at);
    Ok(next)
}

/// What is applied is committed, and it is persisted: so the recorded commit is both (rule 16).
pub(super) fn advance(state: &mut RaftApplyState, applied: LogPosition) {
    state.applied_index = applied.index;
    if state.commit_index < applied.index {
        (state.commit_index, state.commit_term) = (applied.index, applied.term);
    }
}

impl PeerStorage {
    /// Raises the commit in memory: one that moved by itself need not be written, because what is applied
    /// is recorded with the data (rule 2).
    pub(crate) fn accept_commit(&mut self, commit: u64) {
        let known = &mut self.raft_state.hard_state.commit;
        *known = commit.max(*known);
    }

    /// The indexes `[low, high)` that are to be read from the log so that the cache begins at `low`; None
    /// if it does already.
    pub(crate) fn missing_in_cache(&self, low: u64) -> Option<Range<u64>> {
        let low = low.max(self.log_first());
        let high = self.cache.first_index().unwrap_or(self.log_last() + 1);
        (low < high && high <= self.persisted + 1).then_some(low..high)
    }

    /// Puts entries that were read for [`PeerStorage::missing_in_cache`] into the cache, if the log has
    /// not changed meanwhile.
    pub(crate) fn warm_cache(&self, entries: Vec<Entry>) {
        let next = self.cache.first_index().unwrap_or(self.log_last() + 1);
        let fits = entries.last().is_some_and(|last| {
            last.index + 1 == next
                && last.index <= self.persisted
                && self.terms.borrow().term(last.index) == Some(last.term)
        });
        if fits {
            self.cache.prepend(entries);
        }
    }

    /// Takes over what an apply worker has written: applied index and commit, the region with its
    /// configuration, and, where the truncated position moved, what a compaction drops from memory. The
    /// entries themselves go later, by [`PeerStorage::stage_removal`].
    ///
    /// It is written, so there is nothing to refuse: a state that goes back, or covers what is not
    /// durable in the log, is a mistake of whoever drives the region.
    pub(crate) fn accept_applied(&mut self, applied: AppliedStates) {
        let (old, new) = (&self.apply_state, &applied.apply);
        assert_ne!(self.region_state.state, PeerState::Applying);
        assert!(old.applied_index <= new.applied_index, "{old:?} {new:?}");
        assert!(old.commit_index <= new.commit_index, "{old:?} {new:?}");
        assert!(old.truncated_state.index <= new.truncated_state.index);
        // Raft makes a term durable before it commits an entry of it.
        assert!(new.commit_term <= self.hard_state().term, "{new:?}");
        if let Some(region) = applied.region {
            assert_eq!(region.region.region_id(), self.region_id());
            assert_eq!(region.peer_id, self.peer_id());
            self.region_state = region;
        }
        self.accept_truncated(applied.apply);
        self.recheck_snapshot();
        self.assert_invariants();
    }
}

#[cfg(test)]
mod tests;
