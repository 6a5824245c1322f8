//! A linearizable read: a view of the data in which everything is that was acknowledged before the read
//! was asked for. Uses: app_store, scan, expiry, index,
//! proto.

use std::sync::Arc;

use crate::app_store::{DataRead, DataView, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::expiry::{self, At};
use crate::index::{Declared, IndexQuery};
use crate::proto::{Region, RegionLocalState};
use crate::scan::{Page, Scan};
use crate::types::KeyRange;

/// A view of one region, pinned to a moment after the read was asked for. It reads the region's own
/// keys only, and holds resources until it is dropped.
pub struct Reader {
    view: Box<dyn DataView>,
    region: Arc<RegionLocalState>,
}

impl Reader {
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
