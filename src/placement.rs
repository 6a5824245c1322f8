//! A cluster without a coordination service: addresses from a table, ids from a counter of the store's
//! own. Uses: transport, app_store, keys, types, error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::app_store::{AppBatch, ApplicationDataStorage, Keyspace};
use crate::error::{Error, Result};
use crate::keys::IDS_KEY;
use crate::transport::Placement;
use crate::types::Durability;

/// How many of an id's low bits are the store that gave it.
const STORE_BITS: u32 = 16;
/// The first counter that cannot be given.
const COUNTER_END: u64 = 1 << (u64::BITS - STORE_BITS);
/// How many counters are reserved by one fsync.
const BLOCK: u64 = 1024;

/// Addresses that are known beforehand, and ids that need nobody's consent: the counter of this store
/// in the high 48 bits, the store in the low 16. No two stores give the same id, and none gives one
/// twice, because counters are durably reserved before they are given.
///
/// An id is larger than every id observed in this process's life; after a restart, observe what is on
/// disk before allocating. One is opened for each node.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::MemoryData;
/// use peerstore::{Placement as _, StaticPlacement};
///
/// let addresses = [(1, "10.0.0.1:20160".to_string())];
/// let placement = StaticPlacement::open(Arc::new(MemoryData::new()), 1, addresses.into())?;
/// placement.set_address(2, "10.0.0.2:20160");
/// assert_eq!(placement.address(2).as_deref(), Some("10.0.0.2:20160"));
/// let ids = placement.allocate_ids(2)?;
/// assert_eq!(ids, [(1 << 16) + 1, (2 << 16) + 1]);
/// # Ok::<(), peerstore::Error>(())
/// ```
pub struct StaticPlacement {
    app: Arc<dyn ApplicationDataStorage>,
    store_id: u64,
    addresses: RwLock<BTreeMap<u64, String>>,
    counters: Mutex<Counters>,
    observed: AtomicU64,
}

/// Invariant: `next <= reserved`, and what is durable is not below `reserved`.
struct Counters {
    next: u64,
    reserved: u64,
}

impl StaticPlacement {
    /// The placement of the store `store_id`, whose counter is kept in `app`.
    ///
    /// # Errors
    /// `Config` if the store id is 0 or above 65,535; `Corruption` if the counter that is there is none;
    /// those of `app`.
    pub fn open(
        app: Arc<dyn ApplicationDataStorage>,
        store_id: u64,
        addresses: BTreeMap<u64, String>,
    ) -> Result<StaticPlacement> {
        let most = (1 << STORE_BITS) - 1;
        if !(1..=most).contains(&store_id) {
            let message = format!("store_id is {store_id}, expected 1 to {most} to give ids");
            let path = None;
            return Err(Error::Config { path, message });
        }
        let reserved = match app.get(Keyspace::Store, IDS_KEY)? {
            None => 1,
            Some(bytes) => counter(&bytes)?,
        };
        Ok(StaticPlacement {
            app,
            store_id,
            addresses: RwLock::new(addresses),
            counters: Mutex::new(Counters {
                next: reserved,
                reserved,
            }),
            observed: AtomicU64::new(0),
        })
    }

    /// Adds a store, or gives it another address. Connections that are there stay.
    pub fn set_address(&self, store: u64, address: impl Into<String>) {
        let mut addresses = (self.addresses.write()).unwrap_or_else(PoisonError::into_inner);
        addresses.insert(store, address.into());
    }

    /// Makes the counters below `end` this store's, across every restart.
    fn reserve(&self, end: u64) -> Result<()> {
        let mut batch = AppBatch::default();
        batch.put(Keyspace::Store, IDS_KEY, end.to_be_bytes());
        self.app.write(&batch, Durability::Synced)
    }
}

fn counter(bytes: &[u8]) -> Result<u64> {
    let counter = bytes.try_into().map(u64::from_be_bytes).ok();
    let valid = counter.filter(|counter| (1..=COUNTER_END).contains(counter));
    valid.ok_or_else(|| {
        let got = bytes.escape_ascii();
        let detail = format!("\"{got}\", expected 8 bytes from 1 to {COUNTER_END}");
        Error::corruption(None, "the counter of ids", detail)
    })
}

impl Placement for StaticPlacement {
    fn address(&self, store: u64) -> Option<String> {
        let addresses = (self.addresses.read()).unwrap_or_else(PoisonError::into_inner);
        addresses.get(&store).cloned()
    }

    fn allocate_ids(&self, count: usize) -> Result<Vec<u64>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        // Changed only once the reservation is durable: a panic in between leaves what was true.
        let mut counters = (self.counters.lock()).unwrap_or_else(PoisonError::into_inner);
        let above_observed = (self.observed.load(Ordering::Relaxed) >> STORE_BITS) + 1;
        let first = counters.next.max(above_observed);
        let end = first.saturating_add(count as u64);
        if end > COUNTER_END {
            return Err(Error::IdsExhausted {
                wanted: count as u64,
                left: COUNTER_END - first,
            });
        }
        if end > counters.reserved {
            let reserved = COUNTER_END.min(end + BLOCK);
            self.reserve(reserved)?;
            counters.reserved = reserved;
        }
        counters.next = end;
        let id = |counter: u64| counter << STORE_BITS | self.store_id;
        Ok((first..end).map(id).collect())
    }

    fn observe_id(&self, id: u64) {
        self.observed.fetch_max(id, Ordering::Relaxed);
    }

    fn max_id(&self) -> u64 {
        let counters = (self.counters.lock()).unwrap_or_else(PoisonError::into_inner);
        let given = match counters.next - 1 {
            0 => 0,
            counter => counter << STORE_BITS | self.store_id,
        };
        given.max(self.observed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryData, WriteFault};

    fn open(app: &Arc<MemoryData>, store_id: u64) -> Result<StaticPlacement> {
        let app: Arc<dyn ApplicationDataStorage> = app.clone();
        StaticPlacement::open(app, store_id, BTreeMap::new())
    }

    #[test]
    fn ids_carry_their_store_and_never_come_twice_across_power_cuts() {
        let mut app = Arc::new(MemoryData::new());
        let mut last = 0;
        for _ in 0..5 {
            let placement = open(&app, 7).unwrap();
            assert_eq!(placement.max_id(), last_of(&app));
            for count in [1, 3, BLOCK as usize, 2 * BLOCK as usize + 1] {
                let ids = placement.allocate_ids(count).unwrap();
                assert_eq!(ids.len(), count);
                assert!(ids.is_sorted_by(|a, b| a < b) && ids[0] > last);
                assert!(ids.iter().all(|id| id & 0xffff == 7));
                last = ids[count - 1];
                assert_eq!(placement.max_id(), last);
            }
            app = Arc::new(app.crash_copy(0)); // keeps nothing that was not synced
        }
    }

    /// The largest id that a store which was opened just now may have given before.
    fn last_of(app: &MemoryData) -> u64 {
        use crate::app_store::DataRead as _;
        let bytes = app.get(Keyspace::Store, IDS_KEY).unwrap();
        bytes.map_or(0, |b| (counter(&b).unwrap() - 1) << 16 | 7)
    }

    #[test]
    fn one_fsync_reserves_many_ids() {
        let app = Arc::new(MemoryData::new());
        let placement = open(&app, 1).unwrap();
        for _ in 0..BLOCK {
            placement.allocate_ids(1).unwrap();
        }
        assert_eq!(app.stats().syncs, 1);
    }

    #[test]
    fn ids_are_larger_than_every_id_observed() {
        let placement = open(&Arc::new(MemoryData::new()), 1).unwrap();
        placement.observe_id(9 << 16 | 0xffff);
        placement.observe_id(3);
        assert_eq!(placement.max_id(), 9 << 16 | 0xffff);
        assert_eq!(placement.allocate_ids(1).unwrap(), [10 << 16 | 1]);
    }

    #[test]
    fn the_last_ids_are_given_and_then_no_more() {
        let placement = open(&Arc::new(MemoryData::new()), 1).unwrap();
        placement.observe_id((COUNTER_END - 3) << 16);
        let refused = placement.allocate_ids(3).unwrap_err();
        let text = refused.to_string();
        assert!(
            matches!(refused, Error::IdsExhausted { wanted: 3, left: 2 }),
            "{text}"
        );
        let last = placement.allocate_ids(2).unwrap()[1];
        assert_eq!(last, (COUNTER_END - 1) << 16 | 1);
        placement.observe_id(u64::MAX);
        assert!(matches!(
            placement.allocate_ids(1),
            Err(Error::IdsExhausted { .. })
        ));
        assert!(placement.allocate_ids(0).unwrap().is_empty());
    }

    #[test]
    fn a_reservation_that_failed_gives_nothing() {
        let app = Arc::new(MemoryData::new());
        let placement = open(&app, 1).unwrap();
        app.fail_next_write(WriteFault::DiskFull);
        assert!(placement.allocate_ids(1).is_err());
        assert_eq!(placement.max_id(), 0);
    }

    #[test]
    fn store_ids_that_do_not_fit_and_damaged_counters_are_refused() {
        let app = Arc::new(MemoryData::new());
        for store_id in [0, 65_536] {
            assert!(matches!(open(&app, store_id), Err(Error::Config { .. })));
        }
        for bytes in [&b"short"[..], &[0; 8], &[0xff; 8]] {
            let mut batch = AppBatch::default();
            batch.put(Keyspace::Store, IDS_KEY, bytes);
            app.write(&batch, Durability::Synced).unwrap();
            assert!(matches!(open(&app, 65_535), Err(Error::Corruption { .. })));
        }
    }
}
