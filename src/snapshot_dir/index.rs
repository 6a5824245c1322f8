//! Which snapshots are there and who uses them. Uses: snapshot_store, snapshot_format, error. Never does I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Shared;
use crate::error::{Error, Result};
use crate::snapshot_format::free_key;
use crate::snapshot_store::{SnapshotInfo, SnapshotKey};
use crate::types::RegionId;

/// A name that is taken.
#[derive(Clone)]
enum Slot {
    /// Its file is just coming or going.
    Busy,
    /// Its file is there.
    Present {
        /// Its readers.
        users: usize,
        /// Nothing if head or foot could not be read when the store was opened.
        info: Option<Arc<SnapshotInfo>>,
    },
}

/// Every name that is taken. The mutex is held for look-ups only.
#[derive(Default)]
pub(super) struct Index {
    slots: Mutex<BTreeMap<SnapshotKey, Slot>>,
}

impl Index {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<SnapshotKey, Slot>> {
        // Each change of the map is one call: a panic elsewhere leaves it whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, key: SnapshotKey, info: Option<SnapshotInfo>) {
        let info = info.map(Arc::new);
        self.slots().insert(key, Slot::Present { users: 0, info });
    }

    pub(super) fn list(&self, region: Option<RegionId>) -> Vec<SnapshotInfo> {
        let listed = |(key, slot): (&SnapshotKey, &Slot)| match slot {
            Slot::Present {
                info: Some(info), ..
            } if region.is_none_or(|r| r == key.region) => Some(SnapshotInfo::clone(info)),
            _ => None,
        };
        self.slots().iter().filter_map(listed).collect()
    }

    /// One with the same content and metadata as `wanted`, whatever its sequence.
    pub(super) fn twin(&self, wanted: &SnapshotInfo) -> Option<SnapshotInfo> {
        let same = |info: &SnapshotInfo| info.digest == wanted.digest && info.meta == wanted.meta;
        self.list(Some(wanted.key.region)).into_iter().find(same)
    }

    /// Takes `key` away from everybody, or answers nothing if it is not there.
    ///
    /// # Errors
    /// `SnapshotInUse`.
    pub(super) fn begin_delete(&self, key: &SnapshotKey) -> Result<Option<Deletion<'_>>> {
        let mut slots = self.slots();
        match slots.get(key) {
            None => Ok(None),
            Some(Slot::Present { users: 0, .. }) => Ok(Some(Deletion {
                index: self,
                key: *key,
                before: slots.insert(*key, Slot::Busy),
            })),
            Some(_) => Err(Error::SnapshotInUse {
                name: key.to_string(),
            }),
        }
    }
}

/// A snapshot that is being removed. If it is dropped before, it is there as it was.
pub(super) struct Deletion<'a> {
    index: &'a Index,
    key: SnapshotKey,
    before: Option<Slot>,
}

impl Deletion<'_> {
    /// Its file is gone.
    pub(super) fn removed(mut self) {
        self.before = None;
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        let mut slots = self.index.slots();
        match self.before.take() {
            Some(slot) => slots.insert(self.key, slot),
            None => slots.remove(&self.key),
        };
    }
}

/// A use of a snapshot, which keeps it from being removed.
pub(super) struct Pin {
    shared: Arc<Shared>,
    key: SnapshotKey,
}

impl Pin {
    /// Nothing if the snapshot is not there.
    pub(super) fn new(shared: &Arc<Shared>, key: &SnapshotKey) -> Option<Pin> {
        match shared.index.slots().get_mut(key) {
            Some(Slot::Present { users, .. }) => *users += 1,
            Some(Slot::Busy) | None => return None,
        }
        Some(Pin {
            shared: Arc::clone(shared),
            key: *key,
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(Slot::Present { users, .. }) = self.shared.index.slots().get_mut(&self.key) {
            *users -= 1;
        }
    }
}

/// A name that a new snapshot will have. If it is dropped before, the name is free again.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    key: SnapshotKey,
    info: Option<SnapshotInfo>,
}

impl Reservation {
    /// Reserves the next sequence for the position of `key`.
    ///
    /// # Errors
    /// `SnapshotRefused` if there is none.
    pub(super) fn new(shared: &Arc<Shared>, key: &SnapshotKey) -> Result<Reservation> {
        let mut slots = shared.index.slots();
        let key = free_key(&slots, key)?;
        slots.insert(key, Slot::Busy);
        Ok(Reservation {
            shared: Arc::clone(shared),
            key,
            info: None,
        })
    }

    pub(super) fn key(&self) -> &SnapshotKey {
        &self.key
    }

    /// Its file is there and durable: what is known of it, by its new name.
    pub(super) fn fill(mut self, mut info: SnapshotInfo) -> SnapshotInfo {
        info.key = self.key;
        self.info = Some(info.clone());
        info
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.info.take() {
            Some(info) => self.shared.index.insert(self.key, Some(info)),
            None => drop(self.shared.index.slots().remove(&self.key)),
        }
    }
}
