//! Values that expire, in a batch. Uses: app_store, expiry, types, error. Never does I/O of its own.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use super::ApplyBatch;
use crate::app_store::Keyspace;
use crate::error::Result;
use crate::expiry::{Clock, Expiring, Record};
use crate::types::KeyRange;

/// What becomes of a record.
enum Change<'c> {
    Value(Option<Expiring<'c>>),
    Clock(Clock<'c>),
}

/// A value as a batch finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The value.
    pub value: Vec<u8>,
    /// When it expires, in milliseconds of the clock that the commands carry; `None` if it stays.
    pub expires_at_ms: Option<u64>,
}

/// Values that expire. A batch takes no time from anywhere but its callers, and replicas must give the
/// same: it travels in the entry. What expires at a time is gone at it.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{ApplyBatch, KeyRange};
///
/// let (data, range) = (MemoryData::new(), KeyRange::all());
/// let mut batch = ApplyBatch::new(&data, &range);
/// batch.put_until("session", "alice", 1_000)?;
/// assert!(batch.present_at(b"session", 999)?.is_some());
/// assert!(batch.present_at(b"session", 1_000)?.is_none());
/// batch.expire_until(1_000)?; // from here on it is gone for whoever asks, and may be reclaimed
/// assert!(batch.present_at(b"session", 0)?.is_none());
/// # Ok::<(), peerstore::Error>(())
/// ```
impl ApplyBatch<'_> {
    /// The value of `key` at `now_ms`, or at the clock of the region if that is later.
    ///
    /// # Errors
    /// Those of the store.
    pub fn present_at(&self, key: &[u8], now_ms: u64) -> Result<Option<Present>> {
        if let Some(value) = self.get(key)? {
            let expires_at_ms = None;
            return Ok(Some(Present {
                value,
                expires_at_ms,
            }));
        }
        if !self.expires()? {
            return Ok(None);
        }
        let now_ms = now_ms.max(self.expiry_clock()?);
        let Some(bytes) = self.read_in(Keyspace::Ttl, key)? else {
            return Ok(None);
        };
        let value = Record::of(key, &bytes)?.value;
        Ok(value.filter(|v| now_ms < v.expires_at_ms).map(|v| Present {
            value: v.value.to_vec(),
            expires_at_ms: Some(v.expires_at_ms),
        }))
    }

    /// Puts `value` under `key`, to stay; if an earlier value there was to expire, this one is not.
    ///
    /// [`ApplyBatch::put`] does the same for a state machine in which nothing ever expires, and reads
    /// nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_to_stay(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.forget_expiring(key)?;
        self.put(key, value);
        Ok(())
    }

    /// Puts `value` under `key`, until `expires_at_ms`. If the region's clock is there already, the key
    /// is removed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_until(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expires_at_ms: u64,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        if expires_at_ms <= self.expiry_clock()? {
            return self.remove(key);
        }
        if self.get(key)?.is_some() {
            self.delete(key);
        }
        let value = Expiring {
            expires_at_ms,
            value,
        };
        self.change_record(key, Change::Value(Some(value)))
    }

    /// Removes `key`, whether it was to expire or not.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove(&mut self, key: &[u8]) -> Result<()> {
        self.forget_expiring(key)?;
        self.delete(key);
        Ok(())
    }

    /// Removes every key of the half-open `range`, whether it was to expire or not.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove_range(&mut self, range: &KeyRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if self.expires()? {
            let clock = self.expiry_clock()?;
            self.writes.delete_range(Keyspace::Ttl, range);
            self.index_writes();
            // The clock is not of the keys that go.
            if clock > 0 && range.contains(&self.range.start) {
                self.set_clock(clock)?;
            }
        }
        self.delete_range(range);
        Ok(())
    }

    /// Moves the clock of the region on to `now_ms`, if it is not there yet: what expires at it or
    /// before is gone, for every later read and whatever time that carries, and the store reclaims it.
    /// Who never calls it keeps all expired values on disk.
    ///
    /// A store makes the batch durable, so it is for now and then, not for each entry.
    ///
    /// # Errors
    /// Those of the store.
    pub fn expire_until(&mut self, now_ms: u64) -> Result<()> {
        if now_ms > self.expiry_clock()? {
            self.set_clock(now_ms)?;
        }
        Ok(())
    }

    /// The clock of the region, in milliseconds; 0 if it was never moved.
    ///
    /// # Errors
    /// Those of the store.
    pub fn expiry_clock(&self) -> Result<u64> {
        if !self.expires()? {
            return Ok(0);
        }
        let start = &self.range.start;
        let Some(bytes) = self.read_in(Keyspace::Ttl, start)? else {
            return Ok(0);
        };
        Ok(Record::of(start, &bytes)?.clock.map_or(0, |c| c.now_ms))
    }

    fn set_clock(&mut self, now_ms: u64) -> Result<()> {
        let KeyRange { start, end } = self.range;
        self.change_record(start, Change::Clock(Clock { now_ms, end }))
    }

    /// Whether there can be anything in [`Keyspace::Ttl`]: mostly not, and then nothing is read of it
    /// but this once.
    fn expires(&self) -> Result<bool> {
        if let Some(known) = self.expires.get() {
            return Ok(*known);
        }
        let mut found = self.writes.ops().any(|op| op.keyspace() == Keyspace::Ttl);
        if !found {
            self.data.scan(Keyspace::Ttl, self.range, &mut |_, _| {
                found = true;
                Ok(ControlFlow::Break(()))
            })?;
        }
        Ok(*self.expires.get_or_init(|| found))
    }

    /// Takes the value that was to expire away from `key`. The clock stays, where there is one.
    fn forget_expiring(&mut self, key: &[u8]) -> Result<()> {
        match self.expires()? {
            true => self.change_record(key, Change::Value(None)),
            false => Ok(()),
        }
    }

    /// Changes what lies under `key` in [`Keyspace::Ttl`].
    fn change_record(&mut self, key: &[u8], change: Change<'_>) -> Result<()> {
        let present = self.read_in(Keyspace::Ttl, key)?;
        let old = match &present {
            Some(bytes) => Record::of(key, bytes)?,
            None => Record::default(),
        };
        let new = match change {
            Change::Value(value) => Record { value, ..old },
            Change::Clock(clock) => Record {
                clock: Some(clock),
                ..old
            },
        };
        if new == old {
            return Ok(());
        }
        match new == Record::default() {
            true => self.writes.delete(Keyspace::Ttl, key),
            false => self.writes.put(Keyspace::Ttl, key, new.encode()),
        }
        self.expires = OnceCell::from(true);
        self.index_writes();
        Ok(())
    }
}
