//! Contiguous live entries of one region, one term and one segment: eight bytes an entry, fewer where
//! runs are long, none while its runs are dropped. Never does I/O.

use std::ops::Range;

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
    refs: Vec<RunRef>,
    /// Behind each run, how many entries there are since `base`; empty while every run has one.
    ends: Vec<u32>,
}

/// A run of a part: its first index, how many entries it has, and where it is.
pub(super) struct Found {
    pub first: u64,
    pub count: u64,
    pub at: RunRef,
}

impl Runs {
    pub fn one(first: u64, count: u32, at: RunRef) -> Self {
        let mut runs = Runs {
            base: first,
            refs: Vec::with_capacity(1),
            ends: Vec::new(),
        };
        runs.push(count, at);
        runs
    }

    /// No runs yet; the first will begin at `base`.
    pub fn empty(base: u64, capacity: usize) -> Self {
        Runs {
            base,
            refs: Vec::with_capacity(capacity),
            ends: Vec::new(),
        }
    }

    /// Behind the last entry of the last run.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.entries_through(self.refs.len()))
    }

    pub fn push(&mut self, count: u32, at: RunRef) {
        let before = self.entries_through(self.refs.len());
        if count != 1 && self.ends.is_empty() {
            self.ends = (1..=self.refs.len() as u32).collect();
        }
        if count != 1 || !self.ends.is_empty() {
            self.ends.push(before + count);
        }
        self.refs.push(at);
    }

    /// How many more entries a run may bring.
    fn room(&self) -> u32 {
        u32::MAX - self.entries_through(self.refs.len())
    }

    /// How many entries the first `count` runs have.
    fn entries_through(&self, count: usize) -> u32 {
        match (count, self.ends.is_empty()) {
            (0, _) => 0,
            (_, true) => count as u32,
            (_, false) => self.ends[count - 1],
        }
    }

    fn position(&self, index: u64) -> usize {
        let entry = (index - self.base) as usize;
        match self.ends.is_empty() {
            true => entry,
            false => self.ends.partition_point(|end| *end as usize <= entry),
        }
    }

    fn found(&self, position: usize) -> Found {
        let before = self.entries_through(position);
        Found {
            first: self.base + u64::from(before),
            count: u64::from(self.entries_through(position + 1) - before),
            at: self.refs[position],
        }
    }

    /// The runs from the one that holds `range.start` to the one that holds the last entry before
    /// `range.end`. The range lies within the runs and is not empty.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = Found> + '_ {
        let positions = self.position(range.start)..self.position(range.end - 1) + 1;
        positions.map(|position| self.found(position))
    }

    fn bytes(&self, range: &Range<u64>) -> u64 {
        let positions = self.position(range.start)..self.position(range.end - 1) + 1;
        self.refs[positions].iter().map(RunRef::bytes).sum()
    }

    /// Forgets the runs that hold nothing of `range`: those in front only once they are the most, so
    /// that cutting entry by entry does not move all others each time.
    fn shrink_to(&mut self, range: &Range<u64>) {
        let behind = self.position(range.end - 1) + 1;
        self.refs.truncate(behind);
        self.ends.truncate(behind);
        let dead = self.position(range.start);
        if dead * 2 > self.refs.len() {
            let entries = self.entries_through(dead);
            self.base += u64::from(entries);
            self.refs.drain(..dead);
            if !self.ends.is_empty() {
                self.ends.drain(..dead);
                self.ends.iter_mut().for_each(|end| *end -= entries);
            }
            self.refs.shrink_to(self.refs.len() * 2);
            self.ends.shrink_to(self.ends.len() * 2);
        }
    }

    fn only(&self, range: &Range<u64>) -> Runs {
        let positions = self.position(range.start)..self.position(range.end - 1) + 1;
        let mut runs = Runs::empty(self.found(positions.start).first, positions.len());
        for position in positions {
            let found = self.found(position);
            runs.push(found.count as u32, found.at);
        }
        runs
    }

    pub fn shrink_to_fit(&mut self) {
        self.refs.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub fn memory_bytes(&self) -> u64 {
        (size_of::<Runs>() + self.refs.capacity() * 8 + self.ends.capacity() * 4) as u64
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

    /// Takes in a run that begins at its end, of a part that accepts it.
    pub fn push(&mut self, count: u32, at: RunRef) {
        let runs = self.runs.as_mut().expect("only a part with runs accepts");
        runs.push(count, at);
        self.count += u64::from(count);
        self.bytes += at.bytes();
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
