//! What a log of openraft knows of itself, and the batches that change it. Uses: raft_log, wire. Never
//! does I/O.
//!
//! openraft lets a log be purged as soon as the install of a snapshot is begun, on another task. So a
//! purge is *seen* at once and *carried out* when the state machine has durably come that far: a crash in
//! between finds the log as it was before, with every entry that the state machine still needs.

use openraft::{LogId, Vote};
use prost::Message as _;
use raft::eraftpb::{Entry as RaftEntry, HardState};

use super::meta_region;
use super::wire::LogMeta;
use crate::error::{Error, Result};
use crate::proto::RaftLocalState;
use crate::raft_log::LogBatch;
use crate::types::RegionId;

/// The index of the entry of the second region that holds the [`LogMeta`].
pub(super) const META_INDEX: u64 = 1;

/// The log as openraft sees it, and as it is on disk when everything that was handed in is written.
#[derive(Debug)]
pub(super) struct Book {
    region: RegionId,
    vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
    // The entries are `[first, end)`. Invariant: first <= end, and first is behind `purged`.
    first: u64,
    end: u64,
    // Of the last entry, or `purged` if there is none.
    last: Option<LogId<u64>>,
    // What the disk says: `purged`, `first` and `end` without purges that wait. Invariant: each is at
    // most the one that is seen.
    disk: Disk,
    // Counts what took entries away: who has read meanwhile reads again.
    rewrites: u64,
    // Of those, the ones that took the newest away.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Disk {
    purged: Option<LogId<u64>>,
    first: u64,
    end: u64,
}

/// What an append comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Append {
    /// To be written.
    Write(LogBatch),
    /// Everything is purged already.
    Nothing,
    /// There would be a hole on disk before the purge up to this index is carried out.
    Wait(u64),
}

impl Book {
    /// The log that the store has: `last_of` gives the log id of an entry, if it is there.
    ///
    /// # Errors
    /// `Corruption` if the last entry is missing, and those of `last_of`.
    pub fn open(
        region: RegionId,
        meta: LogMeta,
        state: Option<&RaftLocalState>,
        last_of: &dyn Fn(u64) -> Result<Option<LogId<u64>>>,
    ) -> Result<Book> {
        let purged = meta.purged.map(LogId::from);
        let first = meta.first_index;
        let last_index = state.map_or(0, |state| state.last_index);
        let (mut end, mut last) = (first.max(last_index.saturating_add(1)), purged);
        // The last index of an empty log is that of an entry 0 too.
        if state.is_none() || (end == 1 && first == 0 && last_of(0)?.is_none()) {
            end = first;
        }
        if end > first {
            let there = |index: u64| {
                last_of(index)?.ok_or_else(|| {
                    let detail = format!(
                        "it is missing from a log of the entries {first} to {}",
                        end - 1
                    );
                    Error::corruption(Some(region), format!("entry {index}"), detail)
                })
            };
            there(first)?;
            last = Some(there(end - 1)?);
        }
        // An fsync less is spent on it, so a power cut may have taken it back, never what it names. It
        // says what can be applied at once: not more than there is.
        let committed = meta.committed.map(LogId::from).min(last);
        Ok(Book {
            region,
            vote: meta.vote.map(Vote::from),
            committed,
            purged,
            first,
            end,
            last,
            disk: Disk { purged, first, end },
            rewrites: 0,
            cuts: 0,
        })
    }

    pub fn vote(&self) -> Option<Vote<u64>> {
        self.vote
    }

    pub fn committed(&self) -> Option<LogId<u64>> {
        self.committed
    }

    pub fn purged(&self) -> Option<LogId<u64>> {
        self.purged
    }

    pub fn last(&self) -> Option<LogId<u64>> {
        self.last
    }

    /// The entries that can be read: `[first, end)`.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.end
    }

    /// Grows whenever entries go.
    pub fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// Grows whenever the newest entries go.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    fn cut(&mut self) {
        self.rewrites += 1;
        self.cuts += 1;
    }

    /// The purge that waits, if one does: the last index that goes.
    pub fn waiting(&self) -> Option<u64> {
        let waits = self.purged != self.disk.purged;
        self.purged.filter(|_| waits).map(|id| id.index)
    }

    pub fn save_vote(&mut self, vote: Vote<u64>) -> LogBatch {
        self.vote = Some(vote);
        let mut batch = self.states();
        batch.require_sync();
        batch
    }

    /// Needs no fsync: see [`Book::open`].
    pub fn save_committed(&mut self, committed: Option<LogId<u64>>) -> LogBatch {
        self.committed = committed;
        self.states()
    }

    /// Puts `entries`, contiguous and ascending, whose last is `last`. Those that are purged already are
    /// left out; those that others lie at or behind replace them.
    ///
    /// # Errors
    /// `InvalidArgument` if there would be a hole in the log. Nothing has changed then.
    pub fn append(&mut self, entries: &mut Vec<RaftEntry>, last: LogId<u64>) -> Result<Append> {
        entries.retain(|entry| self.purged.is_none() || entry.index >= self.first);
        let (Some(start), Some(end)) = (entries.first(), entries.last()) else {
            return Ok(Append::Nothing);
        };
        let (start, end) = (start.index, end.index.saturating_add(1));
        // openraft begins with 0, or behind a snapshot; a log that never had an entry begins where it may.
        let is_new = self.purged.is_none() && self.first == self.end;
        let follows = (self.first..=self.end).contains(&start);
        let contiguous = (start..).zip(entries.iter()).all(|(at, e)| at == e.index);
        if !contiguous || end - start != entries.len() as u64 || !(follows || is_new) {
            let got = format!("entries from {start} on");
            let expected = format!("contiguous ones, from {} on", self.end);
            return Err(Error::invalid(self.region, "append", got, expected));
        }
        if let Some(waiting) = self.waiting()
            && start > self.disk.end
        {
            return Ok(Append::Wait(waiting));
        }
        let mut batch = LogBatch::new();
        if end < self.disk.end {
            batch.remove(self.region, end..self.disk.end);
        }
        if start < self.end {
            self.cut();
        }
        if is_new {
            (self.first, self.disk.first) = (start, start);
        }
        batch.append(self.region, entries.clone());
        (self.end, self.last, self.disk.end) = (end, Some(last), end);
        batch.merge(match is_new {
            true => self.states(),
            false => self.raft_state(),
        });
        batch.require_sync();
        Ok(Append::Write(batch))
    }

    /// Removes the entries from `since` on; `last` is the log id of the one before, if that is there.
    pub fn truncate(&mut self, since: u64, last: Option<LogId<u64>>) -> LogBatch {
        let since = since.clamp(self.first, self.end);
        let mut batch = LogBatch::new();
        batch.remove(self.region, since..self.disk.end);
        (self.end, self.last) = (since, last.or(self.purged));
        self.disk.end = self.disk.end.min(since);
        self.cut();
        batch.merge(self.raft_state());
        batch.require_sync();
        batch
    }

    /// From now on the entries up to `upto`, inclusive, are not seen any more.
    pub fn purge(&mut self, upto: LogId<u64>) {
        if self.purged >= Some(upto) {
            return;
        }
        self.purged = Some(upto);
        self.first = self.first.max(upto.index.saturating_add(1));
        self.rewrites += 1;
        if self.end <= self.first {
            (self.end, self.last) = (self.first, Some(upto));
        }
    }

    /// Removes what is purged from the disk, and writes down that it is.
    pub fn carry_out_purge(&mut self) -> LogBatch {
        let mut batch = LogBatch::new();
        let Some(upto) = self.purged.filter(|_| self.purged != self.disk.purged) else {
            return batch;
        };
        batch.remove(self.region, 0..upto.index.saturating_add(1));
        self.disk = Disk {
            purged: self.purged,
            first: self.first,
            end: self.disk.end.max(self.first),
        };
        batch.merge(self.states());
        batch
    }

    /// Everything beside the entries. What a purge waits for is not in it.
    fn states(&self) -> LogBatch {
        let meta = LogMeta {
            vote: self.vote.map(Into::into),
            committed: self.committed.map(Into::into),
            purged: self.disk.purged.map(Into::into),
            first_index: self.disk.first,
        };
        let mut entry = RaftEntry::default();
        (entry.index, entry.data) = (META_INDEX, meta.encode_to_vec().into());
        let mut batch = self.raft_state();
        batch.append(meta_region(self.region), vec![entry]);
        batch
    }

    /// The last index, which openraft's log has of it alone; the rest is for those who look at a log.
    fn raft_state(&self) -> LogBatch {
        let mut hard_state = HardState::default();
        if let Some(vote) = &self.vote {
            (hard_state.term, hard_state.vote) = (vote.leader_id.term, vote.leader_id.node_id);
        }
        hard_state.commit = self.committed.map_or(0, |id| id.index);
        let purged = self.disk.purged.map_or(0, |id| id.index);
        let Disk { first, end, .. } = self.disk;
        let state = RaftLocalState {
            hard_state,
            last_index: if end > first { end - 1 } else { purged },
        };
        let mut batch = LogBatch::new();
        batch.state(self.region, state);
        batch
    }
}

#[cfg(test)]
#[path = "book/tests.rs"]
mod tests;
