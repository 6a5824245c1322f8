//! openraft's log on our log store. Uses: book, gate, writer, entry_cache, raft_log.
//!
//! Nothing here waits for the disk on openraft's threads: writes go to the writer's thread, reads that the
//! cache cannot answer to a thread for blocking work.

use std::any::Any;
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage as OpenraftLog};
use openraft::{LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};
use raft::eraftpb::Entry as RaftEntry;

use super::book::{Append, Book, META_INDEX};
use super::failure::{any, blocking};
use super::gate::Gate;
use super::wire::{LogMeta, decode_entry, encode_entry};
use super::writer::{Done, Task, Writer};
use super::{Entry, TypeConfig, meta_region};
use crate::entry_cache::{CacheBudget, EntryCache};
use crate::error::Result;
use crate::proto::decode;
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::ticket::Ticket;
use crate::types::RegionId;

/// A read that may be cut ends with the entry that reaches this much.
const READ_BYTES: u64 = 1 << 20;

type StorageResult<T> = Result<T, StorageError<u64>>;

/// The log of one group, with its vote, on any log store of this crate.
///
/// | what | durable when |
/// |---|---|
/// | `save_vote`, `truncate` | the future resolves |
/// | `append` | its callback is called; the entries can be read before |
/// | `purge` | the state machine has durably come that far; it is seen at once |
/// | `save_committed` | the next of those above is |
///
/// It comes from [`Groups::open`](super::Groups::open), or for a state machine of your own from
/// [`Groups::open_log`](super::Groups::open_log). After an error the store below takes no more writes
/// until it is opened again.
pub struct LogStore {
    core: Arc<LogCore>,
}

/// Reads the log of a group; there may be any number of them beside the [`LogStore`].
#[derive(Clone)]
pub struct LogReader {
    core: Arc<LogCore>,
}

/// What a log and its readers share.
pub(super) struct LogCore {
    log: Arc<dyn RaftLogStorage>,
    region: RegionId,
    shared: Arc<Shared>,
    writer: Arc<Writer>,
    // None if the state machine is not ours: a purge is carried out at once then.
    gate: Option<Arc<Gate>>,
    // The node and the ownership of the region, dropped last.
    _owner: Arc<dyn Any + Send + Sync>,
}

/// What the writer's thread needs too; it must not have a share in its own thread.
struct Shared {
    book: Mutex<Book>,
    // Changed under the lock of the book, so that both tell of the same entries.
    cache: EntryCache,
}

/// Where the next entries of a read come from.
enum Next {
    /// The cache had them.
    Cached(Vec<RaftEntry>),
    /// The log store has them.
    Cold(Range<u64>),
    /// Entries went while the read was under way: it begins again.
    Changed,
}

/// What a log is opened from.
pub(super) struct LogParts {
    pub log: Arc<dyn RaftLogStorage>,
    pub region: RegionId,
    pub writer: Arc<Writer>,
    pub cache: Arc<CacheBudget>,
    pub gate: Option<Arc<Gate>>,
    pub owner: Arc<dyn Any + Send + Sync>,
}

impl LogStore {
    /// Finds the log that `parts` name, or an empty one. Reads; writes nothing.
    ///
    /// # Errors
    /// `Corruption` if it is not one of openraft's, else those of the store's reads.
    pub(super) fn open(parts: LogParts) -> Result<LogStore> {
        let LogParts { log, region, .. } = &parts;
        let region = *region;
        let meta = match log.read_entry(meta_region(region), META_INDEX)? {
            Some(entry) => decode(region, "openraft's log state", &entry.data)?,
            None => LogMeta::default(),
        };
        let state = log.read_state(region)?;
        let last_of = |index| {
            let entry = log.read_entry(region, index)?;
            let entry = entry
                .map(|entry| decode_entry(region, &entry))
                .transpose()?;
            Ok(entry.map(|entry| entry.log_id))
        };
        let book = Book::open(region, meta, state.as_ref(), &last_of)?;
        let core = Arc::new(LogCore {
            log: parts.log,
            region,
            shared: Arc::new(Shared {
                book: Mutex::new(book),
                cache: EntryCache::new(parts.cache),
            }),
            writer: parts.writer,
            gate: parts.gate,
            _owner: parts.owner,
        });
        if let Some(gate) = &core.gate {
            gate.serve(&core);
        }
        Ok(LogStore { core })
    }

    /// The id of the group.
    pub fn region_id(&self) -> RegionId {
        self.core.region
    }

    /// Whether this node has ever voted, or followed a leader.
    pub(super) fn has_vote(&self) -> bool {
        self.core.shared.book().vote().is_some()
    }

    /// The last entry that is purged, as openraft sees it.
    pub(super) fn purged(&self) -> Option<LogId<u64>> {
        self.core.shared.book().purged()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change of the book ends before anything that can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogCore {
    /// Hands `batch` to the writer, and answers when it is written. Called under the lock of the book, so
    /// that batches are written in the order in which they were made.
    fn submit(&self, batch: LogBatch) -> Ticket<()> {
        let (ticket, completer) = Ticket::new();
        let done: Done = Box::new(|result| completer.answer(result));
        self.writer.submit(Task { batch, done });
        ticket
    }

    /// Carries out the purge that waits, if the state machine has durably applied the entries below
    /// `durable`.
    pub fn carry_out_purge(&self, durable: u64) {
        let mut book = self.shared.book();
        if book.waiting().is_some_and(|upto| upto < durable) {
            let batch = book.carry_out_purge();
            // A failure poisons the writer, which the next write is told.
            drop(self.submit(batch));
        }
    }

    async fn append(&self, entries: Vec<Entry>, done: Done) -> Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            done(Ok(()));
            return Ok(());
        };
        let mut encoded: Vec<RaftEntry> = entries.iter().map(encode_entry).collect();
        let mut done = Some(done);
        loop {
            let upto = match self.try_append(&mut encoded, last, &mut done)? {
                None => return Ok(()),
                Some(upto) => upto,
            };
            if let Some(gate) = &self.gate {
                gate.wait_for(upto).await?;
            }
        }
    }

    /// Hands the entries in, unless a purge has to be carried out before: then the index up to which.
    fn try_append(
        &self,
        entries: &mut Vec<RaftEntry>,
        last: LogId<u64>,
        done: &mut Option<Done>,
    ) -> Result<Option<u64>> {
        let mut book = self.shared.book();
        let batch = match book.append(entries, last)? {
            Append::Wait(upto) => return Ok(Some(upto)),
            Append::Write(batch) => batch,
            Append::Nothing => LogBatch::new(),
        };
        let Some(done) = done.take() else {
            return Ok(None);
        };
        let (shared, cuts) = (Arc::clone(&self.shared), book.cuts());
        let persisted = entries.last().map(|entry| entry.index);
        self.shared.cache.append(std::mem::take(entries));
        let done: Done = Box::new(move |result| {
            if let Some(index) = persisted.filter(|_| result.is_ok()) {
                let book = shared.book();
                // Others may lie at these indexes now, which are not written yet.
                if book.cuts() == cuts {
                    shared.cache.set_persisted(index);
                }
            }
            done(result);
        });
        self.writer.submit(Task { batch, done });
        Ok(None)
    }

    async fn truncate(&self, since: u64) -> Result<()> {
        let before = since.checked_sub(1);
        let last = match before {
            Some(before) => self.read(before..since, u64::MAX).await?.pop(),
            None => None,
        };
        let ticket = {
            let mut book = self.shared.book();
            let last = last.map(|entry| entry.log_id);
            let batch = book.truncate(since, last);
            self.shared.cache.truncate_from(since);
            self.submit(batch)
        };
        ticket.await
    }

    async fn purge(self: &Arc<Self>, upto: LogId<u64>) -> Result<()> {
        let is_free = match self.gate.clone() {
            Some(gate) => blocking(move || gate.is_past(upto.index)).await?,
            None => true,
        };
        let ticket = {
            let mut book = self.shared.book();
            book.purge(upto);
            match book.range().is_empty() {
                true => self.shared.cache.clear(),
                false => self.shared.cache.compact_to(book.range().start),
            }
            // It may have come that far while this purge was not waiting yet.
            let is_free = is_free || self.gate.as_ref().is_some_and(|g| g.durable() > upto.index);
            (is_free && book.waiting().is_some()).then(|| self.submit(book.carry_out_purge()))
        };
        match ticket {
            Some(ticket) => ticket.await,
            None => Ok(()),
        }
    }

    /// The entries of `range` that are there, in order: about as many as fit in `bytes_max`, at least one.
    async fn read(&self, range: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        'again: loop {
            let (mut at, end, rewrites) = {
                let book = self.shared.book();
                let seen = book.range();
                let (low, high) = (range.start.max(seen.start), range.end.min(seen.end));
                (low, high, book.rewrites())
            };
            let mut found: Vec<RaftEntry> = Vec::new();
            let mut bytes = 0;
            while at < end && (bytes < bytes_max || found.is_empty()) {
                let left = bytes_max.saturating_sub(bytes);
                let (entries, wanted) = match self.next(at..end, rewrites, left) {
                    Next::Changed => continue 'again,
                    Next::Cached(entries) => (entries, end),
                    Next::Cold(range) => {
                        let (log, region, wanted) = (self.log.clone(), self.region, range.end);
                        let read = blocking(move || log.read_entries(region, range, left)).await;
                        // What was read, or missing, may have gone meanwhile.
                        if self.shared.book().rewrites() != rewrites {
                            continue 'again;
                        }
                        (read?, wanted)
                    }
                };
                at += entries.len() as u64;
                bytes += entries.iter().map(size_of_entry).sum::<u64>();
                found.extend(entries);
                if at < wanted {
                    break; // it was cut
                }
            }
            let decoded = found.iter().map(|entry| decode_entry(self.region, entry));
            return decoded.collect();
        }
    }

    /// What a read of `range`, which is not empty, goes on with.
    fn next(&self, range: Range<u64>, rewrites: u64, bytes_max: u64) -> Next {
        let book = self.shared.book();
        if book.rewrites() != rewrites {
            return Next::Changed;
        }
        let cache = &self.shared.cache;
        if let Some(entries) = cache.entries(range.start, range.end, bytes_max) {
            return Next::Cached(entries);
        }
        let end = cache.first_index().unwrap_or(range.end).min(range.end);
        Next::Cold(range.start..end)
    }
}

fn size_of_entry(entry: &RaftEntry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64
}

/// The half-open range of a range of any kind.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> StorageResult<Vec<Entry>> {
        let read = self.core.read(half_open(&range), u64::MAX).await;
        read.map_err(|e| StorageIOError::read_logs(any(&e)).into())
    }

    /// The first of the entries of `[start, end)`: those that fit in about 1 MiB, at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> StorageResult<Vec<Entry>> {
        let read = self.core.read(start..end, READ_BYTES).await;
        read.map_err(|e| StorageIOError::read_logs(any(&e)).into())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> StorageResult<Vec<Entry>> {
        self.get_log_reader().await.try_get_log_entries(range).await
    }

    /// As the reader's.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> StorageResult<Vec<Entry>> {
        let mut reader = self.get_log_reader().await;
        reader.limited_get_log_entries(start, end).await
    }
}

impl OpenraftLog<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> StorageResult<LogState<TypeConfig>> {
        let book = self.core.shared.book();
        Ok(LogState {
            last_purged_log_id: book.purged(),
            last_log_id: book.last(),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            core: Arc::clone(&self.core),
        }
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> StorageResult<()> {
        let ticket = {
            let mut book = self.core.shared.book();
            let batch = book.save_vote(*vote);
            self.core.submit(batch)
        };
        let written = ticket.await;
        written.map_err(|e| StorageIOError::write_vote(any(&e)).into())
    }

    async fn read_vote(&mut self) -> StorageResult<Option<Vote<u64>>> {
        Ok(self.core.shared.book().vote())
    }

    /// Does not wait: what it says can be found again from the leader, and a failure is told by the next
    /// write.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> StorageResult<()> {
        let mut book = self.core.shared.book();
        let batch = book.save_committed(committed);
        drop(self.core.submit(batch));
        Ok(())
    }

    async fn read_committed(&mut self) -> StorageResult<Option<LogId<u64>>> {
        Ok(self.core.shared.book().committed())
    }

    /// Returns when the entries can be read. `callback` is called on the writer's thread, when they are
    /// durable or could not be made so.
    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> StorageResult<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let done: Done = Box::new(|result: Result<()>| {
            callback.log_io_completed(result.map_err(std::io::Error::from));
        });
        let handed_in = self.core.append(entries, done).await;
        handed_in.map_err(|e| StorageIOError::write_logs(any(&e)).into())
    }

    /// Removes the entries from `log_id` on, that one too.
    async fn truncate(&mut self, log_id: LogId<u64>) -> StorageResult<()> {
        let done = self.core.truncate(log_id.index).await;
        done.map_err(|e| StorageIOError::write_logs(any(&e)).into())
    }

    /// Removes the entries up to `log_id`, that one too. They are gone for every reader at once; on disk
    /// they go when the state machine does not need them any more, whatever happens.
    async fn purge(&mut self, log_id: LogId<u64>) -> StorageResult<()> {
        let done = self.core.purge(log_id).await;
        done.map_err(|e| StorageIOError::write_logs(any(&e)).into())
    }
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.core.shared.book();
        f.debug_struct("LogStore").field("book", &*book).finish()
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.core.region;
        f.debug_struct("LogReader")
            .field("region", &region)
            .finish()
    }
}
