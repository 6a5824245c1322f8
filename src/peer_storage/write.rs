//! Entries and hard state: planned, written, and only then true in memory. Uses: raft_log.

use raft::Ready;
use raft::eraftpb::{Entry, HardState};

use super::install::Install;
use super::{PeerStorage, check_contiguous};
use crate::error::{Error, Result};
use crate::proto::RaftLocalState;
use crate::raft_log::LogBatch;
use crate::types::{LogPosition, RegionId};

/// A Ready whose writes are in a batch that somebody else makes durable. Hand it back to
/// [`PeerStorage::persisted`] when they are. Dropping it says that they never will be: the region
/// keeps answering reads, but nothing of it counts as durable, and it must be opened again.
#[must_use = "nothing counts as durable until it is handed to `persisted`"]
#[derive(Debug)]
pub struct Staged {
    region: RegionId,
    last: LogPosition,
    install: Option<Install>,
}

/// What a write of entries and hard state does: decided before anything is changed.
struct Plan {
    entries: Vec<Entry>,
    hard_state: HardState,
    must_sync: bool,
}

impl PeerStorage {
    /// Makes everything of a Ready durable that raft wants durable: entries, hard state, snapshot, in
    /// one batch with one fsync, or none if only the commit moved ([`Ready::must_sync`]). A snapshot is
    /// also restored, which takes as long as its data needs. Takes the entries out of `ready`; then
    /// send its persisted messages and hand it to `RawNode::advance_append`.
    ///
    /// ```
    /// # use peerstore::{CompositeStorage, Config, Region};
    /// # let dir = tempfile::tempdir()?;
    /// let node = CompositeStorage::open(dir.path(), Config::default())?;
    /// let storage = node.create_region(&Region::single(1, 1))?;
    /// let config = storage.raft_config();
    /// let mut raft = raft::RawNode::new(&config, storage, &peerstore::raft_logger())?;
    /// raft.campaign()?;
    /// let mut ready = raft.ready();
    /// raft.mut_store().persist(&mut ready)?;
    /// raft.advance(ready);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`PeerStorage::append`] and [`PeerStorage::install_snapshot`]. Nothing has changed then;
    /// after a refusal `ready` neither, so that a missing snapshot file may be brought and the call
    /// repeated.
    pub fn persist(&mut self, ready: &mut Ready) -> Result<()> {
        self.keep_up();
        let mut batch = LogBatch::default();
        if !ready.snapshot().is_empty() {
            let staged = self.stage(ready, &mut batch)?;
            self.engines.write_log(&batch)?;
            return self.persisted(staged);
        }
        // Even if there is nothing to write: `advance_append` would count what is staged as durable.
        self.check_nothing_staged("persist")?;
        if writes_nothing(ready) {
            return Ok(());
        }
        let plan = self.plan_ready(ready)?;
        self.add_to_batch(&plan, &mut batch);
        self.engines.write_log(&batch)?;
        self.accept(plan);
        self.set_persisted(self.log_last());
        Ok(())
    }

    /// The same, pipelined: puts the writes of a Ready into `batch`, which may carry many regions, and
    /// makes them readable at once, so that `RawNode::advance_append_async` may follow. Write the batch
    /// (with [`LogBatch::durability`] or more), then call [`PeerStorage::persisted`]; several may be
    /// staged, and they must be written in their order. With a snapshot, the Applying state is made
    /// durable here, before the log is touched.
    ///
    /// # Errors
    /// As [`PeerStorage::persist`]; then `batch` has not changed either.
    pub fn stage(&mut self, ready: &mut Ready, batch: &mut LogBatch) -> Result<Staged> {
        let install = if ready.snapshot().is_empty() {
            if !writes_nothing(ready) {
                let plan = self.plan_ready(ready)?;
                self.add_to_batch(&plan, batch);
                self.accept(plan);
            }
            None
        } else {
            let snapshot = ready.snapshot().clone();
            let hard_state = ready.hs().cloned();
            let install = self.begin_install(&snapshot, hard_state, ready.entries(), batch)?;
            ready.take_entries();
            Some(install)
        };
        self.staged += 1;
        Ok(Staged {
            region: self.region_id(),
            last: self.last_position(),
            install,
        })
    }

    /// Puts entries into `batch` as [`PeerStorage::append`] would write them.
    pub(super) fn stage_append(
        &mut self,
        entries: &[Entry],
        batch: &mut LogBatch,
    ) -> Result<Staged> {
        self.check_append(entries)?;
        let plan = Plan {
            entries: entries.to_vec(),
            hard_state: self.hard_state().clone(),
            must_sync: true,
        };
        self.add_to_batch(&plan, batch);
        self.accept(plan);
        self.staged += 1;
        Ok(Staged {
            region: self.region_id(),
            last: self.last_position(),
            install: None,
        })
    }

    /// Says that the batch of `staged` is durable. A snapshot in it is restored now.
    ///
    /// # Errors
    /// Those of restoring a snapshot; the region has to be opened again then, which goes on with it.
    /// `InvalidArgument` if `staged` is not of this region, or of before it was opened.
    pub fn persisted(&mut self, staged: Staged) -> Result<()> {
        if staged.region != self.region_id() || self.staged == 0 {
            let got = format!("what region {} staged", staged.region);
            let expected = format!("one of the {} that wait", self.staged);
            return Err(Error::invalid(self.region_id(), "persisted", got, expected));
        }
        self.staged -= 1;
        // What was overwritten by a later Ready is not in the log any more; that one will tell.
        let LogPosition { term, index } = staged.last;
        if index > self.persisted && self.terms.borrow().term(index) == Some(term) {
            self.set_persisted(index);
        }
        match staged.install {
            Some(install) => self.finish_install(install),
            None => Ok(()),
        }
    }

    /// Appends entries as `MemStorage::append` does: contiguous, replacing whatever follows the first
    /// of them. Durable on return. None does nothing.
    ///
    /// # Errors
    /// `Compacted` if the first lies below first_index, `Unavailable` if it leaves a gap,
    /// `InvalidArgument` if they are not contiguous, would replace an applied entry, or Readies are
    /// staged.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        self.keep_up();
        let plan = Plan {
            entries: entries.to_vec(),
            hard_state: self.hard_state().clone(),
            must_sync: true,
        };
        if plan.entries.is_empty() {
            return Ok(());
        }
        self.write_plan(plan)
    }

    /// Sets term, vote and commit. Durable on return, except that a mere move of the commit may be
    /// lost with the machine: raft finds it again. The commit may run ahead of the log; that is checked
    /// when the region is opened.
    ///
    /// # Errors
    /// `InvalidArgument` while Readies are staged; those of the log store.
    pub fn set_hard_state(&mut self, hard_state: &HardState) -> Result<()> {
        let old = self.hard_state();
        let must_sync = hard_state.term != old.term || hard_state.vote != old.vote;
        self.write_plan(Plan {
            entries: Vec::new(),
            hard_state: hard_state.clone(),
            must_sync,
        })
    }

    /// Raft writes a term before it commits an entry of it. By hand that may have been left out: then
    /// the hard state is raised, or the next open would find that a vote was lost.
    pub(super) fn reach_term(&mut self, term: u64) -> Result<()> {
        if term <= self.hard_state().term {
            return Ok(());
        }
        let mut raised = self.hard_state().clone();
        (raised.term, raised.vote) = (term, 0);
        self.set_hard_state(&raised)
    }

    /// What a Ready without a snapshot writes.
    fn plan_ready(&self, ready: &mut Ready) -> Result<Plan> {
        self.check_append(ready.entries())?;
        Ok(Plan {
            hard_state: ready.hs().unwrap_or(self.hard_state()).clone(),
            must_sync: ready.must_sync(),
            entries: ready.take_entries(),
        })
    }

    fn write_plan(&mut self, plan: Plan) -> Result<()> {
        self.check_append(&plan.entries)?;
        self.check_nothing_staged("write")?;
        let mut batch = LogBatch::default();
        self.add_to_batch(&plan, &mut batch);
        self.engines.write_log(&batch)?;
        let has_entries = !plan.entries.is_empty();
        self.accept(plan);
        if has_entries {
            self.set_persisted(self.log_last());
        }
        Ok(())
    }

    /// What is written now would say that staged entries are there, though their batch may never be
    /// written.
    fn check_nothing_staged(&self, what: &'static str) -> Result<()> {
        if self.staged == 0 {
            return Ok(());
        }
        let got = format!("{} staged writes that are not durable yet", self.staged);
        let expected = "none: stage this too, or wait until they are persisted";
        Err(Error::invalid(self.region_id(), what, got, expected))
    }

    /// Whether `entries` can follow or replace the end of the log.
    fn check_append(&self, entries: &[Entry]) -> Result<()> {
        self.check_writable("append")?;
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let (region, index) = (self.region_id(), first.index);
        check_contiguous(region, index, entries)?;
        let (first_index, last_index) = (self.log_first(), self.log_last());
        if index < first_index {
            return Err(Error::Compacted {
                region,
                index,
                first_index,
            });
        }
        if index > last_index + 1 {
            return Err(Error::Unavailable {
                region,
                index,
                last_index,
            });
        }
        // Recorded with the apply state, the commit is at least the applied index.
        let committed = self.apply_state.commit_index.max(self.applied_index());
        if index <= committed {
            let got = format!("index {index}, which was applied");
            let expected = format!("an index above applied {committed}");
            return Err(Error::invalid(region, "append", got, expected));
        }
        Ok(())
    }

    /// One region's part of a batch: the old tail goes, the entries and the state that covers them
    /// come, together.
    fn add_to_batch(&self, plan: &Plan, batch: &mut LogBatch) {
        let region = self.region_id();
        let mut last_index = self.log_last();
        if let Some(last) = plan.entries.last() {
            batch.append(region, plan.entries.clone());
            batch.remove(region, last.index + 1..last_index + 1);
            last_index = last.index;
        }
        let hard_state = plan.hard_state.clone();
        batch.state(
            region,
            RaftLocalState {
                hard_state,
                last_index,
            },
        );
        if plan.must_sync {
            batch.require_sync();
        }
    }

    /// Makes a plan true in memory.
    fn accept(&mut self, plan: Plan) {
        if plan.hard_state.term != self.hard_state().term {
            self.drop_fetched();
        }
        self.raft_state.hard_state = plan.hard_state;
        self.accept_entries(plan.entries);
        self.assert_invariants();
    }

    pub(super) fn accept_entries(&mut self, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        if first.index <= self.log_last() {
            self.forget_from(first.index);
            self.persisted = self.persisted.min(first.index - 1);
        }
        self.raft_state.last_index = last.index;
        let terms = self.terms.get_mut();
        for entry in &entries {
            terms.push(LogPosition::new(entry.term, entry.index));
        }
        self.log_bytes.get_mut().add(&entries);
        self.cache.append(entries);
    }

    fn set_persisted(&mut self, index: u64) {
        self.persisted = index;
        self.cache.set_persisted(index);
    }
}

fn writes_nothing(ready: &Ready) -> bool {
    ready.entries().is_empty() && ready.hs().is_none()
}
