//! The log of one raft group and what lies beside it: what is there, and the batches that change it. The
//! log and the hard state share it, because both are in the same record. I/O through the log store only.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use d_engine_core::{Error, HardState};
use d_engine_proto::common::{Entry, LogId};
use peerstore::{CompositeStorage, Durability, LogBatch, RaftLocalState, RaftLogStorage, RegionId};
use prost::Message as _;
use raft::eraftpb;

use crate::error;
use crate::record::{HardStateRecord, RaftRecord, decode, from_raft, to_raft};
use crate::{Options, Persistence};

/// The region of the record is that of the log with this bit, which no region of a user has.
pub const RECORD_REGION_BIT: u64 = 1 << 63;
/// The one entry of that region. Each write of the record puts it again.
const RECORD_INDEX: u64 = 1;

pub(crate) struct RaftState {
    node: Arc<CompositeStorage>,
    region: RegionId,
    persistence: Persistence,
    // Held by a writer from its look at the state until the state is what it wrote.
    writer: Mutex<()>,
    // As it is on disk, or in the page cache where that is asked for.
    stored: RwLock<Stored>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    // The entries that are there, half-open. Invariant: begins right behind the purged entry, if there is
    // one, also when it is empty.
    entries: Range<u64>,
    record: RaftRecord,
}

impl Stored {
    fn last_index(&self) -> u64 {
        match (&self.record.purged, self.entries.is_empty()) {
            (_, false) => self.entries.end - 1,
            (Some(purged), true) => purged.index,
            (None, true) => 0,
        }
    }

    fn local_state(&self) -> RaftLocalState {
        let mut state = RaftLocalState::default();
        state.last_index = self.last_index();
        if let Some(hard_state) = &self.record.hard_state {
            state.hard_state.term = hard_state.current_term;
            let voted_for = hard_state.voted_for.as_ref();
            state.hard_state.vote = voted_for.map_or(0, |vote| vote.voted_for_id.into());
        }
        state
    }
}

impl RaftState {
    /// Reads what is there and checks that it fits together.
    ///
    /// # Errors
    /// `DataCorruption` if it does not; those of the log store.
    pub fn open(node: &Arc<CompositeStorage>, options: &Options) -> Result<Self, Error> {
        let region = options.region;
        if region.0 == 0 || region.0 & RECORD_REGION_BIT != 0 {
            let expected = "one that is not 0, without its highest bit".into();
            return Err(error::log(format!("region {region}"), expected));
        }
        let state = RaftState {
            node: Arc::clone(node),
            region,
            persistence: options.persistence,
            writer: Mutex::new(()),
            stored: RwLock::default(),
        };
        let stored = state.read_stored()?;
        *state.stored.write().unwrap_or_else(PoisonError::into_inner) = stored;
        Ok(state)
    }

    fn read_stored(&self) -> Result<Stored, Error> {
        let entry =
            (self.log().read_entry(self.record_region(), RECORD_INDEX)).map_err(error::of)?;
        let record: RaftRecord = match entry {
            Some(entry) => decode("record of the log", &entry.data)?,
            None => RaftRecord::default(),
        };
        let state = self.log().read_state(self.region).map_err(error::of)?;
        let last_index = state.unwrap_or_default().last_index;
        let first_index = record.first_index;
        let has_entries = first_index > 0 && first_index <= last_index;
        let entries = match has_entries {
            true => first_index..last_index + 1,
            false => first_index..first_index,
        };
        let stored = Stored { entries, record };
        for index in [first_index, last_index] {
            if has_entries && self.read(index)?.is_none() {
                let there = &stored.entries;
                let what = format!("entry {index} of the log, which has {there:?}, is missing");
                return Err(error::damaged(what));
            }
        }
        if stored.last_index() != last_index {
            let what = format!(
                "the log ends at {last_index} by its state and at {} by its record",
                stored.last_index()
            );
            return Err(error::damaged(what));
        }
        Ok(stored)
    }

    pub fn is_durable(&self) -> bool {
        self.persistence == Persistence::DiskFirst
    }

    /// The last entry that was persisted, or purged if none is there behind it; 0 without either.
    pub fn last_index(&self) -> u64 {
        self.stored().last_index()
    }

    pub fn purged(&self) -> Option<LogId> {
        self.stored().record.purged
    }

    pub fn hard_state(&self) -> Option<HardState> {
        self.stored().record.hard_state.map(HardState::from)
    }

    /// The entries of the half-open `range` that are there.
    ///
    /// # Errors
    /// `DataCorruption` if one of them cannot be read.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, Error> {
        match self.read_entries(&range) {
            Ok(entries) => Ok(entries),
            Err(_) => {
                // They may have been removed in between: now they cannot be.
                let _writer = self.lock();
                self.read_entries(&range)
            }
        }
    }

    fn read_entries(&self, range: &Range<u64>) -> Result<Vec<Entry>, Error> {
        let there = self.stored().entries;
        let range = range.start.max(there.start)..range.end.min(there.end);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let entries = self.log().read_entries(self.region, range, u64::MAX);
        entries
            .map_err(error::of)?
            .into_iter()
            .map(from_raft)
            .collect()
    }

    fn read(&self, index: u64) -> Result<Option<eraftpb::Entry>, Error> {
        self.log().read_entry(self.region, index).map_err(error::of)
    }

    /// Puts entries behind those before them. What is there already is overwritten; entries of another
    /// term take all that is behind them away, as in Raft, and the same ones do not: what was acknowledged
    /// behind them stays, whoever persists them again.
    ///
    /// # Errors
    /// `LogStorage` if they leave a gap or were purged. Those of the log store.
    pub fn persist(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.change(self.durability(), |stored, batch| {
            self.append(stored, batch, entries)
        })
    }

    /// Removes the entries from `index` on.
    pub fn truncate(&self, index: u64) -> Result<(), Error> {
        self.change(Durability::Synced, |stored, batch| {
            self.cut(stored, batch, index);
            Ok(())
        })
    }

    /// Removes the entries from `index` on and puts others there, in one batch.
    pub fn replace(&self, index: u64, entries: Vec<Entry>) -> Result<(), Error> {
        self.change(self.durability(), |stored, batch| {
            self.cut(stored, batch, index);
            self.append(stored, batch, entries)
        })
    }

    /// Removes the entries up to `cutoff` and it too, and remembers it. All that the state machine has
    /// applied is made durable first: without those entries nothing brings it back.
    pub fn purge(&self, cutoff: LogId) -> Result<(), Error> {
        self.node.app().sync().map_err(error::of)?;
        self.change(Durability::Synced, |stored, batch| {
            let purged = stored.record.purged.map_or(0, |purged| purged.index);
            if cutoff.index <= purged {
                return Ok(());
            }
            let first = cutoff.index + 1;
            let there = &mut stored.entries;
            batch.remove(self.region, there.start..first.min(there.end));
            *there = first..there.end.max(first);
            stored.record.purged = Some(cutoff);
            Ok(())
        })
    }

    /// Removes every entry and what was purged; the hard state stays.
    pub fn reset(&self) -> Result<(), Error> {
        self.change(Durability::Synced, |stored, batch| {
            batch.clear_region(self.region);
            stored.entries = 0..0;
            stored.record.purged = None;
            Ok(())
        })
    }

    /// Durable on return, whatever the persistence.
    pub fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        self.change(Durability::Synced, |stored, _| {
            stored.record.hard_state = Some(HardStateRecord::from(state));
            Ok(())
        })
    }

    /// Makes everything durable that was persisted before.
    pub fn flush(&self) -> Result<(), Error> {
        self.log().sync().map_err(error::of)
    }

    fn cut(&self, stored: &mut Stored, batch: &mut LogBatch, index: u64) {
        let there = &mut stored.entries;
        let index = index.max(there.start);
        batch.remove(self.region, index..there.end);
        there.end = there.end.min(index);
    }

    fn append(
        &self,
        stored: &mut Stored,
        batch: &mut LogBatch,
        entries: Vec<Entry>,
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let (first, last) = (first.index, last.index);
        check_order(&entries, stored)?;
        let there = stored.entries.clone();
        if first < there.end && !there.is_empty() {
            // That one entry is the same makes all before it the same, by Raft's log matching.
            let index = last.min(there.end - 1);
            let term = entries[(index - first) as usize].term;
            let own = self.read(index)?.map(|own| own.term);
            if own != Some(term) {
                self.cut(stored, batch, last + 1);
            }
        }
        let start = match there.is_empty() {
            true => first,
            false => there.start,
        };
        stored.entries = start..stored.entries.end.max(last + 1);
        batch.append(self.region, entries.into_iter().map(to_raft).collect());
        Ok(())
    }

    /// Writes what `plan` puts into a batch, with the states as it leaves them, all or nothing.
    fn change(
        &self,
        durability: Durability,
        plan: impl FnOnce(&mut Stored, &mut LogBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _writer = self.lock();
        let before = self.stored();
        let (mut after, mut batch) = (before.clone(), LogBatch::new());
        plan(&mut after, &mut batch)?;
        after.record.first_index = after.entries.start;
        if batch.is_empty() && after == before {
            return Ok(());
        }
        batch.state(self.region, after.local_state());
        if after.record != before.record {
            let mut entry = eraftpb::Entry::default();
            (entry.index, entry.term) = (RECORD_INDEX, 1);
            entry.data = after.record.encode_to_vec().into();
            batch.append(self.record_region(), vec![entry]);
        }
        self.log().write(&batch, durability).map_err(error::of)?;
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(())
    }

    fn log(&self) -> &dyn RaftLogStorage {
        &**self.node.log()
    }

    fn durability(&self) -> Durability {
        match self.persistence {
            Persistence::DiskFirst => Durability::Synced,
            Persistence::MemFirst => Durability::Buffered,
        }
    }

    fn record_region(&self) -> RegionId {
        RegionId(self.region.0 | RECORD_REGION_BIT)
    }

    // What is behind either lock is whole whenever nobody is inside, also after a panic.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self) -> Stored {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        stored.clone()
    }
}

impl fmt::Debug for RaftState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stored { entries, record } = self.stored();
        f.debug_struct("RaftState")
            .field("region", &self.region)
            .field("persistence", &self.persistence)
            .field("entries", &entries)
            .field("purged", &record.purged)
            .field("hard_state", &record.hard_state)
            .finish_non_exhaustive()
    }
}

/// Whether the entries follow one another, and the log.
fn check_order(entries: &[Entry], stored: &Stored) -> Result<(), Error> {
    let first = entries[0].index;
    for (entry, expected) in entries.iter().zip(first..) {
        if entry.index != expected {
            let got = format!("entry {}", entry.index);
            return Err(error::log(got, format!("entry {expected}")));
        }
    }
    let there = &stored.entries;
    let begins_anywhere = there.is_empty() && stored.record.purged.is_none();
    let (fits, expected) = match begins_anywhere {
        true => (first > 0, "entries from 1 or later".into()),
        false => (
            (there.start..=there.end).contains(&first),
            format!(
                "a first entry of {} to {}: what is before was purged, what is behind leaves a gap",
                there.start, there.end
            ),
        ),
    };
    match fits {
        true => Ok(()),
        false => Err(error::log(format!("entries from {first} on"), expected)),
    }
}
