//! What is written, what is synced, and the batches in between. Uses: error, types. Never does I/O.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::types::Durability;

/// How the next write of a memory store fails. Either way the store is poisoned afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// The next batch is refused; none of it reaches the medium.
    DiskFull,
    /// The next fsync fails. What it should have covered may or may not be on the medium: the
    /// `kept` of a crash copy decides.
    SyncFailed,
}

/// The content of a store, changed by batches.
pub(super) trait Image: Clone + Default {
    /// Writes that happen together.
    type Batch: Clone + std::fmt::Debug;

    /// Carries out every operation of `batch`, in order.
    fn apply(&mut self, batch: &Self::Batch);
}

/// An image, and what of it a power cut would leave.
#[derive(Debug)]
pub(super) struct Journal<I: Image> {
    state: RwLock<State<I>>,
    name: &'static str,
}

#[derive(Debug)]
struct State<I: Image> {
    // Invariant: `durable` and then every batch of `unsynced` make `current`; only a batch whose
    // fsync failed is in `unsynced` alone.
    current: I,
    durable: I,
    unsynced: Vec<I::Batch>,
    fault: Option<WriteFault>,
    poison: Option<String>,
    counts: Counts,
}

/// What a journal has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub writes: u64,
    pub syncs: u64,
    pub entries: u64,
    pub bytes: u64,
}

impl<I: Image> Journal<I> {
    pub(super) fn new(name: &'static str) -> Self {
        Journal::with_image(name, I::default())
    }

    fn with_image(name: &'static str, image: I) -> Self {
        let state = State {
            current: image.clone(),
            durable: image,
            unsynced: Vec::new(),
            fault: None,
            poison: None,
            counts: Counts::default(),
        };
        Journal {
            state: RwLock::new(state),
            name,
        }
    }

    // A panic of a caller's visitor never happens under the lock, so what is inside is whole.
    fn shared(&self) -> RwLockReadGuard<'_, State<I>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State<I>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `read` with the current content.
    pub(super) fn read<T>(&self, read: impl FnOnce(&I) -> T) -> T {
        read(&self.shared().current)
    }

    pub(super) fn counts(&self) -> Counts {
        self.shared().counts
    }

    /// Writes `batch`, which counts as `entries` and `bytes`, unless `admit` refuses it when it has seen
    /// the content.
    pub(super) fn write(
        &self,
        admit: impl FnOnce(&I) -> Result<()>,
        batch: &I::Batch,
        durability: Durability,
        entries: u64,
        bytes: u64,
    ) -> Result<()> {
        let mut state = self.exclusive();
        self.check(&state)?;
        admit(&state.current)?;
        if state.fault == Some(WriteFault::DiskFull) {
            let path = PathBuf::from(self.name);
            return Err(state.fail(Error::DiskFull { op: "write", path }));
        }
        state.unsynced.push(batch.clone());
        if durability == Durability::Synced {
            self.sync_state(&mut state)?;
        }
        state.current.apply(batch);
        state.counts.writes += 1;
        state.counts.entries += entries;
        state.counts.bytes += bytes;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        let mut state = self.exclusive();
        self.check(&state)?;
        self.sync_state(&mut state)
    }

    fn check(&self, state: &State<I>) -> Result<()> {
        match &state.poison {
            Some(cause) => Err(Error::Poisoned {
                path: PathBuf::from(self.name),
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    fn sync_state(&self, state: &mut State<I>) -> Result<()> {
        if state.fault == Some(WriteFault::SyncFailed) {
            return Err(state.fail(Error::Io {
                op: "fsync",
                path: PathBuf::from(self.name),
                source: std::io::Error::other("injected"),
            }));
        }
        let State {
            durable, unsynced, ..
        } = state;
        for batch in unsynced.drain(..) {
            durable.apply(&batch);
        }
        state.counts.syncs += 1;
        Ok(())
    }

    pub(super) fn fail_next_write(&self, fault: WriteFault) {
        self.exclusive().fault = Some(fault);
    }

    pub(super) fn unsynced(&self) -> usize {
        self.shared().unsynced.len()
    }

    /// What is there after a power cut that spared the first `kept` of the unsynced batches.
    pub(super) fn crash_copy(&self, kept: usize) -> Self {
        let state = self.shared();
        let mut durable = state.durable.clone();
        for batch in state.unsynced.iter().take(kept) {
            durable.apply(batch);
        }
        Journal::with_image(self.name, durable)
    }
}

impl<I: Image> State<I> {
    /// Poisons the store with `error`.
    fn fail(&mut self, error: Error) -> Error {
        self.fault = None;
        self.poison = Some(error.to_string());
        error
    }
}
