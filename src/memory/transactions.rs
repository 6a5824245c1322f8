//! Transactions over the data in memory. Uses: app_store, transaction, memory::app. Never does I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use crate::app_store::{AppBatch, AppOp, ApplicationDataStorage as _, DataRead, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::transaction::{DataTransaction, ReadTransaction, TransactionalStorage};
use crate::types::{Durability, KeyRange};

use super::app::{Keyspaces, MemoryData};
use super::journal::Image as _;

/// What was written since the oldest open transaction began.
#[derive(Debug, Default)]
pub(super) struct Recent {
    // Counts the writes; a transaction that begins at n sees the first n.
    writes: u64,
    // How many transactions began at each count and are open.
    open: BTreeMap<u64, usize>,
    // Invariant: ascending, and none that every open transaction sees.
    written: VecDeque<(u64, AppBatch)>,
}

impl Recent {
    fn begin(&mut self) -> u64 {
        *self.open.entry(self.writes).or_default() += 1;
        self.writes
    }

    fn end(&mut self, begun: u64) {
        if let Some(count) = self.open.get_mut(&begun) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&begun);
            }
        }
        let oldest = self.open.keys().next().copied().unwrap_or(u64::MAX);
        let seen = self.written.partition_point(|(n, _)| *n <= oldest);
        self.written.drain(..seen);
    }

    /// Takes in a write that has just happened.
    pub(super) fn add(&mut self, batch: &AppBatch) {
        self.writes += 1;
        if !self.open.is_empty() {
            self.written.push_back((self.writes, batch.clone()));
        }
    }

    /// Whether one of `keys` was written by what began to be seen after `begun`.
    fn touches(&self, begun: u64, keys: &BTreeSet<(usize, Vec<u8>)>) -> bool {
        let later = self.written.iter().filter(|(n, _)| *n > begun);
        later.flat_map(|(_, batch)| batch.ops()).any(|op| match op {
            AppOp::Put { keyspace, key, .. } | AppOp::Delete { keyspace, key } => {
                keys.contains(&(keyspace as usize, key.to_vec()))
            }
            AppOp::DeleteRange {
                keyspace,
                start,
                end,
            } => {
                let range = KeyRange::new(start, end);
                let inside = |(space, key): &(usize, Vec<u8>)| {
                    *space == keyspace as usize && range.contains(key)
                };
                keys.iter().any(inside)
            }
        })
    }
}

impl MemoryData {
    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing of the caller's runs under the lock.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TransactionalStorage for MemoryData {
    fn begin_read_transaction(&self) -> Result<ReadTransaction> {
        Ok(ReadTransaction::new(self.view()?))
    }

    fn begin(&self, durability: Durability) -> Result<Box<dyn DataTransaction + '_>> {
        let mut recent = self.recent();
        Ok(Box::new(MemoryTransaction {
            data: self,
            begun: recent.begin(),
            image: self.image(),
            durability,
            writes: AppBatch::new(),
            claimed: BTreeSet::new(),
        }))
    }
}

struct MemoryTransaction<'a> {
    data: &'a MemoryData,
    begun: u64,
    // The data as of the beginning, with the own writes in it.
    image: Keyspaces,
    durability: Durability,
    writes: AppBatch,
    // What nobody else may have written: by the place of the keyspace, and the key.
    claimed: BTreeSet<(usize, Vec<u8>)>,
}

impl MemoryTransaction<'_> {
    fn write(&mut self, op: AppBatch, keyspace: Keyspace, key: &[u8]) {
        self.image.apply(&op);
        self.writes.append(&op);
        self.claimed.insert((keyspace as usize, key.to_vec()));
    }
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        self.data.recent().end(self.begun);
    }
}

impl DataRead for MemoryTransaction<'_> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.image.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.image.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.image.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.image.scan_back(keyspace, range, visit)
    }
}

impl DataTransaction for MemoryTransaction<'_> {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        let mut op = AppBatch::new();
        op.put(keyspace, key, value);
        self.write(op, keyspace, key);
        Ok(())
    }

    fn delete(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<()> {
        let mut op = AppBatch::new();
        op.delete(keyspace, key);
        self.write(op, keyspace, key);
        Ok(())
    }

    fn read_for_update(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.claimed.insert((keyspace as usize, key.to_vec()));
        self.get(keyspace, key)
    }

    fn commit(self: Box<Self>) -> Result<()> {
        let mut recent = self.data.recent();
        if recent.touches(self.begun, &self.claimed) {
            return Err(Error::TransactionConflict);
        }
        self.data
            .write_recorded(&mut recent, &self.writes, self.durability)
        // The lock is let go of before `self` is dropped, which takes it again.
    }
}
