//! Values that expire: how they are stored, and how they are read beside the others. Uses: app_store,
//! scan, types, error. Never does I/O of its own.
//!
//! A value that expires lies in [`Keyspace::Ttl`] with its time, any other in [`Keyspace::Data`]; a key
//! is in one of them at most. Times are milliseconds of whatever clock the commands carry; the store has
//! none of its own, or replicas would differ.
//!
//! A region has an *expiry clock*: what expires at it or before is gone for every later command, whatever
//! time that one carries. It lies under the region's first key, moves only forward and only by a command,
//! goes into both halves of a split, and the later of two counts in a merge. Because nothing can ask any
//! more for what lies before the clock, a store may drop it whenever it likes: replicas that have dropped
//! different parts of it still answer alike.
//!
//! ```text
//! record  := flags u8 (1 clock, 2 value), clock?, value?
//! clock   := now_ms u64 LE, end length u32 LE, end of the region that it was set for
//! value   := expires_at_ms u64 LE, bytes
//! ```

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::app_store::{DataRead, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::scan::Scan;
use crate::types::KeyRange;

const CLOCK: u8 = 1;
const VALUE: u8 = 2;

/// What lies under a key of [`Keyspace::Ttl`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub clock: Option<Clock<'a>>,
    pub value: Option<Expiring<'a>>,
}

/// What expires at `now_ms` or before is gone, in the keys from that of the record to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock<'a> {
    pub now_ms: u64,
    pub end: &'a [u8],
}

/// A value that is there before `expires_at_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiring<'a> {
    pub expires_at_ms: u64,
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// The bytes of a record with something in it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0];
        if let Some(Clock { now_ms, end }) = self.clock {
            bytes[0] |= CLOCK;
            bytes.extend_from_slice(&now_ms.to_le_bytes());
            let length = u32::try_from(end.len()).expect("a key of less than 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(end);
        }
        if let Some(Expiring {
            expires_at_ms,
            value,
        }) = self.value
        {
            bytes[0] |= VALUE;
            bytes.extend_from_slice(&expires_at_ms.to_le_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    /// The record that the bytes are, if they are one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, mut rest) = bytes.split_first()?;
        let mut record = Record::default();
        if flags & CLOCK != 0 {
            let (now_ms, behind) = rest.split_first_chunk::<8>()?;
            let (length, behind) = behind.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (end, behind) = behind.split_at_checked(length)?;
            let now_ms = u64::from_le_bytes(*now_ms);
            record.clock = Some(Clock { now_ms, end });
            rest = behind;
        }
        if flags & VALUE != 0 {
            let (expires_at_ms, value) = rest.split_first_chunk::<8>()?;
            let expires_at_ms = u64::from_le_bytes(*expires_at_ms);
            record.value = Some(Expiring {
                expires_at_ms,
                value,
            });
            rest = &[];
        }
        let is_whole = rest.is_empty() && (1..=CLOCK | VALUE).contains(&flags);
        is_whole.then_some(record)
    }

    /// The record under `key`.
    ///
    /// # Errors
    /// `Corruption` if the bytes are none.
    pub fn of(key: &[u8], bytes: &'a [u8]) -> Result<Self> {
        Record::parse(bytes).ok_or_else(|| {
            let what = format!("expiry of key \"{}\"", key.escape_ascii());
            let detail = format!("{} bytes are not a record of it", bytes.len());
            Error::corruption(None, what, detail)
        })
    }

    /// Whether there was nothing in it but a value that has expired by `now_ms`.
    pub fn is_gone_at(&self, now_ms: u64) -> bool {
        self.clock.is_none() && self.value_at(now_ms).is_none()
    }

    /// The value, if it has not expired by `now_ms`.
    pub fn value_at(&self, now_ms: u64) -> Option<&'a [u8]> {
        let value = self.value.filter(|v| now_ms < v.expires_at_ms)?;
        Some(value.value)
    }
}

/// The clock of the region that begins at `start`; 0 if it has none yet.
pub(crate) fn clock(data: &(impl DataRead + ?Sized), start: &[u8]) -> Result<u64> {
    let Some(bytes) = data.get(Keyspace::Ttl, start)? else {
        return Ok(0);
    };
    Ok(Record::of(start, &bytes)?.clock.map_or(0, |c| c.now_ms))
}

/// Whether a value of the region `range` has expired by `now_ms` that the region's clock has not passed.
/// Of many that the clock has not passed it looks at some only, and says yes if there are more.
pub(crate) fn has_expired(
    data: &(impl DataRead + ?Sized),
    range: &KeyRange,
    now_ms: u64,
) -> Result<bool> {
    const LOOK_MAX: usize = 1_000;
    let clock = clock(data, &range.start)?;
    if now_ms <= clock {
        return Ok(false);
    }
    let (mut found, mut looked) = (false, 0);
    data.scan(Keyspace::Ttl, range, &mut |_, bytes| {
        let value = Record::parse(bytes).and_then(|record| record.value);
        if let Some(value) = value.filter(|value| value.expires_at_ms > clock) {
            looked += 1;
            found = value.expires_at_ms <= now_ms || looked > LOOK_MAX;
        }
        Ok(match found {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    Ok(found)
}

/// What has to be put where, so that the clock is as it should be when a region of the range `old`
/// becomes one of `new`: by a split, whose right half begins where `new` ends, or by a merge with the
/// neighbour that `new` has more than `old`. Both halves and the neighbour are applied as far.
pub(crate) fn carry_clock(
    data: &dyn DataRead,
    old: &KeyRange,
    new: &KeyRange,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let own = clock(data, &old.start)?;
    let (start, end, now_ms) = if new.start < old.start {
        (&new.start, &new.end, own.max(clock(data, &new.start)?))
    } else if new.end == old.end {
        return Ok(None);
    } else if !new.end.is_empty() && (old.end.is_empty() || new.end < old.end) {
        (&new.end, &old.end, own)
    } else {
        (&new.start, &new.end, own.max(clock(data, &old.end)?))
    };
    let present = data.get(Keyspace::Ttl, start)?;
    let mut record = match &present {
        Some(bytes) => Record::of(start, bytes)?,
        None => Record::default(),
    };
    // What is left of an earlier region that began here is overwritten, too.
    if record.clock.map_or(0, |c| c.now_ms) == now_ms {
        return Ok(None);
    }
    record.clock = Some(Clock { now_ms, end });
    Ok(Some((start.clone(), record.encode())))
}

/// The data as it is at a time: [`Keyspace::Data`] with what has not expired.
#[derive(Clone, Copy)]
pub(crate) struct At<'a, D: ?Sized> {
    pub data: &'a D,
    pub now_ms: u64,
}

impl<D: DataRead + ?Sized> DataRead for At<'_, D> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.data.get(keyspace, key)?;
        match value {
            None if keyspace == Keyspace::Data => self.expiring(key),
            value => Ok(value),
        }
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| self.get(keyspace, key)).collect()
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let scan = Scan::of(range.clone());
        self.merge(keyspace, range, scan, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let scan = Scan::of(range.clone()).reverse();
        self.merge(keyspace, range, scan, visit)
    }
}

impl<D: DataRead + ?Sized> At<'_, D> {
    /// The value of `key` if it is one that expires, and has not.
    pub fn expiring(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.data.get(Keyspace::Ttl, key)? else {
            return Ok(None);
        };
        let record = Record::of(key, &bytes)?;
        Ok(record.value_at(self.now_ms).map(<[u8]>::to_vec))
    }

    /// Visits both keyspaces as one, in the order of `scan`.
    fn merge(
        &self,
        keyspace: Keyspace,
        range: &KeyRange,
        scan: Scan,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let is_back = scan.is_reverse();
        let through = |visit: &mut Visit<'_>| match is_back {
            true => self.data.scan_back(keyspace, range, visit),
            false => self.data.scan(keyspace, range, visit),
        };
        if keyspace != Keyspace::Data {
            return through(visit);
        }
        let mut expiring = Records {
            data: self.data,
            now_ms: self.now_ms,
            next: Some(scan.limit(256)),
            page: VecDeque::new(),
        };
        let mut broken = false;
        through(&mut |key, value| {
            let is_before = |own: &[u8]| if is_back { own > key } else { own < key };
            while let Some((own, value)) = expiring.next_if(is_before)? {
                if visit(&own, &value)?.is_break() {
                    broken = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = visit(key, value)?;
            broken = flow.is_break();
            Ok(flow)
        })?;
        while !broken && let Some((own, value)) = expiring.next_if(|_| true)? {
            broken = visit(&own, &value)?.is_break();
        }
        Ok(())
    }
}

/// The values that have not expired, one after the other.
struct Records<'a, D: ?Sized> {
    data: &'a D,
    now_ms: u64,
    // What to read next; None at the end.
    next: Option<Scan>,
    page: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl<D: DataRead + ?Sized> Records<'_, D> {
    /// The next one, if `wanted` says so of its key.
    fn next_if(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        while self.page.is_empty()
            && let Some(scan) = self.next.take()
        {
            let page = self.data.page(Keyspace::Ttl, &scan)?;
            for (key, bytes) in page.pairs {
                if let Some(value) = Record::of(&key, &bytes)?.value_at(self.now_ms) {
                    let value = value.to_vec();
                    self.page.push_back((key, value));
                }
            }
            self.next = page.cursor.map(|cursor| scan.after(cursor));
        }
        let is_wanted = self.page.front().is_some_and(|(key, _)| wanted(key));
        Ok(is_wanted.then(|| self.page.pop_front()).flatten())
    }
}

#[cfg(test)]
mod tests;
