//! What a log says of itself, and what of that is on disk.

use openraft::CommittedLeaderId;
use prost::Message as _;

use super::*;
use crate::memory::MemoryLog;
use crate::openraft::wire::{decode_entry, encode_entry};
use crate::raft_log::RaftLogStorage;
use crate::types::Durability;

const REGION: RegionId = RegionId(7);

fn log_id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 300), index)
}

/// A book with the store that its batches go to.
struct Desk {
    book: Book,
    store: MemoryLog,
}

impl Desk {
    fn new() -> Self {
        let store = MemoryLog::new();
        let book = open(&store).expect("an empty log opens");
        Desk { book, store }
    }

    fn write(&self, batch: &LogBatch) {
        let written = self.store.write(batch, batch.durability());
        written.expect("memory takes everything");
    }

    /// Appends the entries of `[start, end)` and says what that came to.
    fn append(&mut self, term: u64, start: u64, end: u64) -> Append {
        let entries = (start..end).map(|index| crate::openraft::Entry {
            log_id: log_id(term, index),
            payload: openraft::EntryPayload::Blank,
        });
        let mut entries: Vec<RaftEntry> = entries.map(|entry| encode_entry(&entry)).collect();
        let appended = self.book.append(&mut entries, log_id(term, end - 1));
        let appended = appended.expect("the entries may come here");
        if let Append::Write(batch) = &appended {
            self.write(batch);
        }
        appended
    }

    fn truncate(&mut self, since: u64, last: Option<LogId<u64>>) {
        let batch = self.book.truncate(since, last);
        self.write(&batch);
    }

    fn carry_out_purge(&mut self) {
        let batch = self.book.carry_out_purge();
        self.write(&batch);
    }

    /// What a restart finds: purged, the range, the last.
    #[track_caller]
    fn assert_reopens(&self, purged: Option<u64>, range: std::ops::Range<u64>) {
        let book = open(&self.store).expect("what was written opens");
        assert_eq!(book.purged().map(|id| id.index), purged, "purged");
        assert_eq!(book.range(), range);
        let last = if range.is_empty() {
            purged
        } else {
            Some(range.end - 1)
        };
        assert_eq!(book.last().map(|id| id.index), last, "last");
        assert_eq!(book.vote(), self.book.vote());
    }
}

fn open(store: &MemoryLog) -> Result<Book> {
    let meta = store.read_entry(meta_region(REGION), META_INDEX)?;
    let meta = meta.map(|entry| LogMeta::decode(&entry.data[..]).expect("a whole message"));
    let state = store.read_state(REGION)?;
    let last_of = |index| {
        let entry = store.read_entry(REGION, index)?;
        let entry = entry
            .map(|entry| decode_entry(REGION, &entry))
            .transpose()?;
        Ok(entry.map(|entry| entry.log_id))
    };
    Book::open(REGION, meta.unwrap_or_default(), state.as_ref(), &last_of)
}

#[test]
fn a_log_with_the_entry_0_is_not_an_empty_one() {
    let mut desk = Desk::new();
    desk.assert_reopens(None, 0..0);
    desk.append(1, 0, 1);
    desk.assert_reopens(None, 0..1);
    desk.truncate(0, None);
    desk.assert_reopens(None, 0..0);
    desk.append(1, 0, 3);
    desk.truncate(1, Some(log_id(1, 0)));
    desk.assert_reopens(None, 0..1);
}

#[test]
fn vote_and_purged_come_back_with_their_nodes() {
    let mut desk = Desk::new();
    let batch = desk.book.save_vote(Vote::new_committed(4, 9));
    assert_eq!(batch.durability(), Durability::Synced);
    desk.write(&batch);
    desk.append(4, 0, 5);
    let batch = desk.book.save_committed(Some(log_id(4, 2)));
    assert_eq!(batch.durability(), Durability::Buffered);
    desk.write(&batch);
    desk.book.purge(log_id(4, 1));
    desk.carry_out_purge();
    desk.assert_reopens(Some(1), 2..5);
    let book = open(&desk.store).expect("what was written opens");
    assert_eq!(book.vote(), Some(Vote::new_committed(4, 9)));
    assert_eq!(book.purged(), Some(log_id(4, 1)));
    assert_eq!(book.committed(), Some(log_id(4, 2)));
    assert_eq!(book.last(), Some(log_id(4, 4)));
    // For those who look at the log of any region.
    let state = desk
        .store
        .read_state(REGION)
        .expect("memory reads")
        .expect("a state");
    assert_eq!((state.hard_state.term, state.hard_state.vote), (4, 9));
    assert_eq!((state.hard_state.commit, state.last_index), (2, 4));
}

#[test]
fn a_purge_that_waits_is_seen_and_not_written() {
    let mut desk = Desk::new();
    desk.append(1, 0, 5);
    desk.book.purge(log_id(1, 2));
    assert_eq!((desk.book.range(), desk.book.waiting()), (3..5, Some(2)));
    let batch = desk.book.save_vote(Vote::new(2, 1));
    desk.write(&batch);
    desk.assert_reopens(None, 0..5);
    desk.append(2, 5, 6);
    desk.truncate(5, Some(log_id(1, 4)));
    desk.assert_reopens(None, 0..5);
    desk.carry_out_purge();
    assert_eq!(desk.book.waiting(), None);
    desk.assert_reopens(Some(2), 3..5);
    assert!(
        desk.book.carry_out_purge().is_empty(),
        "there is nothing more to do"
    );
}

#[test]
fn what_lies_behind_a_purge_that_waits_makes_no_hole() {
    let mut desk = Desk::new();
    desk.append(1, 0, 3);
    // A snapshot up to 9 is being installed.
    desk.book.purge(log_id(2, 9));
    assert_eq!(
        (desk.book.range(), desk.book.last()),
        (10..10, Some(log_id(2, 9)))
    );
    assert_eq!(desk.append(2, 10, 12), Append::Wait(9));
    desk.assert_reopens(None, 0..3);
    desk.carry_out_purge();
    desk.assert_reopens(Some(9), 10..10);
    assert!(matches!(desk.append(2, 10, 12), Append::Write(_)));
    desk.assert_reopens(Some(9), 10..12);
}

#[test]
fn an_append_replaces_the_tail_and_leaves_out_what_is_purged() {
    let mut desk = Desk::new();
    desk.append(1, 0, 9);
    desk.append(2, 4, 6);
    assert_eq!(desk.book.last(), Some(log_id(2, 5)));
    desk.assert_reopens(None, 0..6);
    desk.book.purge(log_id(2, 5));
    desk.carry_out_purge();
    assert_eq!(desk.append(2, 3, 6), Append::Nothing);
    assert!(matches!(desk.append(2, 4, 8), Append::Write(_)));
    desk.assert_reopens(Some(5), 6..8);
}

#[test]
fn a_hole_is_refused_and_changes_nothing() {
    let mut desk = Desk::new();
    desk.append(1, 0, 3);
    let mut entries = vec![RaftEntry::default()];
    entries[0].index = 4;
    let error = desk.book.append(&mut entries, log_id(1, 4)).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(desk.book.range(), 0..3);
}

#[test]
fn a_commit_beyond_what_is_left_is_what_is_left() {
    let mut desk = Desk::new();
    desk.append(1, 0, 3);
    let batch = desk.book.save_committed(Some(log_id(1, 7)));
    desk.write(&batch);
    let book = open(&desk.store).expect("it opens");
    assert_eq!(book.committed(), Some(log_id(1, 2)));
}

#[test]
fn an_entry_that_is_lost_is_found_out_at_open() {
    for lost in [0, 2] {
        let mut desk = Desk::new();
        desk.append(1, 0, 3);
        let mut batch = LogBatch::new();
        batch.remove(REGION, lost..lost + 1);
        desk.write(&batch);
        let error = open(&desk.store).unwrap_err().to_string();
        let expected = format!("entry {lost} is corrupt: it is missing from a log");
        assert!(error.contains(&expected), "{error}");
    }
}
