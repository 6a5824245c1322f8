//! The data, the applied index and the configuration: one batch, never one without the others.
//! Uses: app_store, state_machine.

use raft::eraftpb::{ConfState, Entry};

use super::PeerStorage;
use super::applied::advance;
use crate::app_store::{AppBatch, Keyspace};
use crate::conf::check_conf_state;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::metrics::Stopwatch;
use crate::proto::{RaftApplyState, RegionLocalState};
use crate::state_machine::ApplyBatch;
use crate::types::{Durability, LogPosition};

impl PeerStorage {
    /// Applies committed entries: calls `apply` for each, then writes what it put into the batch, the
    /// applied index and a changed configuration together. [`ApplyBatch::get`] answers what the entries
    /// before have left, those of the same call too.
    ///
    /// A batch without a new configuration is not fsynced: the entries are durable in the log, and
    /// what a power cut takes from the data is applied again from there. The log keeps what it needs
    /// for that, because a compaction syncs the data first.
    ///
    /// ```
    /// # use peerstore::{CompositeStorage, Config, Region};
    /// # use raft::eraftpb::{Entry, HardState};
    /// # let dir = tempfile::tempdir()?;
    /// # let node = CompositeStorage::open(dir.path(), Config::default())?;
    /// # let mut storage = node.create_region(&Region::single(1, 1))?;
    /// # let mut entry = Entry::default();
    /// # (entry.index, entry.term, entry.data) = (6, 5, b"value"[..].into());
    /// # storage.append(&[entry.clone()])?;
    /// # let committed = [entry];
    /// storage.apply(&committed, |entry, batch| {
    ///     batch.put("key", &entry.data);
    ///     Ok(())
    /// })?;
    /// assert_eq!(storage.get(b"key")?.as_deref(), Some(&b"value"[..]));
    /// assert_eq!(storage.applied_index(), 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What `apply` answers; `InvalidArgument` if the entries do not start right behind the applied
    /// index or are not durable yet; `KeyOutOfRange`. Nothing has changed then.
    pub fn apply(
        &mut self,
        entries: &[Entry],
        mut apply: impl FnMut(&Entry, &mut ApplyBatch<'_>) -> Result<()>,
    ) -> Result<()> {
        self.check_writable("apply")?;
        self.poll_durable()?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        // All of this before the first call: a state machine may answer a client when it is called.
        for (entry, next) in entries.iter().zip(self.applied_index() + 1..) {
            if entry.index != next {
                let got = format!("index {}", entry.index);
                return Err(Error::invalid(
                    self.region_id(),
                    "apply",
                    got,
                    format!("index {next}: the one behind what was applied"),
                ));
            }
        }
        self.check_durable(last.index)?;
        let start = Stopwatch::start();
        let range = self.region().range();
        let mut batch = ApplyBatch::new(&*self.engines.app, &range);
        batch.reserve_for(entries);
        for entry in entries {
            apply(entry, &mut batch)?;
        }
        let conf_states = batch.take_conf_states();
        let batch = batch.into_checked(self.region_id())?;
        let durability = match conf_states[..] {
            [] => Durability::Buffered,
            _ => self.engines.options.durability,
        };
        let bytes = batch.bytes();
        self.write_applied(batch, last.index, &conf_states, durability)?;
        (self.engines.metrics).applied(entries.len(), bytes, start);
        Ok(())
    }

    /// Says that the state machine is at `index`, for one that keeps its data elsewhere. Durable on
    /// return; the state machine must be durable up to `index` before. Saying what is known already
    /// does nothing.
    ///
    /// # Errors
    /// `InvalidArgument` if `index` goes back, or beyond the durable log.
    pub fn advance_applied(&mut self, index: u64) -> Result<()> {
        self.check_writable("advance_applied")?;
        if index == self.applied_index() {
            return Ok(());
        }
        if index < self.applied_index() {
            let got = format!("index {index}");
            let expected = format!("at least the applied index {}", self.applied_index());
            return Err(Error::invalid(
                self.region_id(),
                "advance_applied",
                got,
                expected,
            ));
        }
        self.check_durable(index)?;
        let durability = self.engines.options.durability;
        self.write_applied(AppBatch::default(), index, &[], durability)
    }

    fn check_durable(&self, index: u64) -> Result<()> {
        if index <= self.persisted {
            return Ok(());
        }
        let got = format!("index {index}");
        let expected = format!("at most the last durable index {}", self.persisted);
        Err(Error::invalid(self.region_id(), "applied", got, expected))
    }

    /// Sets the configuration, durable on return. Where an entry changes it, use
    /// [`ApplyBatch::set_conf_state`] in [`PeerStorage::apply`] instead, which writes both together.
    ///
    /// # Errors
    /// `InvalidArgument` if raft could not restore it.
    pub fn set_conf_state(&mut self, conf_state: &ConfState) -> Result<()> {
        self.check_writable("set_conf_state")?;
        let Some(state) = self.reconfigured(std::slice::from_ref(conf_state))? else {
            return Ok(());
        };
        let mut batch = AppBatch::default();
        let key = region_key(self.region_id());
        batch.put(Keyspace::RegionState, key, state.encode_to_vec());
        (self.engines.app).write(&batch, self.engines.options.durability)?;
        self.accept_region(state);
        Ok(())
    }

    /// Completes `batch` with the states and writes it.
    fn write_applied(
        &mut self,
        mut batch: AppBatch,
        applied: u64,
        conf_states: &[ConfState],
        durability: Durability,
    ) -> Result<()> {
        let region = self.region_id();
        let region_state = self.reconfigured(conf_states)?;
        let mut state = self.apply_state.clone();
        advance(
            &mut state,
            LogPosition::new(self.term_of(applied)?, applied),
        );
        self.reach_term(state.commit_term)?;
        let key = region_key(region);
        batch.put(Keyspace::ApplyState, key, state.encode_to_vec());
        if let Some(state) = &region_state {
            batch.put(Keyspace::RegionState, key, state.encode_to_vec());
        }
        self.engines.app.write(&batch, durability)?;
        self.accept_apply_state(state);
        if let Some(state) = region_state {
            self.accept_region(state);
        }
        self.assert_invariants();
        self.keep_up();
        Ok(())
    }

    /// Makes an apply state true in memory, and with it, as an open does by rule 2, that what it says
    /// to be committed is.
    pub(super) fn accept_apply_state(&mut self, state: RaftApplyState) {
        let commit = &mut self.raft_state.hard_state.commit;
        *commit = state.commit_index.max(*commit);
        self.apply_state = state;
    }

    /// The region after these changes of its configuration, if there is one among them. Each counts in
    /// the epoch, so that replicas that apply them in one batch and in several agree.
    fn reconfigured(&self, conf_states: &[ConfState]) -> Result<Option<RegionLocalState>> {
        let mut changed = None;
        for conf_state in conf_states {
            check_conf_state(conf_state).map_err(|reason| {
                let expected = "a configuration that raft can restore";
                Error::invalid(self.region_id(), "conf state", reason, expected)
            })?;
            let state = changed.as_ref().unwrap_or(&self.region_state);
            if *conf_state != state.conf_state {
                let mut next = state.clone();
                next.conf_state = conf_state.clone();
                next.region.region_epoch.conf_ver += 1;
                changed = Some(next);
            }
        }
        Ok(changed)
    }

    fn accept_region(&mut self, state: RegionLocalState) {
        self.region_state = state;
        self.recheck_snapshot();
    }
}
