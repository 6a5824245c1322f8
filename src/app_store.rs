//! The seam under which a node keeps its data and the apply states beside it. Uses: types, error.

use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::index::IndexQuery;
use crate::scan::{Moment, Page, Scan};
use crate::types::{Durability, KeyRange, RegionId};

/// A part of the application store with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keyspace {
    /// The application's keys and values.
    Data,
    /// Its secondary indexes: under the first key of a region, which of them it has, as the record that
    /// [`ApplyBatch::declare_index`](crate::ApplyBatch::declare_index) makes; else as it likes.
    Index,
    /// Its values that expire, as the records that [`ApplyBatch::put_until`](crate::ApplyBatch::put_until)
    /// makes. Who writes other bytes here by hand keeps them, and cannot use what expires.
    Ttl,
    /// RaftApplyState, by region.
    ApplyState,
    /// RegionLocalState, by region.
    RegionState,
    /// The saved raft state of a snapshot that is being installed, by region.
    SnapshotState,
    /// Who the store is.
    Store,
}

impl Keyspace {
    /// All of them.
    pub const ALL: [Keyspace; 7] = [
        Keyspace::Data,
        Keyspace::Index,
        Keyspace::Ttl,
        Keyspace::ApplyState,
        Keyspace::RegionState,
        Keyspace::SnapshotState,
        Keyspace::Store,
    ];

    /// The keyspaces that belong to the application: what a snapshot holds.
    pub const APPLICATION: [Keyspace; 3] = [Keyspace::Data, Keyspace::Index, Keyspace::Ttl];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Keyspace::Data => "data",
            Keyspace::Index => "index",
            Keyspace::Ttl => "ttl",
            Keyspace::ApplyState => "apply_state",
            Keyspace::RegionState => "region_state",
            Keyspace::SnapshotState => "snapshot_state",
            Keyspace::Store => "store",
        }
    }
}

/// What a scan calls for each key and value, in the order of the keys.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Reading keys.
pub trait DataRead {
    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// Those of the store.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The values of `keys`, in their order, all as of one moment.
    ///
    /// # Errors
    /// Those of the store.
    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>>;

    /// Visits every key of the half-open `range`, ascending, as of one moment, until `visit` breaks.
    ///
    /// # Errors
    /// Those of the store, and what `visit` answers.
    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()>;

    /// The same from the last key to the first.
    ///
    /// # Errors
    /// As [`DataRead::scan`].
    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()>;

    /// The keys and values that `scan` asks for, as of one moment, with a cursor to what comes behind
    /// them. The next page is as of its own moment; a
    /// [`ReadTransaction`](crate::ReadTransaction) has all of them as of one.
    ///
    /// # Errors
    /// `CursorInvalid` if the cursor of `scan` is not of this scan, `CursorExpired` if it is of a read
    /// transaction; those of the store.
    fn page(&self, keyspace: Keyspace, scan: &Scan) -> Result<Page> {
        scan.page(self, keyspace, Moment::NOW)
    }

    /// Whether an index of this name can be made of the data: [`IndexedData`](crate::IndexedData) was
    /// opened with its extractor. Nothing else has indexes.
    fn has_extractor(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// What the index `name` finds in `range`, as of one moment.
    ///
    /// # Errors
    /// `IndexNotFound` if there is none; `IndexNotReady`; `CursorInvalid` if the cursor is not of this
    /// query; those of the store.
    fn query_index(&self, name: &str, query: &IndexQuery, range: &KeyRange) -> Result<Page> {
        let (_, _) = (query, range);
        Err(Error::IndexNotFound { name: name.into() })
    }
}

/// The data of every region of a node, and the states that move with it.
///
/// # Contract
/// - An [`AppBatch`] is written whole or not at all, also across a power cut.
/// - Batches become durable in the order of their writes: a `Synced` write makes all earlier ones
///   durable too.
/// - After a failed write or fsync every later write fails with `Poisoned`.
pub trait ApplicationDataStorage: DataRead + Send + Sync {
    /// Writes `batch`, its operations in their order, all or nothing.
    ///
    /// # Errors
    /// `DiskFull`, `Io` or `Engine` if it was refused, `Poisoned` after an earlier failure.
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()>;

    /// A view of this moment, which later writes do not change. It holds resources until dropped.
    /// [`ReadTransaction`](crate::ReadTransaction) makes a transaction of it, which reads page by page.
    ///
    /// # Errors
    /// Those of the store.
    fn view(&self) -> Result<Box<dyn DataView>>;

    /// Starts to replace the application's keyspaces in `range`. Nothing changes before
    /// [`DataImport::finish`]; dropping the import gives it up.
    ///
    /// # Errors
    /// Those of the store.
    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>>;

    /// Makes everything that was written before durable.
    ///
    /// # Errors
    /// As [`ApplicationDataStorage::write`].
    fn sync(&self) -> Result<()>;

    /// What the store has done since it was opened.
    fn stats(&self) -> AppStats;

    /// What is wrong with the store as far as it knows by itself, beside what its calls answer, if
    /// anything is: for a check of the health.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// A [`DataRead`] that is pinned to one moment and can be sent to another thread.
pub trait DataView: DataRead + Send {}

impl<T: DataRead + Send> DataView for T {}

/// Takes in the content of a snapshot.
pub trait DataImport: Send {
    /// Adds a key. Keyspaces come one after the other, keys strictly ascending in each.
    ///
    /// # Errors
    /// `InvalidArgument` if the order is broken or the key outside the range, else the store's.
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()>;

    /// Clears the range and puts what was added in its place, durable on return. After a crash the range
    /// is as it was or as the import brings it, never anything between. Views keep their moment; a read
    /// of now may find the range cleared or filled in part until this returns.
    ///
    /// # Errors
    /// Those of the store's writes. The store is to be opened again then, which finds the range as after
    /// a crash.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The order that a [`DataImport`] keeps to, for its backends.
#[derive(Debug)]
pub(crate) struct ImportOrder {
    range: KeyRange,
    // Where the last key was put, as a position in `Keyspace::APPLICATION`, and the key.
    last: Option<(usize, Vec<u8>)>,
}

impl ImportOrder {
    pub fn new(range: &KeyRange) -> Self {
        ImportOrder {
            range: range.clone(),
            last: None,
        }
    }

    /// Takes the key if it may come next; whether it is the first of its keyspace.
    ///
    /// # Errors
    /// `InvalidArgument` if not. The import is given no region, so the error names 0, which none has.
    pub fn take(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<bool> {
        let refuse = |expected: String| {
            let got = format!("{} \"{}\"", keyspace.name(), key.escape_ascii());
            Err(Error::invalid(
                RegionId(0),
                "DataImport::put",
                got,
                expected,
            ))
        };
        let Some(place) = Keyspace::APPLICATION.iter().position(|k| *k == keyspace) else {
            return refuse("the keyspace data, index or ttl".into());
        };
        if !self.range.contains(key) {
            return refuse(format!("a key in {}", self.range));
        }
        let Some((last_place, last)) = &mut self.last else {
            self.last = Some((place, key.to_vec()));
            return Ok(true);
        };
        if (place, key) <= (*last_place, last.as_slice()) {
            let (space, last) = (Keyspace::APPLICATION[*last_place], last.escape_ascii());
            return refuse(format!("a key behind {} \"{last}\"", space.name()));
        }
        let is_first = place != *last_place;
        *last_place = place;
        last.clear();
        last.extend_from_slice(key);
        Ok(is_first)
    }
}

/// What an application store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppStats {
    /// Batches written.
    pub writes: u64,
    /// fsyncs issued for them.
    pub syncs: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
}

/// One operation of an [`AppBatch`], as [`AppBatch::ops`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppOp<'a> {
    /// Puts `value` under `key`.
    Put {
        /// Where.
        keyspace: Keyspace,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes `key`; it need not exist.
    Delete {
        /// Where.
        keyspace: Keyspace,
        /// The key.
        key: &'a [u8],
    },
    /// Removes every key of `[start, end)`; an empty `end` means no bound.
    DeleteRange {
        /// Where.
        keyspace: Keyspace,
        /// The first key removed.
        start: &'a [u8],
        /// The first key kept.
        end: &'a [u8],
    },
}

impl AppOp<'_> {
    /// Where it writes.
    pub fn keyspace(&self) -> Keyspace {
        match self {
            AppOp::Put { keyspace, .. }
            | AppOp::Delete { keyspace, .. }
            | AppOp::DeleteRange { keyspace, .. } => *keyspace,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum OpKind {
    Put,
    Delete,
    DeleteRange,
}

/// An operation as it lies in the buffer: its first and second part, one after the other.
#[derive(Clone, Copy, Debug)]
struct Slot {
    kind: OpKind,
    keyspace: Keyspace,
    start: usize,
    middle: usize,
    end: usize,
}

/// A place in an [`AppBatch`] to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchMark {
    operations: usize,
    bytes: usize,
}

impl BatchMark {
    /// How many operations the batch had.
    pub fn operations(self) -> usize {
        self.operations
    }
}

/// Writes that happen together: all of them or none, in their order.
///
/// ```
/// use peerstore::{AppBatch, Keyspace};
/// let mut batch = AppBatch::default();
/// batch.put(Keyspace::Data, "key", "value");
/// batch.delete(Keyspace::Data, b"old");
/// assert_eq!(batch.ops().count(), 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct AppBatch {
    slots: Vec<Slot>,
    // Keys and values, one behind the other: one allocation however many operations.
    buffer: Vec<u8>,
}

impl AppBatch {
    /// An empty batch.
    pub fn new() -> Self {
        AppBatch::default()
    }

    /// Puts `value` under `key`.
    pub fn put(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(OpKind::Put, keyspace, key.as_ref(), value.as_ref());
    }

    /// Removes `key`; it need not exist.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>) {
        self.push(OpKind::Delete, keyspace, key.as_ref(), &[]);
    }

    /// Removes every key of the half-open `range`. An empty range does nothing.
    pub fn delete_range(&mut self, keyspace: Keyspace, range: &KeyRange) {
        if !range.is_empty() {
            self.push(OpKind::DeleteRange, keyspace, &range.start, &range.end);
        }
    }

    /// Takes memory for so many more operations with so many bytes of keys and values, at once.
    pub fn reserve(&mut self, operations: usize, bytes: usize) {
        self.slots.reserve(operations);
        self.buffer.reserve(bytes);
    }

    fn push(&mut self, kind: OpKind, keyspace: Keyspace, first: &[u8], second: &[u8]) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(first);
        let middle = self.buffer.len();
        self.buffer.extend_from_slice(second);
        let end = self.buffer.len();
        self.slots.push(Slot {
            kind,
            keyspace,
            start,
            middle,
            end,
        });
    }

    /// Adds the operations of `other` behind its own.
    ///
    /// ```
    /// use peerstore::{AppBatch, Keyspace};
    /// let (mut all, mut one) = (AppBatch::new(), AppBatch::new());
    /// all.put(Keyspace::Data, "a", "1");
    /// one.put(Keyspace::Data, "b", "2");
    /// all.append(&one);
    /// assert_eq!((all.len(), one.len()), (2, 1));
    /// ```
    pub fn append(&mut self, other: &AppBatch) {
        let shift = self.buffer.len();
        self.buffer.extend_from_slice(&other.buffer);
        self.slots.extend(other.slots.iter().map(|slot| Slot {
            start: slot.start + shift,
            middle: slot.middle + shift,
            end: slot.end + shift,
            ..*slot
        }));
    }

    /// The operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = AppOp<'_>> {
        self.slots.iter().map(|slot| self.op_of(slot))
    }

    /// The operation at `place`, which counts from 0. Panics if there is none.
    pub(crate) fn op(&self, place: usize) -> AppOp<'_> {
        self.op_of(&self.slots[place])
    }

    fn op_of(&self, slot: &Slot) -> AppOp<'_> {
        let keyspace = slot.keyspace;
        let first = &self.buffer[slot.start..slot.middle];
        let second = &self.buffer[slot.middle..slot.end];
        match slot.kind {
            OpKind::Put => AppOp::Put {
                keyspace,
                key: first,
                value: second,
            },
            OpKind::Delete => AppOp::Delete {
                keyspace,
                key: first,
            },
            OpKind::DeleteRange => AppOp::DeleteRange {
                keyspace,
                start: first,
                end: second,
            },
        }
    }

    /// Where it ends now, for [`AppBatch::rollback`].
    pub(crate) fn mark(&self) -> BatchMark {
        BatchMark {
            operations: self.slots.len(),
            bytes: self.buffer.len(),
        }
    }

    /// Forgets what was added since `mark` was taken of this batch.
    pub(crate) fn rollback(&mut self, mark: BatchMark) {
        let BatchMark { operations, bytes } = mark;
        assert!(
            operations <= self.slots.len() && bytes <= self.buffer.len(),
            "a mark of another batch, or one from before it was shorter: {mark:?}"
        );
        self.slots.truncate(operations);
        self.buffer.truncate(bytes);
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.buffer.clear();
    }
}
