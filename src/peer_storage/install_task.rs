//! An install on another thread: the raft thread checks the message and hands everything else over.
//! Uses: install, the seams.

use std::sync::Arc;

use raft::Ready;

use super::install::Target;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::AppBatch;
use crate::error::Result;
use crate::raft_log::LogBatch;

/// A snapshot to be installed, on a thread that may wait for the disk; not on one of the node's own
/// workers. It shares in the ownership of its region: nobody can open the region under it.
#[must_use = "the region writes nothing until the task has run"]
pub struct InstallTask {
    engines: Arc<Engines>,
    target: Target,
    also: AppBatch,
    _ownership: Arc<Ownership>,
}

/// A snapshot that was installed: what [`PeerStorage::accept_installed`] makes memory show.
#[must_use = "memory still shows the state from before the snapshot"]
#[derive(Debug)]
pub struct Installed(Target);

impl InstallTask {
    /// Finds the file and reads it whole, then makes the four steps of an install, each durable before
    /// the next; removes the file.
    ///
    /// # Errors
    /// Whatever it is, drop the `PeerStorage` and open the region again: it is as it was before, if
    /// nothing had been written, or the open goes on with the install, or says why it cannot.
    /// `SnapshotNotFound`, `SnapshotRefused` and `Corruption` mean that nothing was written.
    pub fn run(self) -> Result<Installed> {
        let InstallTask {
            engines,
            mut target,
            also,
            _ownership,
        } = self;
        let install = target.stage_data(&engines)?;
        target.write_applying(&engines, &install, also)?;
        let mut batch = LogBatch::default();
        target.add_to_log(&mut batch);
        engines.write_log(&batch)?;
        target.region_state = install.finish(&engines, &target.region_state)?;
        Ok(Installed(target))
    }
}

impl PeerStorage {
    /// Takes the snapshot of a Ready, with its hard state and the entries behind it, for another
    /// thread. From now on the region refuses every write, and shows the state from before, until
    /// [`PeerStorage::accept_installed`]; `RawNode::advance_append` comes after that. `also` goes into
    /// the first batch of the data store, in front: the tombstones of regions that were merged into
    /// this one, so that there never is a moment at which two regions own a key.
    ///
    /// Nothing may be with an apply worker: it would write an older apply state over the new one.
    ///
    /// # Errors
    /// As [`PeerStorage::persist`], as far as the message alone tells; then nothing has changed, and
    /// neither has `ready`.
    pub(crate) fn begin_install_task(
        &mut self,
        ready: &mut Ready,
        also: AppBatch,
    ) -> Result<InstallTask> {
        let hard_state = ready.hs().cloned();
        let target = self.plan_install(ready.snapshot(), hard_state, ready.entries())?;
        self.assert_alone();
        ready.take_entries();
        self.set_applying();
        Ok(InstallTask {
            engines: Arc::clone(&self.engines),
            target,
            also,
            _ownership: Arc::clone(&self.ownership),
        })
    }

    /// Makes memory show what was installed.
    pub(crate) fn accept_installed(&mut self, installed: Installed) {
        let Installed(target) = installed;
        let region = target.region_state.region.region_id();
        assert_eq!(region, self.region_id(), "what another region installed");
        self.show_target(target);
        self.set_installed_persisted();
        self.end_applying();
    }
}

#[cfg(test)]
mod tests;
