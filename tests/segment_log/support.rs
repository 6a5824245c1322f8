//! What a log holds, lists of batches to write, and the model that both are compared with.
//! Uses: the public API.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerstore::memory::{MemFs, MemoryLog};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{
    Durability, FileSystem, LogBatch, RaftLocalState, RaftLogStorage, RegionId, Result,
};
use raft::eraftpb::Entry;

pub const DIR: &str = "log";

/// No list of batches goes beyond.
pub const INDEX_MAX: u64 = 160;

pub fn options() -> SegmentLogOptions {
    SegmentLogOptions {
        segment_bytes: 16 << 10,
        background: false,
        store_id: 77,
        ..SegmentLogOptions::default()
    }
}

pub fn open(fs: &MemFs, options: &SegmentLogOptions) -> Result<SegmentLog> {
    open_on(Arc::new(fs.clone()), options)
}

pub fn open_on(fs: Arc<dyn FileSystem>, options: &SegmentLogOptions) -> Result<SegmentLog> {
    SegmentLog::open(fs, DIR, options.clone())
}

/// Everything of a log.
#[derive(Clone, Default, PartialEq)]
pub struct Content(pub BTreeMap<u64, (Option<RaftLocalState>, Vec<Entry>)>);

impl fmt::Debug for Content {
    /// Short enough to be looked at: `index/term` of each entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (region, (state, entries)) in &self.0 {
            let last = state.as_ref().map(|s| (s.hard_state.term, s.last_index));
            write!(f, "region {region} state {last:?}:")?;
            for e in entries {
                write!(f, " {}/{}", e.index, e.term)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Reads everything, entry by entry and, where they are contiguous, together.
pub fn content(log: &dyn RaftLogStorage) -> Result<Content> {
    let mut content = Content::default();
    for region in log.regions()? {
        let mut entries = Vec::new();
        for index in 0..INDEX_MAX {
            entries.extend(log.read_entry(region, index)?);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let range = first.index..last.index + 1;
            let together = log.read_entries(region, range, u64::MAX)?;
            assert_eq!(together, entries, "read together and one by one");
        }
        content
            .0
            .insert(region.0, (log.read_state(region)?, entries));
    }
    Ok(content)
}

/// Pseudo-random numbers, the same for the same seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

pub fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    Entry {
        index,
        term,
        data: data.into(),
        ..Entry::default()
    }
}

pub fn state(term: u64, last_index: u64) -> RaftLocalState {
    let mut state = RaftLocalState::default();
    (state.hard_state.term, state.hard_state.vote) = (term, term % 3);
    (state.hard_state.commit, state.last_index) = (last_index.saturating_sub(1), last_index);
    state
}

/// One step of a life.
#[derive(Clone, Debug)]
pub enum Step {
    Write(LogBatch, Durability),
    Sync,
    Maintain,
}

/// Makes batches as raft makes them: appends, conflicts, compactions, votes, removals.
pub struct Writer {
    random: Random,
    regions: Vec<(u64, u64, u64)>,
    bytes_max: u64,
}

impl Writer {
    /// For regions 1 and up, the first of which is compacted rarely.
    pub fn new(seed: u64, regions: usize, bytes_max: u64) -> Self {
        Writer {
            random: Random(seed),
            regions: vec![(1, 1, 1); regions],
            bytes_max,
        }
    }

    /// The next step. The fields of a region are its first index, the one behind its last, its term.
    pub fn step(&mut self) -> Step {
        match self.random.below(12) {
            0 => Step::Maintain,
            1 => Step::Sync,
            _ => {
                let mut batch = LogBatch::default();
                for _ in 0..=self.random.below(3) {
                    let at = self.random.below(self.regions.len() as u64) as usize;
                    self.fill(&mut batch, at);
                }
                let durability = match self.random.below(4) {
                    0 => Durability::Buffered,
                    _ => Durability::Synced,
                };
                Step::Write(batch, durability)
            }
        }
    }

    fn fill(&mut self, batch: &mut LogBatch, at: usize) {
        let (mut first, mut end, mut term) = self.regions[at];
        let region = RegionId(at as u64 + 1);
        match self.random.below(if at == 0 { 60 } else { 16 }) {
            0..=2 => {
                let to = first + self.random.below(end - first + 1);
                batch.remove(region, 0..to);
                first = to;
            }
            3..=4 => {
                let from = first + self.random.below(end - first + 1);
                term += 1;
                let entry = entry(from, term, self.random.bytes(40));
                batch.append(region, vec![entry]);
                batch.remove(region, from + 1..end.max(from + 1));
                batch.state(region, state(term, from));
                end = from + 1;
            }
            5 => {
                batch.clear_region(region);
                (first, end) = (end, end);
            }
            6 => batch.state(region, state(term, end - 1)),
            _ => {
                let count = 1 + self.random.below(4);
                let mut entries = Vec::new();
                for index in end..end + count {
                    let bytes = self.random.below(self.bytes_max) as usize;
                    entries.push(entry(index, term, self.random.bytes(bytes)));
                }
                batch.append(region, entries);
                end += count;
                batch.state(region, state(term, end - 1));
            }
        }
        assert!(end < INDEX_MAX, "the list is too long");
        self.regions[at] = (first, end, term);
    }
}

/// The contents that a log may have: after each step, and from which on they are durable.
pub struct Expected {
    model: MemoryLog,
    /// After each write.
    after: Vec<Content>,
    /// The first of `after` that a power cut may leave.
    durable: usize,
}

impl Expected {
    pub fn new() -> Self {
        Expected {
            model: MemoryLog::new(),
            after: vec![Content::default()],
            durable: 0,
        }
    }

    /// That `batch` is being written.
    pub fn begin(&mut self, batch: &LogBatch) {
        let written = self.model.write(batch, Durability::Buffered);
        written.expect("the model takes everything");
        self.after
            .push(content(&self.model).expect("the model is whole"));
    }

    /// That everything begun was made durable.
    pub fn synced(&mut self) {
        self.durable = self.after.len() - 1;
    }

    pub fn newest(&self) -> &Content {
        self.after.last().expect("there is always one")
    }

    /// Which step `found` is of, if it is one that may be there.
    pub fn position(&self, found: &Content) -> Result<usize, String> {
        let allowed = self.after[self.durable..].iter();
        if let Some(at) = allowed.clone().rposition(|c| c == found) {
            return Ok(self.durable + at);
        }
        let old = self.after[..self.durable].iter().rposition(|c| c == found);
        Err(match old {
            Some(at) => format!(
                "step {at} of {}, acknowledged is {}",
                self.after.len(),
                self.durable
            ),
            None => format!("content of no step; acknowledged is {}", self.durable),
        })
    }
}

/// The bytes of all files of the log.
pub fn bytes_on_disk(fs: &MemFs) -> u64 {
    let names = fs.list(Path::new(DIR)).expect("list");
    let length = |name: &PathBuf| fs.open(&Path::new(DIR).join(name))?.length();
    names
        .iter()
        .map(|name| length(name).expect("measure"))
        .sum()
}

/// The paths of its segments, ascending.
pub fn segments(fs: &MemFs) -> Vec<PathBuf> {
    let names = fs.list(Path::new(DIR)).expect("list").into_iter();
    let names = names.filter(|name| name.extension().is_some_and(|e| e == "seg"));
    names.map(|name| Path::new(DIR).join(name)).collect()
}
