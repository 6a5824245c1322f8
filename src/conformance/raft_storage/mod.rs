//! The suite of [`raft::Storage`]. Uses: raft. Never knows an implementation.
//!
//! It holds a storage to what the documentation of the trait says and to what raft-rs does with the
//! answers. raft's own `MemStorage` fails some of it: after a compaction it forgets the term at the
//! cut, and when everything was compacted it sends the first index back to 1.
//!
//! ```
//! use peerstore::conformance::raft_storage::{StorageUnderTest, cases};
//! use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
//! use raft::storage::MemStorage;
//!
//! #[derive(Default)]
//! struct Mine(MemStorage);
//!
//! impl StorageUnderTest for Mine {
//!     type Storage = MemStorage;
//!     fn storage(&self) -> &MemStorage {
//!         &self.0
//!     }
//!     fn append(&mut self, entries: &[Entry]) -> raft::Result<()> {
//!         self.0.wl().append(entries)
//!     }
//!     fn set_hard_state(&mut self, state: &HardState) -> raft::Result<()> {
//!         Ok(self.0.wl().set_hardstate(state.clone()))
//!     }
//!     fn set_conf_state(&mut self, state: &ConfState) -> raft::Result<()> {
//!         Ok(self.0.wl().set_conf_state(state.clone()))
//!     }
//!     fn compact(&mut self, first_index: u64) -> raft::Result<()> {
//!         self.0.wl().compact(first_index)
//!     }
//!     fn install_snapshot(&mut self, snapshot: Snapshot) -> raft::Result<()> {
//!         self.0.wl().apply_snapshot(snapshot)
//!     }
//!     fn advance_applied(&mut self, _: u64) -> raft::Result<()> {
//!         Ok(())
//!     }
//!     fn snapshot_now(&mut self, request_index: u64) -> raft::Result<Snapshot> {
//!         raft::Storage::snapshot(&self.0, request_index, 2)
//!     }
//! }
//!
//! let by_name = |wanted: &str| cases::<Mine>().into_iter().find(|case| case.name() == wanted);
//! let terms = by_name("the_term_of_every_entry_is_known").unwrap();
//! assert!(terms.run(&mut Mine::default()).is_ok());
//! let cut = by_name("the_term_at_the_cut_stays_known").unwrap();
//! assert!(cut.run(&mut Mine::default()).is_err());
//! ```

mod compacting;
mod driving;
mod entries;
mod group;
mod reopening;
mod snapshots;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, Storage, StorageError};

use super::samples::{convert, entries as samples, full_entry};
use super::{Case, Failure, report};

/// A storage and how it is written to by hand. The suite makes one anew for every case: the storage
/// of a peer with id 1 that knows nothing yet, with first index 1 and last index 0.
///
/// What a method wrote is durable when it returns, and can be read at once. A method that answers an
/// error has changed nothing.
pub trait StorageUnderTest {
    /// What raft would be given.
    type Storage: Storage;

    /// The storage.
    fn storage(&self) -> &Self::Storage;

    /// Appends entries and removes those that they overwrite, with all that lie behind them.
    ///
    /// # Errors
    /// `Compacted` below the first index, `Unavailable` if a gap would be left before them.
    fn append(&mut self, entries: &[Entry]) -> raft::Result<()>;

    /// Puts term, vote and commit.
    ///
    /// # Errors
    /// Those of the storage, as below.
    fn set_hard_state(&mut self, state: &HardState) -> raft::Result<()>;

    /// Puts the configuration.
    ///
    /// # Errors
    /// Those of the storage.
    fn set_conf_state(&mut self, state: &ConfState) -> raft::Result<()>;

    /// Drops the entries below `first_index`, which is at most one behind the last.
    ///
    /// # Errors
    /// Those of the storage.
    fn compact(&mut self, first_index: u64) -> raft::Result<()>;

    /// Replaces the whole log by `snapshot`, and the configuration by the one in it.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` if its index is below the first index.
    fn install_snapshot(&mut self, snapshot: Snapshot) -> raft::Result<()>;

    /// Says that the state machine is at `index`.
    ///
    /// # Errors
    /// Those of the storage.
    fn advance_applied(&mut self, index: u64) -> raft::Result<()>;

    /// Asks for a snapshot as raft does and waits until it is answered.
    ///
    /// # Errors
    /// Those of the storage.
    fn snapshot_now(&mut self, request_index: u64) -> raft::Result<Snapshot>;

    /// The data of a snapshot that the suite makes up; empty unless the storage needs it otherwise.
    fn snapshot_data(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Waits until what an `entries` answered with `LogTemporarilyUnavailable` has been fetched.
    fn fetch(&mut self) {}

    /// Closes the storage and opens what it left. False if it cannot be opened again; cases that
    /// need it are skipped then.
    ///
    /// # Errors
    /// Those of opening, which fail the case.
    fn reopen(&mut self) -> raft::Result<bool> {
        Ok(false)
    }

    /// A new, empty storage for peer `id` of the same group, as on another node. None, the default,
    /// skips the cases in which several nodes agree.
    ///
    /// # Errors
    /// Those of the storage.
    fn another(&mut self, _id: u64) -> raft::Result<Option<Self>>
    where
        Self: Sized,
    {
        Ok(None)
    }

    /// Brings over what `snapshot`, which `from` has made, only names: its file. It is installed next.
    ///
    /// # Errors
    /// Those of the storage.
    fn transfer(&mut self, _from: &Self, _snapshot: &Snapshot) -> raft::Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// Every case, to be run one by one.
pub fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    [
        entries::cases(),
        compacting::cases(),
        snapshots::cases(),
        reopening::cases(),
        driving::cases(),
        group::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs every case over a storage of its own and returns those that failed.
pub fn check<U: StorageUnderTest + 'static>(mut new: impl FnMut() -> U) -> Vec<Failure> {
    let run = |case: &Case<U>| case.run(&mut new()).err();
    cases().iter().filter_map(run).collect()
}

/// Runs every case over a storage of its own.
///
/// # Panics
/// At the end, if a case failed; the message names all that did.
pub fn run<U: StorageUnderTest + 'static>(new: impl FnMut() -> U) {
    report("raft_storage", &check(new));
}

/// What raft can see of a storage. Two that are equal before and after a call show that it changed
/// nothing.
#[derive(Debug, PartialEq)]
struct Seen {
    hard_state: HardState,
    conf_state: ConfState,
    first_index: u64,
    last_index: u64,
    cut_term: u64,
    entries: Vec<Entry>,
}

fn seen<U: StorageUnderTest>(u: &U) -> Seen {
    let state = u.storage().initial_state().expect("initial_state");
    let (first_index, last_index) = bounds(u);
    Seen {
        hard_state: state.hard_state,
        conf_state: state.conf_state,
        first_index,
        last_index,
        cut_term: term(u, first_index - 1),
        entries: all(u),
    }
}

/// The first and the last index.
fn bounds<U: StorageUnderTest>(u: &U) -> (u64, u64) {
    let first = u.storage().first_index().expect("first_index");
    (first, u.storage().last_index().expect("last_index"))
}

fn try_term<U: StorageUnderTest>(u: &U, index: u64) -> raft::Result<u64> {
    u.storage().term(index)
}

fn term<U: StorageUnderTest>(u: &U, index: u64) -> u64 {
    let term = try_term(u, index);
    term.unwrap_or_else(|e| panic!("term({index}): {e}"))
}

/// Reads in a context that must be answered at once.
fn try_entries<U: StorageUnderTest>(
    u: &U,
    low: u64,
    high: u64,
    max_size: Option<u64>,
) -> raft::Result<Vec<Entry>> {
    let context = GetEntriesContext::empty(false);
    u.storage().entries(low, high, max_size, context)
}

fn read<U: StorageUnderTest>(u: &U, low: u64, high: u64) -> Vec<Entry> {
    let entries = try_entries(u, low, high, None);
    entries.unwrap_or_else(|e| panic!("entries({low}, {high}): {e}"))
}

/// Every entry that is there.
fn all<U: StorageUnderTest>(u: &U) -> Vec<Entry> {
    match bounds(u) {
        (first, last) if last >= first => read(u, first, last + 1),
        _ => Vec::new(),
    }
}

/// That the log is exactly `want`, however it is asked.
fn expect_log<U: StorageUnderTest>(u: &U, want: &[Entry]) {
    let (first, last) = (want[0].index, want[want.len() - 1].index);
    assert_eq!(bounds(u), (first, last), "first and last index");
    assert_eq!(all(u), want);
    for entry in want {
        assert_eq!(term(u, entry.index), entry.term, "term({})", entry.index);
        let one = read(u, entry.index, entry.index + 1);
        assert_eq!(one, std::slice::from_ref(entry));
    }
    assert_unavailable(try_term(u, last + 1));
}

fn assert_compacted<T: std::fmt::Debug>(got: raft::Result<T>) {
    let right = matches!(got, Err(Error::Store(StorageError::Compacted)));
    assert!(right, "got {got:?}, expected Compacted");
}

fn assert_unavailable<T: std::fmt::Debug>(got: raft::Result<T>) {
    let right = matches!(got, Err(Error::Store(StorageError::Unavailable)));
    assert!(right, "got {got:?}, expected Unavailable");
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

fn voters(ids: &[u64]) -> ConfState {
    ConfState {
        voters: ids.to_vec(),
        ..ConfState::default()
    }
}

/// A configuration in which no field has its default.
fn joint() -> ConfState {
    let mut state = voters(&[1, 2, 3]);
    state.voters_outgoing = vec![1, 2, 4];
    state.learners = vec![5, 6];
    state.learners_next = vec![4];
    state.auto_leave = true;
    state
}

fn snapshot_of<U: StorageUnderTest>(u: &U, index: u64, term: u64, conf: ConfState) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.data = convert(u.snapshot_data());
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(conf);
    snapshot
}

/// Writes the log [1, last], of which everything is committed and applied.
fn fill<U: StorageUnderTest>(u: &mut U, last: u64, term: u64) {
    u.set_conf_state(&voters(&[1])).expect("set_conf_state");
    u.append(&samples(1..last + 1, term)).expect("append");
    let state = hard_state(term, 1, last);
    u.set_hard_state(&state).expect("set_hard_state");
    u.advance_applied(last).expect("advance_applied");
}

fn initial<U: StorageUnderTest>(u: &U) -> (HardState, ConfState) {
    let state = u.storage().initial_state().expect("initial_state");
    (state.hard_state, state.conf_state)
}
