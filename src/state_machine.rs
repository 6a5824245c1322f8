//! The seam to the user's state machine. Uses: app_store, proto, error.

use raft::eraftpb::{ConfState, Entry};

use crate::app_store::{AppBatch, AppOp, DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::types::{KeyRange, RegionId};

/// What committed entries do to the data of their region.
///
/// It must be deterministic: every replica applies the same entries and must reach the same bytes. It
/// may be called again with an entry after a crash, always together with the state from before it.
pub trait StateMachine: Send {
    /// Puts what `entry` does into `batch` and answers whoever proposed it. `data` is as of the
    /// entry before, without what is in `batch` already.
    ///
    /// # Errors
    /// Any error stops the region: an entry that is committed cannot be skipped.
    fn apply(
        &mut self,
        entry: &Entry,
        data: &dyn DataRead,
        batch: &mut ApplyBatch,
    ) -> Result<Vec<u8>>;
}

/// The writes that one or more entries do to one region: its data, and its configuration where an
/// entry changes it. They become visible with the applied index, in one batch.
#[derive(Debug, Default)]
pub struct ApplyBatch {
    data: AppBatch,
    // In the order of their entries: each counts in the epoch of the region.
    conf_states: Vec<ConfState>,
}

impl ApplyBatch {
    /// With room for what `entries` are likely to put: about their own data, and the states.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        const PER_ENTRY_BYTES: usize = 32;
        const STATES_BYTES: usize = 256;
        let data = entries.iter().map(|e| e.data.len() + PER_ENTRY_BYTES);
        let mut batch = ApplyBatch::default();
        batch
            .data
            .reserve(entries.len() + 2, data.sum::<usize>() + STATES_BYTES);
        batch
    }

    /// Puts `value` under `key`. That the key is in the region is checked when the batch is written.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.data.put(Keyspace::Data, key, value);
    }

    /// Removes `key`; it need not exist.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.data.delete(Keyspace::Data, key);
    }

    /// Removes every key of the half-open `range`, which must lie in the region.
    pub fn delete_range(&mut self, range: &KeyRange) {
        self.data.delete_range(Keyspace::Data, range);
    }

    /// Sets the configuration that `RawNode::apply_conf_change` answered for an entry, so that it is
    /// stored with the applied index: never one without the other.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_states.push(conf_state);
    }

    /// The configurations that were set, in their order.
    pub(crate) fn take_conf_states(&mut self) -> Vec<ConfState> {
        std::mem::take(&mut self.conf_states)
    }

    /// The writes, if every key lies in `range`.
    ///
    /// # Errors
    /// `KeyOutOfRange` with the first that does not.
    pub(crate) fn into_checked(self, region: RegionId, range: &KeyRange) -> Result<AppBatch> {
        for op in self.data.ops() {
            let outside = match op {
                AppOp::Put { key, .. } | AppOp::Delete { key, .. } => {
                    (!range.contains(key)).then_some(key)
                }
                AppOp::DeleteRange { start, end, .. } => {
                    let inside = range.contains(start)
                        && (range.end.is_empty()
                            || (!end.is_empty() && end <= range.end.as_slice()));
                    (!inside).then_some(start)
                }
            };
            if let Some(key) = outside {
                return Err(Error::KeyOutOfRange {
                    region,
                    key: key.to_vec(),
                    range: range.clone(),
                });
            }
        }
        Ok(self.data)
    }
}
