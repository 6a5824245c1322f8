//! Transactions: reads as of one moment, and writes that happen together or not at all. Uses: app_store,
//! scan, types, error. Never does I/O of its own.
//!
//! What raft replicates never goes through a [`WriteTransaction`]: replicas would not have it. There a
//! [`KvCommand::Batch`](crate::KvCommand::Batch) of swaps is the transaction: it is decided where it is
//! applied, by every replica alike. A `WriteTransaction` is for data that one process has for itself.

use crate::app_store::{DataRead, DataView, Keyspace};
use crate::error::{Error, Result};
use crate::scan::{Moment, Page, Scan};
use crate::types::Durability;

/// Data that is written by transactions.
///
/// # Contract
/// Snapshot isolation: a transaction reads what was committed when it began, and what it has put itself.
/// Of two at the same time that write one key, or one that writes it and one that has read it
/// [for update](DataTransaction::read_for_update), the second to commit is refused with
/// `TransactionConflict`. A transaction is there whole or not at all, also across a power cut; those
/// that are acknowledged as `Synced` survive one, and everything that was committed before them.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{Durability, Error, TransactionalStorage};
///
/// let data = MemoryData::new();
/// let mut transaction = data.begin_write_transaction(Durability::Synced)?;
/// transaction.put(b"alice", b"90")?;
/// transaction.increment(b"bob", 10)?;
/// assert_eq!(transaction.get(b"alice")?.as_deref(), Some(&b"90"[..]));
/// let mut late = data.begin_write_transaction(Durability::Synced)?;
/// transaction.commit()?;
/// assert_eq!(late.get(b"bob")?, None, "it began before");
/// late.put(b"bob", b"1")?;
/// assert!(matches!(late.commit(), Err(Error::TransactionConflict)));
/// # Ok::<(), Error>(())
/// ```
pub trait TransactionalStorage: Send + Sync {
    /// Pins this moment.
    ///
    /// # Errors
    /// Those of the store.
    fn begin_read_transaction(&self) -> Result<ReadTransaction>;

    /// Begins a transaction that is as durable as told when its commit returns. For users there is
    /// [`TransactionalStorage::begin_write_transaction`].
    ///
    /// # Errors
    /// Those of the store.
    fn begin(&self, durability: Durability) -> Result<Box<dyn DataTransaction + '_>>;

    /// Begins a transaction that is as durable as told when its commit returns.
    ///
    /// # Errors
    /// Those of the store.
    fn begin_write_transaction(&self, durability: Durability) -> Result<WriteTransaction<'_>> {
        Ok(WriteTransaction {
            inner: self.begin(durability)?,
            moment: Moment::unique(),
        })
    }
}

/// What a backend does for a [`WriteTransaction`]. It reads what was committed when it began, under what
/// it has written itself; dropping it gives it up.
pub trait DataTransaction: DataRead {
    /// Puts `value` under `key`.
    ///
    /// # Errors
    /// Those of the store.
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes `key`; it need not exist.
    ///
    /// # Errors
    /// Those of the store.
    fn delete(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<()>;

    /// The value of `key`. The commit is refused if another transaction has changed it meanwhile.
    ///
    /// # Errors
    /// Those of the store.
    fn read_for_update(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Makes its writes happen.
    ///
    /// # Errors
    /// `TransactionConflict`: nothing was written, and the store is as good as before. `DiskFull`, `Io`
    /// or `Engine` if the write failed, `Poisoned` after an earlier failure.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// Reads of one moment: nothing that is written later is seen. It holds resources until it is dropped.
pub struct ReadTransaction {
    view: Box<dyn DataView>,
    moment: Moment,
}

impl ReadTransaction {
    /// Of a view.
    pub fn new(view: Box<dyn DataView>) -> Self {
        let moment = Moment::unique();
        ReadTransaction { view, moment }
    }

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.view.get(Keyspace::Data, key)
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// Those of the store.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.view.multi_get(Keyspace::Data, keys)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// Those of the store.
    pub fn exists(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// A page of the data. All pages of the transaction are as of its moment, and their cursors are of
    /// no use elsewhere.
    ///
    /// # Errors
    /// `CursorInvalid` if the cursor is not of this scan, `CursorExpired` if it is not of this
    /// transaction; those of the store.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        scan.page(&*self.view, Keyspace::Data, self.moment)
    }

    /// The view that it reads.
    pub fn data(&self) -> &dyn DataRead {
        &*self.view
    }
}

impl std::fmt::Debug for ReadTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTransaction").finish_non_exhaustive()
    }
}

/// Reads of one moment and writes on top of it, which happen together at [`WriteTransaction::commit`].
/// Dropping it gives the writes up.
pub struct WriteTransaction<'a> {
    inner: Box<dyn DataTransaction + 'a>,
    moment: Moment,
}

impl WriteTransaction<'_> {
    /// The value of `key`, if it has one. That somebody else changes it is no conflict: see
    /// [`WriteTransaction::read_for_update`].
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(Keyspace::Data, key)
    }

    /// The value of `key`, on which the writes depend: the commit is refused if somebody else has
    /// changed it meanwhile.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read_for_update(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.read_for_update(Keyspace::Data, key)
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// Those of the store.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.multi_get(Keyspace::Data, keys)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// Those of the store.
    pub fn exists(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// A page of the data, with the transaction's own writes in it. Its cursors are of no use elsewhere.
    ///
    /// # Errors
    /// As [`ReadTransaction::scan`].
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        scan.page(&*self.inner, Keyspace::Data, self.moment)
    }

    /// Puts `value` under `key`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.inner.put(Keyspace::Data, key, value)
    }

    /// Removes `key`; it need not exist.
    ///
    /// # Errors
    /// Those of the store.
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.inner.delete(Keyspace::Data, key)
    }

    /// Changes `key` to `new`, where `None` removes it, if it has the value `expected`, where `None`
    /// means that it must not exist. Whether it was changed; at the commit it still has to be so.
    ///
    /// # Errors
    /// Those of the store.
    pub fn compare_and_swap(
        &mut self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool> {
        if self.read_for_update(key)?.as_deref() != expected {
            return Ok(false);
        }
        match new {
            Some(new) => self.put(key, new)?,
            None => self.delete(key)?,
        }
        Ok(true)
    }

    /// Adds `by` to a number, an `i64` in decimal; a key that does not exist counts as 0. The sum.
    ///
    /// # Errors
    /// `NotANumber` or `NumberOverflow`, with nothing changed; those of the store.
    pub fn increment(&mut self, key: &[u8], by: i64) -> Result<i64> {
        let present = match self.read_for_update(key)? {
            Some(value) => {
                decimal(&value).ok_or_else(|| Error::NotANumber { key: key.to_vec() })?
            }
            None => 0,
        };
        let sum = present.checked_add(by);
        let sum = sum.ok_or_else(|| Error::NumberOverflow {
            key: key.to_vec(),
            present,
            by,
        })?;
        self.put(key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    /// Makes the writes happen, all of them or none.
    ///
    /// # Errors
    /// `TransactionConflict` if somebody else has changed what it writes, or has read for update, since
    /// it began: nothing was written; begin again. `DiskFull`, `Io` or `Engine` if the write failed,
    /// `Poisoned` after an earlier failure.
    pub fn commit(self) -> Result<()> {
        self.inner.commit()
    }

    /// Gives the writes up, as dropping it does.
    pub fn rollback(self) {}
}

impl std::fmt::Debug for WriteTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTransaction").finish_non_exhaustive()
    }
}

/// The number that `value` is. Only its own decimal form is one, so that no replica can read it in
/// another way and what is compared and swapped is what was counted.
pub(crate) fn decimal(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
