//! Newest entries of every region of a node, under one budget of bytes. Uses: nothing of ours.
//! Never does I/O.
//!
//! Each region's cache is the newest contiguous suffix of its log. What is not yet persisted stays,
//! because the log store cannot answer for it; everything else may leave, oldest first, when the node
//! is over its budget. Entries that were read back from the log are put in only before a peer is to
//! lead.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use protobuf::Message as _;
use raft::eraftpb::Entry;

/// What a cache has done, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that were answered without the log store.
    pub hits: u64,
    /// Reads that needed it.
    pub misses: u64,
    /// Bytes held, with the entries' own structs, spare room and what the allocator keeps.
    pub bytes: u64,
}

impl CacheStats {
    /// The share of the reads that hit, from 0 to 1; 1 without any read.
    pub fn hit_rate(&self) -> f64 {
        match self.hits + self.misses {
            0 => 1.0,
            reads => self.hits as f64 / reads as f64,
        }
    }
}

/// The bytes that all caches of a node may hold together.
///
/// When an append goes over the limit, the caches are asked in turn to let go of their oldest
/// persisted entries. None is pushed below its floor, half of an equal share, while another holds
/// more: a busy region cannot starve the rest.
#[derive(Debug)]
pub struct CacheBudget {
    limit: u64,
    used: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    // The caches that hold something, in the order in which they are asked to shrink.
    holders: Mutex<VecDeque<Arc<Mutex<Ring>>>>,
}

impl CacheBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(CacheBudget {
            limit,
            used: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            holders: Mutex::new(VecDeque::new()),
        })
    }

    /// The hits and misses of all regions, and the bytes that they hold together.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.used.load(Ordering::Relaxed),
        }
    }

    fn excess(&self) -> u64 {
        self.used.load(Ordering::Relaxed).saturating_sub(self.limit)
    }

    /// Asks the holders in turn until the budget holds, or nobody can.
    fn shrink(&self) {
        // Twice, because spare room may hide what the first turn has freed.
        let mut turns = 2 * lock(&self.holders).len();
        while turns > 0 && self.excess() > 0 {
            turns -= 1;
            let Some((holder, count)) = self.next_holder() else {
                return;
            };
            let floor = self.limit / (2 * count as u64);
            let mut ring = lock(&holder);
            ring.evict(self.excess(), floor, self);
            if ring.entries.is_empty() {
                ring.is_holder = false;
            } else {
                lock(&self.holders).push_back(Arc::clone(&holder));
            }
        }
    }

    /// The cache whose turn it is, and how many there are with it.
    fn next_holder(&self) -> Option<(Arc<Mutex<Ring>>, usize)> {
        let mut holders = lock(&self.holders);
        let count = holders.len();
        Some((holders.pop_front()?, count))
    }
}

/// The newest entries of one region.
#[derive(Debug)]
pub struct EntryCache {
    ring: Arc<Mutex<Ring>>,
    budget: Arc<CacheBudget>,
}

#[derive(Debug, Default)]
struct Ring {
    // Invariant: contiguous and ascending; reaches to the last entry of the log unless empty.
    entries: VecDeque<Entry>,
    // Invariant: the sum of `payload` over `entries`.
    payload: u64,
    // What the budget was told last: `bytes()` as it was then.
    told: u64,
    // Only entries up to this index may leave: the log store has them.
    persisted: u64,
    hits: u64,
    misses: u64,
    // Whether the budget has this ring among its holders.
    is_holder: bool,
}

/// What the allocator keeps beside the bytes of an entry's data: its own header and rounding, and the
/// count that clones of `Bytes` share.
const ALLOCATION_BYTES: u64 = 48;

/// What an entry holds outside its slot.
fn payload(entry: &Entry) -> u64 {
    let outside = |length: usize| match length {
        0 => 0,
        length => length as u64 + ALLOCATION_BYTES,
    };
    outside(entry.data.len()) + outside(entry.context.len())
}

// A panic while the lock is held leaves no broken invariant that a reader could act on: every method
// finishes its changes to the ring before anything that can panic, so the poison is passed over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Ring {
    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|e| e.index)
    }

    /// The bytes that it holds: every slot, used or not, and what the entries hold outside theirs.
    fn bytes(&self) -> u64 {
        (self.entries.capacity() * size_of::<Entry>()) as u64 + self.payload
    }

    /// Room for `more` entries and an eighth to spare: doubling would double what counts.
    fn reserve(&mut self, more: usize) {
        let length = self.entries.len() + more;
        if self.entries.capacity() < length {
            self.entries.reserve_exact(more + length / 8);
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.payload -= payload(&entry);
        }
    }

    /// Removes the oldest persisted entries: at least `wanted` bytes, while more than `floor` remain.
    fn evict(&mut self, wanted: u64, floor: u64, budget: &CacheBudget) {
        let slot = size_of::<Entry>() as u64;
        let (mut freed, before) = (0, self.bytes());
        while freed < wanted && before - freed > floor {
            match self.entries.front() {
                Some(entry) if entry.index <= self.persisted => freed += slot + payload(entry),
                _ => break,
            }
            self.pop_front();
        }
        self.settle(budget);
    }

    /// Gives back slots that are not needed, then tells the budget what has changed.
    fn settle(&mut self, budget: &CacheBudget) {
        let length = self.entries.len();
        let spare = if length == 0 { 0 } else { length / 4 + 4 };
        if self.entries.capacity() > length + spare {
            self.entries.shrink_to(length + length / 8);
        }
        let bytes = self.bytes();
        if bytes >= self.told {
            budget.used.fetch_add(bytes - self.told, Ordering::Relaxed);
        } else {
            budget.used.fetch_sub(self.told - bytes, Ordering::Relaxed);
        }
        self.told = bytes;
    }

    fn cut_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|e| e.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.payload -= payload(&entry);
            }
        }
        self.persisted = self.persisted.min(index.saturating_sub(1));
    }
}

impl EntryCache {
    /// An empty cache under `budget`.
    pub fn new(budget: Arc<CacheBudget>) -> Self {
        EntryCache {
            ring: Arc::default(),
            budget,
        }
    }

    /// Adds the newest entries, contiguous and ascending. What they overwrite is cut first.
    ///
    /// # Panics
    /// If they leave a hole behind what is cached: the caller has lost entries.
    pub fn append(&self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let mut ring = lock(&self.ring);
        ring.cut_from(first.index);
        if let Some(last) = ring.entries.back() {
            assert_eq!(
                last.index + 1,
                first.index,
                "entry cache: a hole before the appended entries"
            );
        }
        ring.payload += entries.iter().map(payload).sum::<u64>();
        ring.reserve(entries.len());
        ring.entries.extend(entries);
        ring.settle(&self.budget);
        if !ring.is_holder {
            ring.is_holder = true;
            lock(&self.budget.holders).push_back(Arc::clone(&self.ring));
        }
        drop(ring);
        if self.budget.excess() > 0 {
            self.budget.shrink();
        }
    }

    /// Puts persisted entries before what is cached, as many of the newest as the budget has room for:
    /// for a peer that is about to lead, whose followers will ask for them. The last of them is the one
    /// before the first that is cached, or the last of the log if nothing is.
    ///
    /// # Panics
    /// If there would be a hole.
    pub fn prepend(&self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        let last = last.index;
        let mut ring = lock(&self.ring);
        if let Some(first) = ring.first_index() {
            assert_eq!(last + 1, first, "entry cache: a hole behind the entries");
        }
        ring.persisted = ring.persisted.max(last);
        let used = self.budget.used.load(Ordering::Relaxed);
        let mut room = self.budget.limit.saturating_sub(used);
        for entry in entries.into_iter().rev() {
            let bytes = size_of::<Entry>() as u64 + payload(&entry);
            if bytes > room {
                break;
            }
            room -= bytes;
            ring.payload += payload(&entry);
            ring.entries.push_front(entry);
        }
        ring.settle(&self.budget);
        if !ring.is_holder && !ring.entries.is_empty() {
            ring.is_holder = true;
            lock(&self.budget.holders).push_back(Arc::clone(&self.ring));
        }
    }

    /// Says that the log store has every entry up to `index`, so that they may leave the cache.
    pub fn set_persisted(&self, index: u64) {
        lock(&self.ring).persisted = index;
        if self.budget.excess() > 0 {
            self.budget.shrink();
        }
    }

    /// Drops the entries below `index` that are persisted: nobody is expected to ask for them.
    pub fn compact_to(&self, index: u64) {
        let mut ring = lock(&self.ring);
        let last = ring.persisted.min(index.saturating_sub(1));
        while ring.first_index().is_some_and(|first| first <= last) {
            ring.pop_front();
        }
        ring.settle(&self.budget);
    }

    /// Drops the entries from `index` on, persisted or not: the log ends before it.
    #[cfg(feature = "openraft")]
    pub fn truncate_from(&self, index: u64) {
        let mut ring = lock(&self.ring);
        ring.cut_from(index);
        ring.settle(&self.budget);
    }

    /// Drops everything, persisted or not: the log was replaced.
    pub fn clear(&self) {
        let mut ring = lock(&self.ring);
        ring.entries.clear();
        (ring.payload, ring.persisted) = (0, 0);
        ring.settle(&self.budget);
    }

    /// The lowest index that is cached.
    pub fn first_index(&self) -> Option<u64> {
        lock(&self.ring).first_index()
    }

    /// The entries of `[low, high)` if all of them are cached: as many as fit in `bytes_max` (sizes
    /// as protobuf messages), at least one. Counts a hit or a miss.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let mut ring = lock(&self.ring);
        match ring.first_index() {
            Some(first) if first <= low && low < high => {
                ring.hits += 1;
                self.budget.hits.fetch_add(1, Ordering::Relaxed);
                Some(ring.copy(low - first, high - first, bytes_max))
            }
            _ => {
                ring.misses += 1;
                self.budget.misses.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// What this region's cache has done and holds.
    pub fn stats(&self) -> CacheStats {
        let ring = lock(&self.ring);
        CacheStats {
            hits: ring.hits,
            misses: ring.misses,
            bytes: ring.bytes(),
        }
    }
}

impl Ring {
    /// Copies the entries at the offsets `[from, to)`, cut by size.
    fn copy(&self, from: u64, to: u64, bytes_max: u64) -> Vec<Entry> {
        let range = from as usize..(to as usize).min(self.entries.len());
        if bytes_max == u64::MAX {
            return self.entries.range(range).cloned().collect();
        }
        let mut copied: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(range) {
            bytes += u64::from(entry.compute_size());
            if bytes > bytes_max && !copied.is_empty() {
                break;
            }
            copied.push(entry.clone());
        }
        copied
    }
}

impl Drop for EntryCache {
    fn drop(&mut self) {
        self.clear();
        let mut ring = lock(&self.ring);
        if std::mem::take(&mut ring.is_holder) {
            lock(&self.budget.holders).retain(|held| !Arc::ptr_eq(held, &self.ring));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>, data: usize) -> Vec<Entry> {
        range
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, 1);
                entry.data = vec![index as u8; data].into();
                entry
            })
            .collect()
    }

    fn indexes(entries: Option<Vec<Entry>>) -> Vec<u64> {
        entries
            .unwrap_or_default()
            .iter()
            .map(|e| e.index)
            .collect()
    }

    #[test]
    fn an_overlapping_append_cuts_first() {
        let cache = EntryCache::new(CacheBudget::new(1 << 20));
        cache.append(entries(1..10, 8));
        cache.append(entries(4..6, 8));
        assert_eq!(indexes(cache.entries(1, 6, u64::MAX)), [1, 2, 3, 4, 5]);
        let payloads: u64 = entries(1..6, 8).iter().map(payload).sum();
        let slots = 5 * size_of::<Entry>() as u64;
        let bytes = cache.stats().bytes;
        assert!((slots + payloads..=3 * slots + payloads).contains(&bytes));
    }

    #[test]
    #[should_panic(expected = "a hole")]
    fn a_hole_is_a_bug() {
        let cache = EntryCache::new(CacheBudget::new(1 << 20));
        cache.append(entries(1..3, 8));
        cache.append(entries(4..5, 8));
    }

    #[test]
    fn only_persisted_entries_leave() {
        let cache = EntryCache::new(CacheBudget::new(20_000));
        cache.append(entries(1..201, 100));
        assert_eq!(cache.first_index(), Some(1), "nothing is persisted yet");
        cache.set_persisted(100);
        assert_eq!(cache.first_index(), Some(101));
        cache.set_persisted(200);
        assert!(cache.stats().bytes <= 20_000);
        cache.compact_to(u64::MAX);
        assert_eq!((cache.first_index(), cache.stats().bytes), (None, 0));
        assert_eq!(cache.budget.stats().bytes, 0);
    }

    #[test]
    fn an_overwrite_takes_the_persisted_mark_back() {
        let cache = EntryCache::new(CacheBudget::new(1 << 20));
        cache.append(entries(1..10, 8));
        cache.set_persisted(9);
        cache.append(entries(5..7, 8));
        cache.compact_to(100);
        assert_eq!(cache.first_index(), Some(5));
    }

    #[test]
    fn the_size_limit_keeps_at_least_one() {
        let cache = EntryCache::new(CacheBudget::new(1 << 20));
        cache.append(entries(1..10, 100));
        assert_eq!(indexes(cache.entries(3, 10, 0)), [3]);
        assert_eq!(indexes(cache.entries(3, 10, 250)), [3, 4]);
        assert_eq!(cache.entries(0, 3, u64::MAX), None, "0 is not cached");
    }

    #[test]
    fn the_budget_holds_over_ten_thousand_regions() {
        let limit = 8 << 20;
        let budget = CacheBudget::new(limit);
        let caches: Vec<_> = (0..10_000)
            .map(|_| EntryCache::new(Arc::clone(&budget)))
            .collect();
        for round in 0..4 {
            for (i, cache) in caches.iter().enumerate() {
                let many = if i % 100 == 0 { 50 } else { 2 };
                let first = cache.first_index().map_or(1, |_| round * 50 + 1);
                cache.clear();
                cache.append(entries(first..first + many, 256));
                cache.set_persisted(first + many);
                let used = budget.stats().bytes;
                assert!(used <= limit + limit / 10, "{used} of {limit}");
            }
        }
        let sum: u64 = caches.iter().map(|c| c.stats().bytes).sum();
        assert_eq!(sum, budget.stats().bytes, "the account is exact");
        assert!(sum > limit / 2, "the budget is used, not emptied: {sum}");
    }

    #[test]
    fn a_busy_region_cannot_starve_a_quiet_one() {
        let budget = CacheBudget::new(100_000);
        let (quiet, busy) = (
            EntryCache::new(Arc::clone(&budget)),
            EntryCache::new(Arc::clone(&budget)),
        );
        quiet.append(entries(1..51, 100));
        quiet.set_persisted(50);
        for i in 0..100 {
            busy.append(entries(1 + i * 20..21 + i * 20, 500));
            busy.set_persisted(20 + i * 20);
        }
        assert_eq!(
            quiet.first_index(),
            Some(1),
            "below its floor, it keeps all"
        );
    }

    #[test]
    fn a_dropped_cache_gives_its_bytes_back() {
        let budget = CacheBudget::new(1 << 20);
        let cache = EntryCache::new(Arc::clone(&budget));
        cache.append(entries(1..10, 100));
        drop(cache);
        assert_eq!(budget.stats().bytes, 0);
        assert!(lock(&budget.holders).is_empty());
    }
}
