//! Drops what has expired as RocksDB compacts. Uses: app_store, expiry, types.
//!
//! A compaction filter sees every version of a key, those that a view reads too, and what it drops stays
//! dropped though the write that allowed it may be lost in a power cut. So it acts on a region's clock
//! only when
//!
//! - the batch that moved the clock is durable, and
//! - every view that is open was taken after it, and so has that clock itself.
//!
//! For everybody else what lies before the clock is gone already (see `expiry`). What is known of clocks
//! is in memory only: after an open nothing is dropped until a clock moves again.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::app_store::{AppBatch, AppOp, Keyspace};
use crate::expiry::Record;
use crate::types::KeyRange;

const NAME: &CStr = c"peerstore.expiry";

/// The clocks of a store.
#[derive(Debug, Default)]
pub(super) struct Reclaim(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    // By the first key. Invariant: the ranges do not overlap.
    clocks: BTreeMap<Vec<u8>, Known>,
    // Counts what became known.
    generation: u64,
    // How many views are open of each generation.
    views: BTreeMap<u64, usize>,
}

/// What expires at `now_ms` or before is gone in the keys up to `end`.
#[derive(Clone, Debug)]
struct Known {
    end: Vec<u8>,
    now_ms: u64,
    generation: u64,
}

impl Reclaim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the clocks that `batch` has moved. It is durable.
    pub fn add(&self, batch: &AppBatch) {
        for (start, end, now_ms) in clocks(batch) {
            let mut state = self.state();
            state.generation += 1;
            let known = Known {
                end: end.to_vec(),
                now_ms,
                generation: state.generation,
            };
            state.cut(&KeyRange::new(start, end));
            state.clocks.insert(start.to_vec(), known);
        }
    }

    /// Forgets the clocks of `range`: its content is about to be another.
    pub fn forget(&self, range: &KeyRange) {
        self.state().cut(range);
    }

    /// To be held as long as a view that is taken after it.
    pub fn pin(self: &Arc<Self>) -> Pin {
        let mut state = self.state();
        let generation = state.generation;
        *state.views.entry(generation).or_default() += 1;
        Pin {
            reclaim: Arc::clone(self),
            generation,
        }
    }
}

/// Whether `batch` moves a clock, and so has to be durable.
pub(super) fn moves_a_clock(batch: &AppBatch) -> bool {
    clocks(batch).next().is_some()
}

/// The clocks in `batch`: first key, end and time.
fn clocks(batch: &AppBatch) -> impl Iterator<Item = (&[u8], &[u8], u64)> {
    batch.ops().filter_map(|op| match op {
        AppOp::Put {
            keyspace: Keyspace::Ttl,
            key,
            value,
        } => {
            let clock = Record::parse(value)?.clock?;
            Some((key, clock.end, clock.now_ms))
        }
        _ => None,
    })
}

impl State {
    /// Takes `range` out of what is known.
    fn cut(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let overlaps = |(start, known): (&Vec<u8>, &Known)| {
            let begins = range.end.is_empty() || *start < range.end;
            let ends = known.end.is_empty() || known.end > range.start;
            (begins && ends).then(|| start.clone())
        };
        let cut: Vec<_> = self.clocks.iter().filter_map(overlaps).collect();
        for start in cut {
            let Some(known) = self.clocks.remove(&start) else {
                continue;
            };
            let goes_on = !range.end.is_empty() && (known.end.is_empty() || known.end > range.end);
            if goes_on {
                self.clocks.insert(range.end.clone(), known.clone());
            }
            if start < range.start {
                let end = range.start.clone();
                self.clocks.insert(start, Known { end, ..known });
            }
        }
    }
}

/// See [`Reclaim::pin`].
#[derive(Debug)]
pub(super) struct Pin {
    reclaim: Arc<Reclaim>,
    generation: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.reclaim.state();
        if let Some(count) = state.views.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.generation);
            }
        }
    }
}

/// Makes a filter for each compaction.
pub(super) struct Filters(pub Arc<Reclaim>);

/// What one compaction may drop.
pub(super) struct Filter(BTreeMap<Vec<u8>, Known>);

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        let state = self.0.state();
        let oldest_view = state.views.keys().next().copied().unwrap_or(u64::MAX);
        let usable = |(_, known): &(&Vec<u8>, &Known)| known.generation <= oldest_view;
        let clocks = state.clocks.iter().filter(usable);
        Filter(clocks.map(|(s, k)| (s.clone(), k.clone())).collect())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl Filter {
    /// Whether the record under `key` has nothing in it that anybody can still see.
    fn is_gone(&self, key: &[u8], bytes: &[u8]) -> bool {
        let Some((_, known)) = self
            .0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
        else {
            return false;
        };
        let covered = known.end.is_empty() || key < known.end.as_slice();
        covered && Record::parse(bytes).is_some_and(|record| record.is_gone_at(known.now_ms))
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.is_gone(key, value) {
            true => CompactionDecision::Remove,
            false => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

#[cfg(test)]
mod tests;
