//! Logs that are broken on purpose, to see the suite catch them.

use std::ops::Range;

use peerstore::conformance::{self, Harness};
use peerstore::memory::MemoryLog;
use peerstore::{
    Durability, Error, LogBatch, LogOp, LogStats, RaftLocalState, RaftLogStorage, RegionId, Result,
};
use raft::eraftpb::Entry;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    ForgetsRemove,
    RemovesOneTooMany,
    ForgetsClear,
    LosesContext,
    LosesType,
    SplitsBatches,
    WritesBackwards,
    ReadsOneTooMany,
    IgnoresTheLimit,
    AnswersNothing,
    PassesOverHoles,
    HidesStatelessRegions,
    SyncsNothing,
    SyncsEmptyBatches,
}

struct BrokenLog {
    log: MemoryLog,
    flaw: Flaw,
}

impl BrokenLog {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    /// The batch that this log makes of one operation.
    fn push(&self, batch: &mut LogBatch, op: &LogOp) {
        match op.clone() {
            LogOp::Append { region, entries } => {
                let spoil = |entry| self.spoil(entry);
                batch.append(region, entries.into_iter().map(spoil).collect());
            }
            LogOp::Remove { region, range } => match self.flaw {
                Flaw::ForgetsRemove => {}
                Flaw::RemovesOneTooMany => batch.remove(region, range.start..range.end + 1),
                _ => batch.remove(region, range),
            },
            LogOp::State { region, state } => batch.state(region, state),
            LogOp::Clear { region } => match self.flaw {
                Flaw::ForgetsClear => batch.remove(region, 0..u64::MAX),
                _ => batch.clear_region(region),
            },
        }
    }

    fn spoil(&self, mut entry: Entry) -> Entry {
        if self.is(Flaw::LosesContext) {
            entry.context = Default::default();
        }
        if self.is(Flaw::LosesType) {
            entry.entry_type = Default::default();
        }
        entry
    }
}

impl RaftLogStorage for BrokenLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if batch.is_empty() && self.is(Flaw::SyncsEmptyBatches) {
            return self.log.sync();
        }
        let durability = match self.flaw {
            Flaw::SyncsNothing => Durability::Buffered,
            _ => durability,
        };
        let mut whole = LogBatch::default();
        for op in batch.ops() {
            self.push(&mut whole, op);
            if self.is(Flaw::SplitsBatches) {
                self.log.write(&whole, Durability::Buffered)?;
                whole.clear();
            }
        }
        if self.is(Flaw::WritesBackwards) {
            let mut reversed = LogBatch::default();
            whole
                .ops()
                .iter()
                .rev()
                .for_each(|op| self.push(&mut reversed, op));
            whole = reversed;
        }
        self.log.write(&whole, durability)
    }

    fn read_entries(&self, region: RegionId, r: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        let more = r.start..r.end.saturating_add(1);
        match self.flaw {
            Flaw::ReadsOneTooMany => (self.log.read_entries(region, more, bytes_max))
                .or_else(|_| self.log.read_entries(region, r, bytes_max)),
            Flaw::IgnoresTheLimit => self.log.read_entries(region, r, u64::MAX),
            Flaw::AnswersNothing if bytes_max == 0 => Ok(Vec::new()),
            Flaw::PassesOverHoles => match self.log.read_entries(region, r, bytes_max) {
                Err(Error::Corruption { .. }) => Ok(Vec::new()),
                answer => answer,
            },
            _ => self.log.read_entries(region, r, bytes_max),
        }
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.log.read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.log.read_state(region)
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        let mut regions = self.log.regions()?;
        if self.is(Flaw::HidesStatelessRegions) {
            regions.retain(|r| matches!(self.log.read_state(*r), Ok(Some(_))));
        }
        Ok(regions)
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.log.approximate_bytes(region, range)
    }

    fn sync(&self) -> Result<()> {
        match self.flaw {
            Flaw::SyncsNothing => Ok(()),
            _ => self.log.sync(),
        }
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}

struct Broken(BrokenLog);

impl Harness<dyn RaftLogStorage> for Broken {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        &self.0
    }
    fn reopen(&mut self) -> Result<bool> {
        self.0.log = self.0.log.crash_copy(usize::MAX);
        Ok(true)
    }
    fn crash(&mut self) -> Result<bool> {
        self.0.log = self.0.log.crash_copy(1);
        Ok(true)
    }
}

/// That `case` is among those that fail.
fn caught(flaw: Flaw, case: &str) {
    let log = MemoryLog::new;
    let failures = conformance::raft_log::check(|| Broken(BrokenLog { log: log(), flaw }));
    let names: Vec<&str> = failures.iter().map(|f| f.case.as_str()).collect();
    assert!(names.contains(&case), "{case} not in {names:?}");
}

#[test]
fn suite_catches_a_log_that_forgets_remove() {
    caught(Flaw::ForgetsRemove, "remove_drops_the_front");
}

#[test]
fn suite_catches_a_log_that_removes_one_too_many() {
    caught(Flaw::RemovesOneTooMany, "remove_drops_the_front");
}

#[test]
fn suite_catches_a_log_that_keeps_the_state_of_a_cleared_region() {
    caught(Flaw::ForgetsClear, "clear_drops_entries_and_state");
}

#[test]
fn suite_catches_a_log_that_loses_the_context() {
    caught(Flaw::LosesContext, "every_field_of_an_entry_is_kept");
}

#[test]
fn suite_catches_a_log_that_loses_the_entry_type() {
    caught(Flaw::LosesType, "every_field_of_an_entry_is_kept");
}

#[test]
fn suite_catches_a_log_that_splits_a_batch() {
    caught(Flaw::SplitsBatches, "a_power_cut_spares_what_was_synced");
}

#[test]
fn suite_catches_a_log_that_writes_a_batch_backwards() {
    let case = "the_operations_of_a_batch_keep_their_order";
    caught(Flaw::WritesBackwards, case);
}

#[test]
fn suite_catches_a_log_that_returns_one_entry_too_many() {
    let case = "appended_entries_come_back_in_order";
    caught(Flaw::ReadsOneTooMany, case);
}

#[test]
fn suite_catches_a_log_that_ignores_the_limit() {
    caught(Flaw::IgnoresTheLimit, "bytes_max_cuts_as_raft_does");
}

#[test]
fn suite_catches_a_log_that_answers_nothing_under_a_small_limit() {
    caught(Flaw::AnswersNothing, "bytes_max_cuts_as_raft_does");
}

#[test]
fn suite_catches_a_log_that_passes_over_missing_entries() {
    caught(Flaw::PassesOverHoles, "a_missing_entry_is_corruption");
}

#[test]
fn suite_catches_a_log_that_hides_regions_without_a_state() {
    let case = "regions_are_ascending_and_complete";
    caught(Flaw::HidesStatelessRegions, case);
}

#[test]
fn suite_catches_a_log_that_acknowledges_before_it_syncs() {
    let case = "sync_covers_earlier_buffered_writes";
    caught(Flaw::SyncsNothing, case);
}

#[test]
fn suite_catches_a_log_that_syncs_for_an_empty_batch() {
    caught(Flaw::SyncsEmptyBatches, "an_empty_batch_does_nothing");
}
