//! Where every live entry lies, and the state of every region. Never does I/O.
//!
//! Operations are carried out in the order of the log, and each sets or removes what it names, whatever
//! was there: the last one that names an entry wins. So a log may be replayed from any earlier position
//! over a later state, and ends in the same state; checkpoints rely on it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::format::SegmentId;
use super::part::{Part, RunRef, Runs};
use crate::proto::RaftLocalState;
use crate::types::RegionId;

/// The raft state of a region, inline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub last_index: u64,
}

impl From<&RaftLocalState> for State {
    fn from(state: &RaftLocalState) -> Self {
        let hard = &state.hard_state;
        State {
            term: hard.term,
            vote: hard.vote,
            commit: hard.commit,
            last_index: state.last_index,
        }
    }
}

impl From<State> for RaftLocalState {
    fn from(state: State) -> Self {
        let mut local = RaftLocalState::default();
        let hard = &mut local.hard_state;
        (hard.term, hard.vote, hard.commit) = (state.term, state.vote, state.commit);
        local.last_index = state.last_index;
        local
    }
}

/// Contiguous entries of one region and one term that were written, and are read, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub region: RegionId,
    pub first: u64,
    pub count: u32,
    pub term: u64,
    /// The length with its checksum, and whether it is compressed.
    pub stored: u32,
    /// Where it begins: in its segment, or in the data of its batch while that has no place yet.
    pub offset: u32,
}

impl Run {
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.count)
    }

    fn placed(&self) -> RunRef {
        RunRef {
            offset: self.offset,
            stored: self.stored,
        }
    }
}

/// One operation of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Run(Run),
    State {
        region: RegionId,
        state: State,
    },
    Remove {
        region: RegionId,
        range: Range<u64>,
    },
    Clear {
        region: RegionId,
    },
    /// A run in a cold segment, of which the entries `window` were alive when it was copied.
    Copy {
        run: Run,
        window: Range<u64>,
    },
    /// The entries `window` of the run, as far as they are still in `from`, are now in `to`, at the
    /// run's offset. Others of the run's were overwritten, perhaps by entries in `from` as well.
    Move {
        run: Run,
        window: Range<u64>,
        from: SegmentId,
        to: SegmentId,
    },
}

impl Op {
    /// The run whose bytes are in the frame of this operation.
    pub fn data(&self) -> Option<&Run> {
        match self {
            Op::Run(run) | Op::Copy { run, .. } => Some(run),
            _ => None,
        }
    }

    pub fn data_mut(&mut self) -> Option<&mut Run> {
        match self {
            Op::Run(run) | Op::Copy { run, .. } => Some(run),
            _ => None,
        }
    }

    pub fn region(&self) -> RegionId {
        match self {
            Op::Run(run) | Op::Copy { run, .. } | Op::Move { run, .. } => run.region,
            Op::State { region, .. } | Op::Remove { region, .. } | Op::Clear { region } => *region,
        }
    }
}

/// What a copy of an entry takes at most beside its run: its place in a directory of copies.
const COPY_BYTES_PER_ENTRY: u64 = 8;

/// What of a segment is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// How many parts are in it. Nothing of it is needed if there is none.
    pub parts: u64,
    /// Of those, the ones whose bytes are a guess until the segment's index is looked at.
    pub guessed: u64,
    pub entries: u64,
    /// The bytes of the runs of which an entry lives.
    pub bytes: u64,
    /// The memory that the places of the entries take.
    pub memory: u64,
}

impl Live {
    fn of(part: &Part) -> Live {
        Live {
            parts: 1,
            guessed: u64::from(!part.is_exact),
            entries: part.count,
            bytes: part.bytes,
            memory: part.runs.as_ref().map_or(0, |runs| runs.memory_bytes()),
        }
    }

    /// What it would take to keep no more than what lives. Where entries are tiny that is far more
    /// than their bytes, and a segment full of them is not worth copying.
    pub fn copied_bytes(&self) -> u64 {
        let places = self.entries.saturating_mul(COPY_BYTES_PER_ENTRY);
        self.bytes.saturating_add(places)
    }

    fn add(&mut self, other: Live) {
        self.parts += other.parts;
        self.guessed += other.guessed;
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.memory += other.memory;
    }

    fn subtract(&mut self, other: Live) {
        self.parts -= other.parts;
        self.guessed -= other.guessed;
        self.entries -= other.entries;
        self.bytes -= other.bytes;
        self.memory -= other.memory;
    }
}

/// What lives in each segment.
#[derive(Debug, Default)]
pub(super) struct Usages(BTreeMap<SegmentId, Live>);

impl Usages {
    pub fn of(&self, segment: SegmentId) -> Live {
        self.0.get(&segment).copied().unwrap_or_default()
    }

    /// Of all segments together.
    pub fn total(&self) -> Live {
        let mut total = Live::default();
        self.0.values().for_each(|live| total.add(*live));
        total
    }

    /// The segments with something alive, ascending.
    pub fn each(&self) -> impl Iterator<Item = (SegmentId, Live)> + '_ {
        self.0.iter().map(|(segment, live)| (*segment, *live))
    }

    fn add_part(&mut self, part: &Part) {
        self.0.entry(part.segment).or_default().add(Live::of(part));
    }

    fn remove_part(&mut self, part: &Part) {
        let live = self.0.entry(part.segment).or_default();
        live.subtract(Live::of(part));
        if live.parts == 0 {
            assert_eq!(*live, Live::default(), "no part in {}", part.segment);
            self.0.remove(&part.segment);
        }
    }

    /// Puts `run` behind the others of `part`, which accepts it.
    fn push(&mut self, part: &mut Part, run: &Run) {
        let at = run.placed();
        let live = self.0.entry(part.segment).or_default();
        live.entries += u64::from(run.count);
        live.bytes += at.bytes();
        live.memory += part.push(run.count, at);
    }

    /// Carries out `change` on `part`, and notes by how much it shrank or grew.
    fn track(&mut self, part: &mut Part, change: impl FnOnce(&mut Part)) {
        let before = Live::of(part);
        change(part);
        let live = self.0.entry(part.segment).or_default();
        live.subtract(before);
        live.add(Live::of(part));
    }
}

/// The log of one region. Invariant: parts are ascending and disjoint, none is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RegionLog {
    pub state: Option<State>,
    pub parts: Vec<Part>,
}

impl RegionLog {
    /// The parts that hold something of `range`.
    pub fn overlapping(&self, range: &Range<u64>) -> Range<usize> {
        let low = self.parts.partition_point(|p| p.end() <= range.start);
        let high = self.parts.partition_point(|p| p.first < range.end);
        low..high.max(low)
    }

    /// The parts in `segment`.
    pub fn parts_in(&self, segment: SegmentId) -> impl Iterator<Item = &Part> {
        self.parts
            .iter()
            .filter(move |part| part.segment == segment)
    }

    fn is_empty(&self) -> bool {
        self.state.is_none() && self.parts.is_empty()
    }

    fn remove(&mut self, range: &Range<u64>, usages: &mut Usages) {
        let Range { mut start, mut end } = self.overlapping(range);
        if start == end {
            return;
        }
        if self.parts[start].first < range.start {
            if self.parts[start].end() > range.end {
                let right = self.parts[start].tail_from(range.end);
                usages.add_part(&right);
                self.insert(start + 1, right);
                end = start + 1;
            }
            usages.track(&mut self.parts[start], |p| p.cut_back(range.start));
            start += 1;
        }
        if start < end && self.parts[end - 1].end() > range.end {
            usages.track(&mut self.parts[end - 1], |p| p.cut_front(range.end));
            end -= 1;
        }
        for part in self.parts.drain(start..end) {
            usages.remove_part(&part);
        }
    }

    /// Puts the entries `window` of `run` into `segment`.
    fn put(&mut self, segment: SegmentId, run: &Run, window: &Range<u64>, usages: &mut Usages) {
        // Nearly always the log goes on where it ended, in the same segment and term.
        if let Some(last) = self.parts.last_mut() {
            let follows = last.end() == run.first && *window == run.range();
            if follows && last.accepts(segment, run.term) {
                usages.push(last, run);
                return;
            }
        }
        self.remove(window, usages);
        let at = self.parts.partition_point(|p| p.first < window.start);
        // Copies come in the order of their indexes, while the log has gone on behind them.
        if let Some(before) = self.parts[..at].last_mut() {
            let follows = before.end() == run.first && *window == run.range();
            if follows && before.accepts(segment, run.term) {
                usages.push(before, run);
                return;
            }
        }
        let runs = Runs::one(run.first, run.count, run.placed());
        let part = Part::new(segment, run.term, window.clone(), runs);
        usages.add_part(&part);
        self.insert(at, part);
    }

    fn insert(&mut self, at: usize, part: Part) {
        // Most regions have one part or two: memory for four each is too much.
        if self.parts.len() == self.parts.capacity() && self.parts.len() < 4 {
            self.parts.reserve_exact(1);
        }
        self.parts.insert(at, part);
    }

    fn relocate(
        &mut self,
        (run, window): (&Run, &Range<u64>),
        (from, to): (SegmentId, SegmentId),
        usages: &mut Usages,
    ) {
        let overlapping = self.overlapping(window);
        let moved = |part: &Part| {
            let left = part.first.max(window.start)..part.end().min(window.end);
            (part.segment == from).then_some(left)
        };
        let windows: Vec<_> = self.parts[overlapping].iter().filter_map(moved).collect();
        for window in windows {
            self.put(to, run, &window, usages);
        }
    }
}

/// Spreads the numbers of regions, which the placement gives out and no stranger chooses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RegionHasher(u64);

impl Hasher for RegionHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table takes its bucket from the low bits and its tag from the high ones.
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// The whole index.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub regions: HashMap<RegionId, RegionLog, BuildHasherDefault<RegionHasher>>,
    pub usages: Usages,
}

impl Index {
    /// Carries out `ops`, one after the other. A region is looked up once for its entries and its state,
    /// which nearly always follow each other.
    pub fn apply_all<'a>(&mut self, segment: SegmentId, ops: impl Iterator<Item = &'a Op>) {
        let mut ops = ops.peekable();
        while let Some(op) = ops.next() {
            let Op::Run(run) = op else {
                self.apply(segment, op);
                continue;
            };
            let log = self.regions.entry(run.region).or_default();
            log.put(segment, run, &run.range(), &mut self.usages);
            let state =
                ops.next_if(|op| matches!(op, Op::State { region, .. } if *region == run.region));
            if let Some(Op::State { state, .. }) = state {
                log.state = Some(*state);
            }
        }
    }

    /// Carries out `op`, which was read from or written into `segment`.
    pub fn apply(&mut self, segment: SegmentId, op: &Op) {
        let region = op.region();
        match op {
            Op::Run(run) => {
                let log = self.regions.entry(region).or_default();
                log.put(segment, run, &run.range(), &mut self.usages);
            }
            Op::Copy { run, window } => {
                let log = self.regions.entry(region).or_default();
                log.put(segment, run, window, &mut self.usages);
            }
            Op::State { state, .. } => {
                self.regions.entry(region).or_default().state = Some(*state);
            }
            Op::Remove { range, .. } => {
                if let Some(log) = self.regions.get_mut(&region) {
                    log.remove(range, &mut self.usages);
                    self.drop_if_empty(region);
                }
            }
            Op::Clear { .. } => {
                if let Some(log) = self.regions.remove(&region) {
                    log.parts.iter().for_each(|p| self.usages.remove_part(p));
                }
            }
            Op::Move {
                run,
                window,
                from,
                to,
            } => {
                if let Some(log) = self.regions.get_mut(&region) {
                    log.relocate((run, window), (*from, *to), &mut self.usages);
                }
            }
        }
    }

    fn drop_if_empty(&mut self, region: RegionId) {
        if self.regions.get(&region).is_some_and(RegionLog::is_empty) {
            self.regions.remove(&region);
        }
    }

    /// Puts a region as a checkpoint has it.
    pub fn restore(&mut self, region: RegionId, log: RegionLog) {
        log.parts.iter().for_each(|p| self.usages.add_part(p));
        self.regions.insert(region, log);
    }

    /// Gives the parts of `region` in `segment` that have dropped their runs those of `found` back.
    /// Says whether every entry of theirs was in it.
    pub fn fill(&mut self, region: RegionId, segment: SegmentId, found: &[Part]) -> bool {
        let Some(log) = self.regions.get_mut(&region) else {
            return true;
        };
        let mut is_whole = true;
        let mut at = 0;
        while at < log.parts.len() {
            let part = &log.parts[at];
            if part.segment != segment || part.runs.is_some() {
                at += 1;
                continue;
            }
            let pieces = part.cover(found);
            let count: u64 = pieces.iter().map(|piece| piece.count).sum();
            if count != part.count {
                is_whole = false;
                at += 1;
                continue;
            }
            self.usages.remove_part(&log.parts[at]);
            pieces.iter().for_each(|p| self.usages.add_part(p));
            let step = pieces.len();
            log.parts.splice(at..at + 1, pieces);
            at += step;
        }
        is_whole
    }

    /// Lets the parts of `region` in segments that `may_drop` says forget their runs.
    pub fn forget(&mut self, region: RegionId, may_drop: impl Fn(SegmentId) -> bool) {
        let parts = self.regions.get_mut(&region).map(|log| &mut log.parts);
        for part in parts.into_iter().flatten().filter(|p| may_drop(p.segment)) {
            self.usages.track(part, |part| part.runs = None);
        }
    }

    /// Gives back the memory that the parts of `region` in `segment`, which get no more runs, have
    /// in reserve.
    pub fn tighten(&mut self, region: RegionId, segment: SegmentId) {
        let parts = self.regions.get_mut(&region).map(|log| &mut log.parts);
        for part in parts.into_iter().flatten() {
            if part.segment == segment {
                self.usages.track(part, |part| {
                    if let Some(runs) = &mut part.runs {
                        runs.shrink_to_fit();
                    }
                });
            }
        }
    }

    /// Counts the bytes of the parts of `region` in `segment` that were cut while their runs were
    /// dropped, by what `found` has of them.
    pub fn settle(&mut self, region: RegionId, segment: SegmentId, found: &[Part]) {
        let parts = self.regions.get_mut(&region).map(|log| &mut log.parts);
        for part in parts.into_iter().flatten() {
            if part.segment == segment && !part.is_exact {
                self.usages.track(part, |part| part.count_bytes(found));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32, term: u64, offset: u32) -> Run {
        let region = RegionId(1);
        Run {
            region,
            first,
            count,
            term,
            stored: 10,
            offset,
        }
    }

    fn moved(run: Run, to: u64) -> Op {
        Op::Move {
            window: run.range(),
            run,
            from: SegmentId(1),
            to: SegmentId(to),
        }
    }

    fn parts(index: &Index) -> Vec<(u64, Range<u64>)> {
        let parts = index.regions[&RegionId(1)].parts.iter();
        parts.map(|part| (part.segment.0, part.range())).collect()
    }

    #[test]
    fn a_move_leaves_what_was_written_while_it_was_copied() {
        let mut index = Index::default();
        index.apply(SegmentId(1), &Op::Run(run(1, 4, 1, 100)));
        index.apply(SegmentId(2), &Op::Run(run(3, 1, 2, 50)));
        index.apply(SegmentId(2), &moved(run(1, 4, 1, 900), 9));
        assert_eq!(parts(&index), [(9, 1..3), (2, 3..4), (9, 4..5)]);
        assert_eq!(index.usages.of(SegmentId(1)), Live::default());
    }

    #[test]
    fn copies_that_follow_on_each_other_are_one_part() {
        let mut index = Index::default();
        for first in 1..9 {
            index.apply(SegmentId(1), &Op::Run(run(first, 1, 1, first as u32 * 100)));
        }
        index.apply(SegmentId(2), &Op::Run(run(9, 1, 1, 50)));
        for first in 1..9 {
            let copy = run(first, 1, 1, first as u32 * 20);
            index.apply(SegmentId(2), &moved(copy, 7));
        }
        assert_eq!(parts(&index), [(7, 1..9), (2, 9..10)]);
        assert_eq!(index.usages.of(SegmentId(7)).bytes, 80);
    }
}
