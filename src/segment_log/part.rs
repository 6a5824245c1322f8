//! Contiguous live entries of one region, one term and one segment: eight bytes an entry, fewer where
//! runs are long, none while its runs are dropped. Never does I/O.

use std::ops::Range;

use super::chunks::Chunks;
use super::format::{COMPRESSED, RUN_ENTRIES_MAX, SegmentId};

/// Where a run lies in the segment of its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRef {
    pub offset: u32,
    /// The length, and whether it is compressed.
    pub stored: u32,
}

impl RunRef {
    pub fn bytes(&self) -> u64 {
        u64::from(self.stored & !COMPRESSED)
    }
}

/// The runs of a part, contiguous and ascending.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Runs {
    /// The first index of the first run. It may lie before the part's: those entries are dead.
    base: u64,
    refs: Chunks<RunRef>,
    /// Nothing while every run has one entry.
    ends: Option<Box<Ends>>,
}

/// Where runs end that have several entries.
#[derive(Clone, Debug, PartialEq)]
struct Ends {
    /// How many entries the runs had that were let go of.
    gone: u32,
    /// Behind each run, how many entries there are, and were in front.
    counts: Chunks<u32>,
}

impl Ends {
    /// Of so many runs of one entry each.
    fn of_ones(count: usize) -> Self {
        let mut counts = Chunks::with_capacity(count + 1);
        for end in 1..=count as u32 {
            counts.push(end);
        }
        Ends { gone: 0, counts }
    }

    /// How many entries the first `count` runs have, and those had that were in front.
    fn through(&self, count: usize) -> u32 {
        match count {
            0 => self.gone,
            count => self.counts.at(count - 1),
        }
    }

    fn last(&self) -> u32 {
        self.through(self.counts.len())
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Ends>() + self.counts.memory_bytes()
    }
}

/// A run of a part: its first index, how many entries it has, and where it is.
pub(super) struct Found {
    pub first: u64,
    pub count: u64,
    pub at: RunRef,
}

impl Runs {
    pub fn one(first: u64, count: u32, at: RunRef) -> Self {
        let mut runs = Runs::empty(first, 1);
        runs.push(count, at);
        runs
    }

    /// No runs yet; the first will begin at `base`.
    pub fn empty(base: u64, capacity: usize) -> Self {
        Runs {
            base,
            refs: Chunks::with_capacity(capacity),
            ends: None,
        }
    }

    /// Behind the last entry of the last run.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.entries_through(self.refs.len()))
    }

    /// Returns how much more memory they take.
    pub fn push(&mut self, count: u32, at: RunRef) -> usize {
        let mut grown = 0;
        if count != 1 && self.ends.is_none() {
            let ends = Ends::of_ones(self.refs.len());
            grown += ends.memory_bytes();
            self.ends = Some(Box::new(ends));
        }
        if let Some(ends) = &mut self.ends {
            grown += ends.counts.push(ends.last() + count);
        }
        grown + self.refs.push(at)
    }

    /// How many more entries a run may bring.
    fn room(&self) -> u32 {
        let taken = self.ends.as_ref().map(|ends| ends.last());
        u32::MAX - taken.unwrap_or(self.refs.len() as u32)
    }

    /// How many entries the first `count` runs have.
    fn entries_through(&self, count: usize) -> u32 {
        match &self.ends {
            None => count as u32,
            Some(ends) => ends.through(count) - ends.gone,
        }
    }

    fn position(&self, index: u64) -> usize {
        let entry = index - self.base;
        match &self.ends {
            None => entry as usize,
            Some(ends) => {
                let entry = entry + u64::from(ends.gone);
                ends.counts.partition_point(|end| u64::from(end) <= entry)
            }
        }
    }

    fn found(&self, position: usize) -> Found {
        let before = self.entries_through(position);
        Found {
            first: self.base + u64::from(before),
            count: u64::from(self.entries_through(position + 1) - before),
            at: self.refs.at(position),
        }
    }

    /// The positions of the runs that hold something of `range`, which lies within and is not empty.
    fn positions(&self, range: &Range<u64>) -> Range<usize> {
        self.position(range.start)..self.position(range.end - 1) + 1
    }

    /// The runs from the one that holds `range.start` to the one that holds the last entry before
    /// `range.end`. The range lies within the runs and is not empty.
    pub fn within(&self, range: &Range<u64>) -> impl ExactSizeIterator<Item = Found> + '_ {
        self.positions(range).map(|position| self.found(position))
    }

    fn bytes(&self, range: &Range<u64>) -> u64 {
        let positions = self.positions(range);
        positions.map(|at| self.refs.at(at).bytes()).sum()
    }

    /// Forgets runs that hold nothing of `range`: those behind, and of those in front as many as cost
    /// little.
    fn shrink_to(&mut self, range: &Range<u64>) {
        let Range { start, end } = self.positions(range);
        self.refs.truncate(end);
        let dead = self.refs.cut_front(start);
        let entries = match &mut self.ends {
            None => dead as u32,
            Some(ends) => {
                let gone = ends.gone;
                ends.gone = ends.through(dead);
                ends.counts.truncate(end);
                assert_eq!(ends.counts.cut_front(start), dead);
                ends.gone - gone
            }
        };
        self.base += u64::from(entries);
    }

    fn only(&self, range: &Range<u64>) -> Runs {
        let mut found = self.within(range).peekable();
        let base = found.peek().map_or(range.start, |run| run.first);
        let mut runs = Runs::empty(base, found.len());
        for run in found {
            runs.push(run.count as u32, run.at);
        }
        runs
    }

    pub fn shrink_to_fit(&mut self) {
        self.refs.shrink_to_fit();
        if let Some(ends) = &mut self.ends {
            ends.counts.shrink_to_fit();
        }
    }

    pub fn memory_bytes(&self) -> u64 {
        let ends = self.ends.as_ref().map_or(0, |ends| ends.memory_bytes());
        (size_of::<Runs>() + self.refs.memory_bytes() + ends) as u64
    }
}

/// Contiguous live entries of one term in one segment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub segment: SegmentId,
    pub first: u64,
    // Invariant: at least 1.
    pub count: u64,
    pub term: u64,
    /// The bytes of the runs that hold them.
    pub bytes: u64,
    /// Whether it is that. If not, the part was cut while its runs were dropped, and the bytes are in
    /// proportion to what was cut off, until the segment's index is looked at.
    // Invariant: true while the runs are known.
    pub is_exact: bool,
    /// Nothing once it was dropped to save memory: the segment still has it.
    pub runs: Option<Box<Runs>>,
}

impl Part {
    pub fn new(segment: SegmentId, term: u64, range: Range<u64>, runs: Runs) -> Self {
        Part {
            segment,
            first: range.start,
            count: range.end - range.start,
            term,
            bytes: runs.bytes(&range),
            is_exact: true,
            runs: Some(Box::new(runs)),
        }
    }

    /// Behind its last entry.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    pub fn range(&self) -> Range<u64> {
        self.first..self.end()
    }

    /// Whether a run of `term` in `segment` that begins at its end may become part of it.
    pub fn accepts(&self, segment: SegmentId, term: u64) -> bool {
        let fits = |runs: &Runs| runs.end() == self.end() && runs.room() >= RUN_ENTRIES_MAX;
        let is_known = self.runs.as_deref().is_some_and(fits);
        self.segment == segment && self.term == term && is_known
    }

    /// Takes in a run that begins at its end, of a part that accepts it. Returns how much more memory
    /// its runs take.
    pub fn push(&mut self, count: u32, at: RunRef) -> u64 {
        let runs = self.runs.as_mut().expect("only a part with runs accepts");
        self.count += u64::from(count);
        self.bytes += at.bytes();
        runs.push(count, at) as u64
    }

    /// Leaves the entries before `end`, at least one.
    pub fn cut_back(&mut self, end: u64) {
        self.narrow(self.first..end);
    }

    /// Leaves the entries from `first` on, at least one.
    pub fn cut_front(&mut self, first: u64) {
        self.narrow(first..self.end());
    }

    fn narrow(&mut self, range: Range<u64>) {
        assert!(!range.is_empty() && self.first <= range.start && range.end <= self.end());
        let count = range.end - range.start;
        match &mut self.runs {
            Some(runs) => {
                let whole = self.first..self.first + self.count;
                // Only what is cut off is looked at: cutting little of much is cheap.
                let mut gone = 0;
                if whole.start < range.start {
                    gone += runs.bytes(&(whole.start..range.start));
                    let split = runs.found(runs.position(range.start));
                    gone -= if split.first < range.start {
                        split.at.bytes()
                    } else {
                        0
                    };
                }
                if range.end < whole.end {
                    gone += runs.bytes(&(range.end..whole.end));
                    let split = runs.found(runs.position(range.end));
                    gone -= if split.first < range.end {
                        split.at.bytes()
                    } else {
                        0
                    };
                }
                self.bytes -= gone;
                runs.shrink_to(&range);
            }
            None => {
                let share = u128::from(self.bytes) * u128::from(count) / u128::from(self.count);
                self.bytes = share as u64;
                self.is_exact &= count == self.count;
            }
        }
        (self.first, self.count) = (range.start, count);
    }

    /// A copy of the entries from `first` on.
    pub fn tail_from(&self, first: u64) -> Part {
        self.clip(first..self.end())
    }

    /// A copy of the entries of `range`, which lies within.
    pub fn clip(&self, range: Range<u64>) -> Part {
        if let Some(runs) = &self.runs {
            return Part::new(self.segment, self.term, range.clone(), runs.only(&range));
        }
        let mut part = self.clone();
        part.narrow(range);
        part
    }

    /// Counts the bytes of the runs that hold its entries, if `found` knows all of them.
    pub fn count_bytes(&mut self, found: &[Part]) {
        let pieces = self.cover(found);
        if pieces.iter().map(|piece| piece.count).sum::<u64>() == self.count {
            (self.bytes, self.is_exact) = (pieces.iter().map(|piece| piece.bytes).sum(), true);
        }
    }

    /// What `found`, which is ascending, has of this part's entries.
    pub fn cover(&self, found: &[Part]) -> Vec<Part> {
        let start = found.partition_point(|p| p.end() <= self.first);
        let overlapping = found[start..].iter().take_while(|p| p.first < self.end());
        overlapping
            .filter(|p| p.term == self.term)
            .map(|p| p.clip(p.first.max(self.first)..p.end().min(self.end())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        /// So many runs, of so many entries each.
        Push(usize, u32),
        /// Where, in thousandths of the part.
        CutFront(u64),
        CutBack(u64),
        Clip(u64, u64),
        ShrinkToFit,
    }

    fn change() -> impl Strategy<Value = Change> {
        let share = || 0u64..1000;
        prop_oneof![
            3 => (1usize..300).prop_map(|runs| Change::Push(runs, 1)),
            1 => (1usize..200, 1u32..4).prop_map(|(runs, count)| Change::Push(runs, count)),
            2 => share().prop_map(Change::CutFront),
            2 => (0u64..20).prop_map(Change::CutFront),
            1 => share().prop_map(Change::CutBack),
            1 => (share(), share()).prop_map(|(a, b)| Change::Clip(a.min(b), a.max(b))),
            1 => Just(Change::ShrinkToFit),
        ]
    }

    /// The part beside a plain list of its runs: the first index and the place of each.
    struct Both {
        part: Part,
        runs: Vec<(Range<u64>, RunRef)>,
        pushed: u32,
    }

    impl Both {
        fn new() -> Self {
            let at = RunRef {
                offset: 0,
                stored: 1,
            };
            Both {
                part: Part::new(SegmentId(1), 1, 100..101, Runs::one(100, 1, at)),
                runs: vec![(100..101, at)],
                pushed: 1,
            }
        }

        fn push(&mut self, count: u32) {
            // After a cut in the middle of a run nothing can follow on it.
            if !self.part.accepts(SegmentId(1), 1) {
                return;
            }
            let at = RunRef {
                offset: self.pushed,
                stored: 1 + self.pushed % 9,
            };
            let (end, before) = (self.part.end(), self.memory());
            let grown = self.part.push(count, at);
            assert_eq!(self.memory(), before + grown);
            self.runs.push((end..end + u64::from(count), at));
            self.pushed += 1;
        }

        fn memory(&self) -> u64 {
            self.part
                .runs
                .as_ref()
                .map_or(0, |runs| runs.memory_bytes())
        }

        /// An index of the part.
        fn at(&self, share: u64) -> u64 {
            self.part.first + self.part.count * share / 1000
        }

        fn change(&mut self, change: &Change) {
            match *change {
                Change::Push(runs, count) => (0..runs).for_each(|_| self.push(count)),
                Change::CutFront(share) => self.part.cut_front(self.at(share)),
                Change::CutBack(share) => self.part.cut_back(self.at(share) + 1),
                Change::Clip(low, high) => {
                    self.part = self.part.clip(self.at(low)..self.at(high) + 1);
                }
                Change::ShrinkToFit => {
                    let runs = self.part.runs.as_mut().expect("it never drops them");
                    runs.shrink_to_fit();
                }
            }
            let range = self.part.range();
            let lives = |run: &Range<u64>| run.start < range.end && range.start < run.end;
            self.runs.retain(|(run, _)| lives(run));
        }

        fn check(&self) {
            let runs = self.part.runs.as_ref().expect("it never drops them");
            let bytes = self.runs.iter().map(|(_, at)| at.bytes()).sum::<u64>();
            assert_eq!(self.part.bytes, bytes);
            for (low, high) in [(0, 999), (0, 0), (500, 500), (333, 777), (999, 999)] {
                let range = self.at(low)..self.at(high) + 1;
                let found = runs.within(&range);
                let expected = self
                    .runs
                    .iter()
                    .filter(|(run, _)| run.start < range.end && range.start < run.end);
                assert_eq!(found.len(), expected.clone().count());
                for (found, (run, at)) in found.zip(expected) {
                    assert_eq!(
                        (found.first..found.first + found.count, found.at),
                        (run.clone(), *at)
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_part_finds_the_runs_that_a_plain_list_has(
            changes in prop::collection::vec(change(), 1..40),
        ) {
            let mut both = Both::new();
            for change in changes {
                both.change(&change);
                both.check();
            }
        }
    }

    #[test]
    fn an_entry_takes_eight_bytes_and_a_few_percent_and_gives_them_back() {
        let mut both = Both::new();
        let beside = both.memory();
        assert!(beside <= 80, "{beside} bytes for one entry");
        (0..50_000).for_each(|_| both.push(1));
        assert!(both.memory() <= 50_000 * 8 * 103 / 100);
        for first in 101..50_000 {
            both.part.cut_front(first);
            assert!(both.memory() <= both.part.count * 8 * 103 / 100 + 3_000);
        }
    }

    #[test]
    fn a_part_whose_entries_cannot_be_counted_any_more_accepts_none() {
        let mut both = Both::new();
        both.push(2);
        both.push(u32::MAX - 3 - RUN_ENTRIES_MAX);
        assert!(both.part.accepts(SegmentId(1), 1));
        both.push(1);
        assert!(!both.part.accepts(SegmentId(1), 1));
        // They are counted from its first run on, and that one may be gone.
        both.part.cut_front(both.part.end() - 1);
        assert!(!both.part.accepts(SegmentId(1), 1));
    }
}
