//! A linearizable read: a view of the data in which everything is that was acknowledged before the read
//! was asked for. Uses: app_store, proto.

use std::sync::Arc;

use crate::app_store::{DataRead, DataView, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::proto::{Region, RegionLocalState};
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

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// `KeyOutOfRange` if the region does not hold it (any more); those of the data store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check(&KeyRange::new(key, [key, &[0]].concat()), key)?;
        self.view.get(Keyspace::Data, key)
    }

    /// Visits every key of the half-open `range`, ascending, until `visit` breaks.
    ///
    /// # Errors
    /// `KeyOutOfRange` if the region does not hold all of it (any more); those of the data store, and
    /// what `visit` answers.
    pub fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.check(range, &range.start)?;
        self.view.scan(Keyspace::Data, range, visit)
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
