//! Reads of one region as of one moment. A [`Store`](crate::Store) makes them linearizable: in its view
//! everything is that was acknowledged before the read was asked for. Uses: app_store, scan, expiry,
//! index, proto.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::app_store::{DataRead, DataView, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::expiry::{self, At, Record};
use crate::index::{Declared, IndexQuery};
use crate::proto::{Region, RegionLocalState};
use crate::scan::{Page, Scan};
use crate::types::KeyRange;

/// A view of one region, pinned to a moment: to one after the read was asked for, if a
/// [`Store`](crate::Store) gave it. It reads the region's own keys only, those that expire among them, and
/// holds resources until it is dropped.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{ApplicationDataStorage, ApplyBatch, Durability, KeyRange, Reader, Region};
///
/// let (data, range) = (MemoryData::new(), KeyRange::all());
/// let mut batch = ApplyBatch::new(&data, &range);
/// batch.put("name", "alice");
/// batch.put_until("session", "open", 1_000)?;
/// data.write(&batch.into_checked(1.into())?, Durability::Buffered)?;
///
/// let reader = Reader::over(data.view()?, Region::single(1, 1));
/// assert_eq!(reader.value_at(b"session", 999)?.as_deref(), Some(&b"open"[..]));
/// assert_eq!(reader.value_at(b"session", 1_000)?, None);
/// # Ok::<(), peerstore::Error>(())
/// ```
pub struct Reader {
    view: Box<dyn DataView>,
    region: Arc<RegionLocalState>,
}

impl Reader {
    /// Reads `region` in a view that the caller has taken: as old as the view is, and no newer.
    pub fn over(view: Box<dyn DataView>, region: Region) -> Self {
        let state = RegionLocalState {
            region,
            ..Default::default()
        };
        Reader::new(view, Arc::new(state))
    }

    pub(crate) fn new(view: Box<dyn DataView>, region: Arc<RegionLocalState>) -> Self {
        Reader { view, region }
    }

    /// The region as of the view.
    pub fn region(&self) -> &Region {
        &self.region.region
    }

    /// The value of `key`, if it has one. What expires is there until the region's clock has passed it:
    /// see [`Reader::value_at`].
    ///
    /// # Errors
    /// `KeyOutOfRange` if the region does not hold it (any more); those of the data store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.value_at(key, 0)
    }

    /// The value of `key`, unless it has expired by `now_ms`, in milliseconds of the clock that the
    /// commands go by, or by the region's clock.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn value_at(&self, key: &[u8], now_ms: u64) -> Result<Option<Vec<u8>>> {
        self.check(&KeyRange::new(key, [key, &[0]].concat()), key)?;
        match self.view.get(Keyspace::Data, key)? {
            Some(value) => Ok(Some(value)),
            None => self.at(now_ms)?.expiring(key),
        }
    }

    /// The values of `keys`, in their order, as of one moment.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn values_at(&self, keys: &[&[u8]], now_ms: u64) -> Result<Vec<Option<Vec<u8>>>> {
        for key in keys {
            self.check(&KeyRange::new(*key, [*key, &[0]].concat()), key)?;
        }
        self.at(now_ms)?.multi_get(Keyspace::Data, keys)
    }

    /// A page of what has not expired by `now_ms`. Its cursor goes on in other reads too.
    ///
    /// # Errors
    /// `CursorInvalid` if the cursor is not of this scan; `KeyOutOfRange` if the region does not hold all
    /// of the range (any more); those of the data store.
    pub fn page_at(&self, scan: &Scan, now_ms: u64) -> Result<Page> {
        self.check(scan.range(), &scan.range().start)?;
        self.at(now_ms)?.page(Keyspace::Data, scan)
    }

    /// Visits every key of the half-open `range`, ascending, until `visit` breaks.
    ///
    /// # Errors
    /// `KeyOutOfRange` if the region does not hold all of it (any more); those of the data store, and
    /// what `visit` answers.
    pub fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.check(range, &range.start)?;
        self.at(0)?.scan(Keyspace::Data, range, visit)
    }

    /// The keys of the region that `query` finds in its index `name`, with their values, as of the view.
    /// Values that expire are in no index.
    ///
    /// # Errors
    /// `IndexNotFound` if the region has none of that name; `IndexNotReady` if an import has failed
    /// half-way; `CursorInvalid` if the cursor is not of this query; those of the data store.
    pub fn query_index(&self, name: &str, query: &IndexQuery) -> Result<Page> {
        let region = &self.region.region;
        let Declared(names) = Declared::of(&*self.view, &region.start_key)?;
        if !names.contains(name) {
            return Err(Error::IndexNotFound { name: name.into() });
        }
        self.view.query_index(name, query, &region.range())
    }

    /// Visits every value of `range` that expires and that the region's clock has not passed: its key, the
    /// value and when it expires, in milliseconds, ascending by key, until `visit` breaks. It reads all that
    /// expires in the range; there is no order by time.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn scan_expiring(
        &self,
        range: &KeyRange,
        mut visit: impl FnMut(&[u8], &[u8], u64) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.check(range, &range.start)?;
        let now_ms = self.expiry_clock()?;
        self.view.scan(
            Keyspace::Ttl,
            range,
            &mut |key, bytes| match Record::of(key, bytes)?.value {
                Some(v) if now_ms < v.expires_at_ms => visit(key, v.value, v.expires_at_ms),
                _ => Ok(ControlFlow::Continue(())),
            },
        )
    }

    /// The clock of the region: what expires at it or before is gone; 0 if it was never moved.
    ///
    /// # Errors
    /// Those of the data store.
    pub fn expiry_clock(&self) -> Result<u64> {
        Ok(self.at(0)?.now_ms)
    }

    fn at(&self, now_ms: u64) -> Result<At<'_, dyn DataView>> {
        let clock = expiry::clock(&*self.view, &self.region.region.start_key)?;
        Ok(At {
            data: &*self.view,
            now_ms: now_ms.max(clock),
        })
    }

    /// The whole data of the view, where the caller sees to the range itself.
    pub fn data(&self) -> &dyn DataRead {
        &*self.view
    }

    fn check(&self, range: &KeyRange, key: &[u8]) -> Result<()> {
        let own = self.region.region.range();
        let ends_inside = own.end.is_empty() || (!range.end.is_empty() && range.end <= own.end);
        if own.contains(&range.start) && ends_inside {
            return Ok(());
        }
        Err(Error::KeyOutOfRange {
            region: self.region.region.region_id(),
            key: key.to_vec(),
            range: own,
        })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("region", &self.region.region.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_store::ApplicationDataStorage as _;
    use crate::memory::MemoryData;
    use crate::state_machine::ApplyBatch;
    use crate::types::Durability;

    /// A region of `["b", "m")` with what `fill` puts there, read.
    fn reader(fill: impl FnOnce(&mut ApplyBatch<'_>) -> Result<()>) -> Reader {
        let (data, range) = (MemoryData::new(), KeyRange::new("b", "m"));
        let mut batch = ApplyBatch::new(&data, &range);
        fill(&mut batch).unwrap();
        let writes = batch.into_checked(7.into()).unwrap();
        data.write(&writes, Durability::Buffered).unwrap();
        let region = Region::with_voters(7, range, [(1.into(), 1)]);
        Reader::over(data.view().unwrap(), region)
    }

    /// The keys that expire in `range`, with their times.
    fn expiring(reader: &Reader, range: &KeyRange) -> Result<Vec<String>> {
        let mut found = Vec::new();
        reader.scan_expiring(range, |key, value, expires_at_ms| {
            let (key, value) = (key.escape_ascii(), value.escape_ascii());
            found.push(format!("{key}={value} until {expires_at_ms}"));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    #[test]
    fn what_expires_is_visited_with_its_time_until_the_clock_has_passed_it() -> Result<()> {
        let fill = |batch: &mut ApplyBatch<'_>| {
            batch.put("c", "stays");
            batch.put_until("d", "2", 20)?;
            batch.put_until("b", "1", 10)
        };
        let all = KeyRange::new("b", "m");
        let found = expiring(&reader(fill), &all)?;
        assert_eq!(found, ["b=1 until 10", "d=2 until 20"]);
        // The clock lies under the first key, beside its value.
        let moved = reader(|batch| {
            fill(batch)?;
            batch.expire_until(10)
        });
        assert_eq!(expiring(&moved, &all)?, ["d=2 until 20"]);
        assert_eq!(moved.expiry_clock()?, 10);
        assert_eq!(expiring(&moved, &KeyRange::new("b", "d"))?, [""; 0]);
        Ok(())
    }

    #[test]
    fn a_range_outside_of_the_region_is_refused() {
        let reader = reader(|_| Ok(()));
        let refused = expiring(&reader, &KeyRange::new("b", "n"));
        assert!(matches!(refused, Err(Error::KeyOutOfRange { .. })));
    }
}
