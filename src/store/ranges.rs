//! Which region holds which keys: ranges that never overlap. Uses: types, proto. Never does I/O.

use std::collections::{BTreeMap, HashMap};

use crate::proto::Region;
use crate::types::{KeyRange, RegionId};

/// The ranges of the initialised regions of a store, by their start.
#[derive(Debug, Default)]
pub struct Ranges {
    by_start: BTreeMap<Vec<u8>, (Vec<u8>, RegionId)>,
    // Invariant: what is here is in `by_start`, under this key.
    start_of: HashMap<RegionId, Vec<u8>>,
}

impl Ranges {
    /// `region` holds its range from now on, and nothing else.
    pub fn put(&mut self, region: &Region) {
        let id = region.region_id();
        self.remove(id);
        if !region.is_initialized() {
            return;
        }
        let start = region.start_key.clone();
        let before = self
            .by_start
            .insert(start.clone(), (region.end_key.clone(), id));
        if let Some((_, before)) = before {
            self.start_of.remove(&before);
        }
        self.start_of.insert(id, start);
    }

    /// `region` holds nothing any more.
    pub fn remove(&mut self, region: RegionId) {
        if let Some(start) = self.start_of.remove(&region) {
            self.by_start.remove(&start);
        }
    }

    /// The regions that hold some key of `range`, in their order.
    pub fn overlapping(&self, range: &KeyRange) -> Vec<RegionId> {
        let before = self.by_start.range(..=range.start.clone()).next_back();
        let before = before.filter(|(_, (end, _))| end.is_empty() || *end > range.start);
        let mut found: Vec<RegionId> = before.map(|(_, (_, id))| *id).into_iter().collect();
        for (start, (_, id)) in self.by_start.range(range.start.clone()..) {
            if !range.end.is_empty() && *start >= range.end {
                break;
            }
            if found.last() != Some(id) {
                found.push(*id);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PeerId;

    fn region(id: u64, start: &str, end: &str) -> Region {
        Region::with_voters(id, KeyRange::new(start, end), [(PeerId(id), 1)])
    }

    #[test]
    fn overlaps_are_found_at_both_ends() {
        let mut ranges = Ranges::default();
        for region in [region(1, "", "b"), region(2, "b", "d"), region(3, "f", "")] {
            ranges.put(&region);
        }
        let ids = |start: &str, end: &str| -> Vec<u64> {
            let found = ranges.overlapping(&KeyRange::new(start, end));
            found.into_iter().map(|id| id.0).collect()
        };
        assert_eq!(ids("", ""), [1, 2, 3]);
        assert_eq!(ids("b", "d"), [2]);
        assert_eq!(ids("a", "b"), [1]);
        assert_eq!(ids("c", "g"), [2, 3]);
        assert_eq!(ids("d", "f"), [0; 0]);
        assert_eq!(ids("x", ""), [3]);
    }

    #[test]
    fn a_region_that_changes_leaves_nothing_behind() {
        let mut ranges = Ranges::default();
        ranges.put(&region(1, "a", "z"));
        ranges.put(&region(1, "m", "z"));
        assert!(ranges.overlapping(&KeyRange::new("a", "m")).is_empty());
        ranges.remove(1.into());
        assert!(ranges.overlapping(&KeyRange::all()).is_empty());
    }
}
