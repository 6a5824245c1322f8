//! The seam to the user's state machine, and the batch that it reads through and writes into.
//! Uses: app_store, types, error.

mod expiring;
mod indexes;
mod overlay;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fmt;

use raft::eraftpb::{ConfState, Entry};

use crate::app_store::{AppBatch, AppOp, BatchMark, DataRead, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::types::{KeyRange, RegionId};

pub use expiring::Present;
use overlay::{Found, Overlay};

/// What committed entries do to the data of their region.
///
/// It must be deterministic: every replica applies the same entries and must reach the same bytes,
/// however the entries were put together to batches. It may be called again with an entry after a
/// crash, always together with the state from before it; so what it remembers by itself must be
/// nothing but a cache of the data.
///
/// A key that a user names may lie outside the region, because the region was split after the user
/// looked. Writing such a key stops the region, so ask [`ApplyBatch::contains`] first and answer the
/// user instead.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{ApplyBatch, KeyRange, Result, StateMachine};
/// use raft::eraftpb::Entry;
///
/// /// Appends what it is told to the value of one key.
/// struct Journal;
///
/// impl StateMachine for Journal {
///     fn apply(&mut self, entry: &Entry, batch: &mut ApplyBatch<'_>) -> Result<Vec<u8>> {
///         if !batch.contains(b"journal") {
///             return Ok(b"not here".to_vec());
///         }
///         let mut text = batch.get(b"journal")?.unwrap_or_default();
///         text.extend_from_slice(&entry.data);
///         batch.put("journal", &text);
///         Ok(text.len().to_string().into_bytes())
///     }
/// }
///
/// let (data, range) = (MemoryData::new(), KeyRange::all());
/// let mut batch = ApplyBatch::new(&data, &range);
/// let mut entry = Entry::default();
/// entry.data = b"ab"[..].into();
/// assert_eq!(Journal.apply(&entry, &mut batch)?, b"2");
/// assert_eq!(Journal.apply(&entry, &mut batch)?, b"4"); // it has read what the entry before put
/// # Ok::<(), peerstore::Error>(())
/// ```
pub trait StateMachine: Send {
    /// Puts what `entry` does into `batch`, and answers whoever proposed it.
    ///
    /// # Errors
    /// Any error stops the region: an entry that is committed cannot be skipped.
    fn apply(&mut self, entry: &Entry, batch: &mut ApplyBatch<'_>) -> Result<Vec<u8>>;
}

/// The writes that one or more entries do to one region: its data, and its configuration where an
/// entry changes it. They become visible with the applied index, in one batch.
///
/// It is read through: [`ApplyBatch::get`] and [`ApplyBatch::scan`] answer what the data will be once
/// what is in the batch already is written. Who never reads pays nothing for that; the first read
/// makes an index of the batch, which later writes keep up to date.
pub struct ApplyBatch<'a> {
    writes: AppBatch,
    // In the order of their entries: each counts in the epoch of the region.
    conf_states: Vec<ConfState>,
    data: &'a dyn DataRead,
    range: &'a KeyRange,
    // Of data, ttl and index. Invariant: if one is there, it is of all of `writes`.
    overlays: [OnceCell<Overlay>; 3],
    // Whether anything of the region expires, or did when the batch began.
    expires: OnceCell<bool>,
}

/// A place in an [`ApplyBatch`] to go back to.
#[derive(Clone, Copy, Debug)]

pub(crate) struct ApplyMark {
    writes: BatchMark,
    conf_states: usize,
}

impl<'a> ApplyBatch<'a> {
    /// An empty batch of the region that holds `range`, over the data as its entries have left it.
    /// [`PeerStorage::apply`](crate::PeerStorage::apply) makes it for you; this is for tests of a
    /// [`StateMachine`].
    pub fn new(data: &'a dyn DataRead, range: &'a KeyRange) -> Self {
        ApplyBatch {
            writes: AppBatch::default(),
            conf_states: Vec::new(),
            data,
            range,
            overlays: [const { OnceCell::new() }; 3],
            expires: OnceCell::new(),
        }
    }

    /// Takes memory for what `entries` are likely to put: about their own data, and the states.
    pub(crate) fn reserve_for(&mut self, entries: &[Entry]) {
        const PER_ENTRY_BYTES: usize = 32;
        const STATES_BYTES: usize = 256;
        let data = entries.iter().map(|e| e.data.len() + PER_ENTRY_BYTES);
        let bytes = data.sum::<usize>() + STATES_BYTES;
        self.writes.reserve(entries.len() + 2, bytes);
    }

    /// The keys of the region.
    pub fn range(&self) -> &KeyRange {
        self.range
    }

    /// Whether `key` is the region's: only then may it be written.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.range.contains(key)
    }

    /// Whether every key of the half-open `range` is the region's: only then may it be deleted. An
    /// empty range has no key outside.
    pub fn contains_range(&self, range: &KeyRange) -> bool {
        range.is_empty() || covers(self.range, &range.start, &range.end)
    }

    /// Puts `value` under `key`. That the key is in the region is checked when the batch is written.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.writes.put(Keyspace::Data, key, value);
        self.index_writes();
    }

    /// Removes `key`; it need not exist.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.writes.delete(Keyspace::Data, key);
        self.index_writes();
    }

    /// Removes every key of the half-open `range`, which must lie in the region. An empty range does
    /// nothing.
    pub fn delete_range(&mut self, range: &KeyRange) {
        self.writes.delete_range(Keyspace::Data, range);
        self.index_writes();
    }

    /// The value of `key` as what was applied before and what is in this batch have left it. A key
    /// outside the region has none here, whatever another region of the store keeps under it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read_in(Keyspace::Data, key)
    }

    fn read_in(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.contains(key) {
            return Ok(None);
        }
        match self.overlay(keyspace).find(key) {
            Found::Written(place) => Ok(self.value_at(place).map(<[u8]>::to_vec)),
            Found::Deleted => Ok(None),
            Found::Untouched => self.data.get(keyspace, key),
        }
    }

    /// Visits every key of the half-open `range` that is the region's, ascending, with the values as
    /// [`ApplyBatch::get`] answers them, until `visit` breaks.
    ///
    /// # Errors
    /// Those of the store, and what `visit` answers.
    pub fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let range = common(self.range, range);
        if range.is_empty() {
            return Ok(());
        }
        let value_at = |place| self.value_at(place);
        self.overlay(Keyspace::Data)
            .scan(self.data, &range, &value_at, visit)
    }

    /// Sets the configuration that `RawNode::apply_conf_change` answered for an entry, so that it is
    /// stored with the applied index: never one without the other.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_states.push(conf_state);
    }

    /// What was put and deleted so far.
    pub fn writes(&self) -> &AppBatch {
        &self.writes
    }

    /// The configurations that were set, in their order.
    pub(crate) fn take_conf_states(&mut self) -> Vec<ConfState> {
        std::mem::take(&mut self.conf_states)
    }

    /// Where it ends now, for [`ApplyBatch::rollback`].
    pub(crate) fn mark(&self) -> ApplyMark {
        ApplyMark {
            writes: self.writes.mark(),
            conf_states: self.conf_states.len(),
        }
    }

    /// Forgets what was added since `mark` was taken of this batch, in the time that adding it took:
    /// what a failed entry leaves is nothing.
    pub(crate) fn rollback(&mut self, mark: ApplyMark) {
        for overlay in self.overlays.iter_mut().filter_map(OnceCell::get_mut) {
            overlay.rollback(&self.writes, mark.writes.operations());
        }
        self.writes.rollback(mark.writes);
        self.conf_states.truncate(mark.conf_states);
    }

    /// The writes, if every key lies in the region: for who keeps the applied index by other means than
    /// [`PeerStorage::apply`](crate::PeerStorage::apply), and adds it to them. A write behind this batch
    /// needs its reads too: a second batch of the same region begins after this one is written. The
    /// configurations that were set are not among them.
    ///
    /// ```
    /// use peerstore::memory::MemoryData;
    /// use peerstore::{ApplicationDataStorage, ApplyBatch, Durability, KeyRange, Keyspace};
    /// use peerstore::{KvCommand, KvStateMachine, RaftApplyState, keys};
    ///
    /// let (data, range) = (MemoryData::new(), KeyRange::all());
    /// let mut batch = ApplyBatch::new(&data, &range);
    /// KvStateMachine::apply_command(&KvCommand::put("key", "value"), &mut batch)?;
    /// let mut writes = batch.into_checked(1.into())?;
    /// let applied = RaftApplyState { applied_index: 7, ..Default::default() };
    /// writes.put(Keyspace::ApplyState, keys::region_key(1.into()), applied.encode_to_vec());
    /// data.write(&writes, Durability::Synced)?; // the value and the index, or neither
    /// # Ok::<(), peerstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// `KeyOutOfRange` with the first key that does not.
    pub fn into_checked(self, region: RegionId) -> Result<AppBatch> {
        for op in self.writes.ops() {
            let outside = match op {
                AppOp::Put { key, .. } | AppOp::Delete { key, .. } => {
                    (!self.range.contains(key)).then_some(key)
                }
                AppOp::DeleteRange { start, end, .. } => {
                    (!covers(self.range, start, end)).then_some(start)
                }
            };
            if let Some(key) = outside {
                return Err(Error::KeyOutOfRange {
                    region,
                    key: key.to_vec(),
                    range: self.range.clone(),
                });
            }
        }
        Ok(self.writes)
    }

    fn overlay(&self, keyspace: Keyspace) -> &Overlay {
        let place = match keyspace {
            Keyspace::Data => 0,
            Keyspace::Ttl => 1,
            Keyspace::Index => 2,
            other => unreachable!("a state machine does not read {other:?}"),
        };
        self.overlays[place].get_or_init(|| {
            let mut overlay = Overlay::new(keyspace);
            overlay.catch_up(&self.writes);
            overlay
        })
    }

    /// Keeps the invariant of the overlay after a write.
    fn index_writes(&mut self) {
        for overlay in self.overlays.iter_mut().filter_map(OnceCell::get_mut) {
            overlay.catch_up(&self.writes);
        }
    }

    /// What the operation at `place` leaves under its key.
    fn value_at(&self, place: usize) -> Option<&[u8]> {
        match self.writes.op(place) {
            AppOp::Put { value, .. } => Some(value),
            AppOp::Delete { .. } | AppOp::DeleteRange { .. } => None,
        }
    }
}

impl fmt::Debug for ApplyBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplyBatch")
            .field("writes", &self.writes)
            .field("conf_states", &self.conf_states)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Whether the keys from `start` to `end`, which are some, all lie in `range`.
fn covers(range: &KeyRange, start: &[u8], end: &[u8]) -> bool {
    let ends_inside = range.end.is_empty() || (!end.is_empty() && end <= range.end.as_slice());
    range.contains(start) && ends_inside
}

/// The keys that are in both ranges.
fn common(a: &KeyRange, b: &KeyRange) -> KeyRange {
    let end = match (a.end.is_empty(), b.end.is_empty()) {
        (true, _) => &b.end,
        (_, true) => &a.end,
        _ => (&a.end).min(&b.end),
    };
    KeyRange::new((&a.start).max(&b.start).as_slice(), end.as_slice())
}
