//! The data, the applied index and the configuration: one batch, never one without the others.
//! Uses: app_store, state_machine.

use prost::Message as _;
use raft::eraftpb::{ConfState, Entry};

use super::PeerStorage;
use crate::app_store::{AppBatch, Keyspace};
use crate::conf::check_conf_state;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{RaftApplyState, RegionLocalState};
use crate::state_machine::ApplyBatch;
use crate::types::Durability;

impl PeerStorage {
    /// Applies committed entries: calls `apply` for each, then writes what it put into the batch, the
    /// applied index and a changed configuration together.
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
        mut apply: impl FnMut(&Entry, &mut ApplyBatch) -> Result<()>,
    ) -> Result<()> {
        self.check_writable("apply")?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let mut batch = ApplyBatch::of(entries);
        for (next, entry) in (self.applied_index() + 1..).zip(entries) {
            if entry.index != next {
                let got = format!("index {}", entry.index);
                return Err(Error::invalid(
                    self.region_id(),
                    "apply",
                    got,
                    format!("index {next}: the one behind what was applied"),
                ));
            }
            apply(entry, &mut batch)?;
        }
        let conf_state = batch.take_conf_state();
        let batch = batch.into_checked(self.region_id(), &self.region().range())?;
        let durability = match conf_state {
            Some(_) => self.engines.options.durability,
            None => Durability::Buffered,
        };
        self.write_applied(batch, last.index, conf_state, durability)
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
        let durability = self.engines.options.durability;
        self.write_applied(AppBatch::default(), index, None, durability)
    }

    /// Sets the configuration, durable on return. Where an entry changes it, use
    /// [`ApplyBatch::set_conf_state`] in [`PeerStorage::apply`] instead, which writes both together.
    ///
    /// # Errors
    /// `InvalidArgument` if raft could not restore it.
    pub fn set_conf_state(&mut self, conf_state: &ConfState) -> Result<()> {
        self.check_writable("set_conf_state")?;
        let Some(state) = self.reconfigured(conf_state)? else {
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
        conf_state: Option<ConfState>,
        durability: Durability,
    ) -> Result<()> {
        let region = self.region_id();
        if applied > self.persisted {
            let got = format!("index {applied}");
            let expected = format!("at most the last durable index {}", self.persisted);
            return Err(Error::invalid(region, "applied", got, expected));
        }
        let region_state = match &conf_state {
            Some(conf_state) => self.reconfigured(conf_state)?,
            None => None,
        };
        let mut state = RaftApplyState {
            applied_index: applied,
            ..self.apply_state.clone()
        };
        // What is applied is committed, and it is persisted: so the recorded commit is both.
        if state.commit_index < applied {
            state.commit_term = self.term_of(applied)?;
            state.commit_index = applied;
        }
        let key = region_key(region);
        batch.put(Keyspace::ApplyState, key, state.encode_to_vec());
        if let Some(state) = &region_state {
            batch.put(Keyspace::RegionState, key, state.encode_to_vec());
        }
        self.engines.app.write(&batch, durability)?;
        self.apply_state = state;
        if let Some(state) = region_state {
            self.accept_region(state);
        }
        self.assert_invariants();
        Ok(())
    }

    /// The region with another configuration and a grown conf_ver, if it is another one.
    fn reconfigured(&self, conf_state: &ConfState) -> Result<Option<RegionLocalState>> {
        check_conf_state(conf_state).map_err(|reason| {
            let expected = "a configuration that raft can restore";
            Error::invalid(self.region_id(), "conf state", reason, expected)
        })?;
        if conf_state == self.conf_state() {
            return Ok(None);
        }
        let mut state = self.region_state.clone();
        state.conf_state = conf_state.clone();
        state.region.region_epoch.conf_ver += 1;
        Ok(Some(state))
    }

    fn accept_region(&mut self, state: RegionLocalState) {
        self.region_state = state;
        self.recheck_snapshot();
    }
}
