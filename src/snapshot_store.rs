//! The seam under which a node keeps snapshots. Uses: types, proto, error.

use std::fmt;
use std::io::{Read, Seek, Write};

use raft::eraftpb::ConfState;

use crate::error::Result;
use crate::proto::Region;
use crate::types::{LogPosition, RegionId};

/// The one id of a snapshot within its region: what it covers, and which try it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The term of the last entry that it covers.
    pub term: u64,
    /// The index of the last entry that it covers.
    pub index: u64,
    /// Tells snapshots of the same position apart.
    pub sequence: u64,
}

/// The name of a snapshot within a node. Its text is built from integers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// The region.
    pub region: RegionId,
    /// Which of its snapshots.
    pub id: SnapshotId,
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotId {
            term,
            index,
            sequence,
        } = self.id;
        write!(f, "{}-{term}-{index}-{sequence}", self.region)
    }
}

/// What a snapshot is of. Written before its content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotMeta {
    /// The region, with its range and epoch, as of the snapshot.
    pub region: Region,
    /// The last entry that it covers.
    pub position: LogPosition,
    /// The configuration at that entry.
    pub conf_state: ConfState,
}

/// A finished snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotInfo {
    /// Its name.
    pub key: SnapshotKey,
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The bytes of its content before compression.
    pub content_bytes: u64,
    /// The bytes of its file.
    pub file_bytes: u64,
    /// The BLAKE3 digest of its content, the same whatever the compression.
    pub digest: [u8; 32],
}

/// What checking a snapshot found.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotVerdict {
    /// Every block and the digest are as written.
    Intact,
    /// The file is damaged: where, what was found and what was expected.
    Damaged(String),
}

/// The snapshots of every region of a node.
///
/// # Contract
/// - A snapshot is there whole or not at all: it is staged under another name, fsynced, renamed, and
///   its directory fsynced, before `commit` returns.
/// - What a reader reads was checked: a damaged block is an error before any of its bytes come out.
/// - Nothing is read into memory whole; lengths are checked before memory is taken.
/// - A snapshot that is being read is not deleted.
pub trait RaftSnapshotStorage: Send + Sync {
    /// Starts a snapshot of `meta.region`. Dropping the writer gives it up and leaves nothing.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>>;

    /// Opens the content for reading, from its start.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `UnsupportedVersion`, or `Corruption` if its head or foot is damaged.
    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>>;

    /// Opens the file as it is, to be sent to another store's [`RaftSnapshotStorage::receive`].
    ///
    /// # Errors
    /// `SnapshotNotFound` or `Io`.
    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>>;

    /// Takes in a file that another store sent. Dropping the receiver gives it up.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>>;

    /// The snapshots of `region`, or of all regions, oldest position first.
    ///
    /// # Errors
    /// `Io`. Files that are damaged or not ours are left out and reported to the log.
    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>>;

    /// Removes one. One that does not exist is no error.
    ///
    /// # Errors
    /// `SnapshotInUse` while it is read, else `Io`.
    fn delete(&self, key: &SnapshotKey) -> Result<()>;

    /// Reads all of it and says whether it is as it was written.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `UnsupportedVersion` or `Io`; damage is a verdict, not an error.
    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotVerdict>;
}

/// Takes the content of a new snapshot as a stream of bytes. An error of the stream has this crate's
/// own inside ([`std::io::Error::downcast`]); after one, nothing is left and `commit` fails too.
pub trait SnapshotWriter: Write + Send {
    /// Makes the snapshot durable and visible.
    ///
    /// # Errors
    /// `DiskFull` or `Io`; nothing is left of it then.
    fn commit(self: Box<Self>) -> Result<SnapshotInfo>;
}

/// Gives the content of a snapshot as a stream of checked bytes. After the last byte the digest has
/// been checked too: a damaged file ends with an `InvalidData` error, never with a short read.
pub trait SnapshotReader: Read + Send {
    /// What is read.
    fn info(&self) -> &SnapshotInfo;
}

/// The bytes of a snapshot's file.
pub trait SnapshotFile: Read + Seek + Send {}

impl<T: Read + Seek + Send> SnapshotFile for T {}

/// Takes in the bytes of a snapshot's file.
pub trait SnapshotReceiver: Write + Send {
    /// Checks all of it, then makes it durable and visible. If the same content is there already under
    /// this name, that is kept; if other content is, it gets a new sequence.
    ///
    /// # Errors
    /// `Corruption` or `UnsupportedVersion` if the file is not whole, else `DiskFull` or `Io`;
    /// nothing is left of it then.
    fn commit(self: Box<Self>) -> Result<SnapshotInfo>;
}
