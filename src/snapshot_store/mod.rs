//! The seam under which a node keeps snapshots. Uses: types, proto, error.

mod compression;
mod retention;

use std::fmt;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::SystemTime;

use raft::eraftpb::ConfState;

use crate::error::{Error, Result};
use crate::proto::Region;
use crate::types::{LogPosition, RegionId};

pub use compression::{Codec, Compression};
pub(crate) use retention::clean_up;
pub use retention::{CleanUp, Retention};

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

/// Reads the text that a key is shown as: `region-term-index-sequence`.
///
/// ```
/// let key: peerstore::SnapshotKey = "1-6-20-0".parse()?;
/// assert_eq!((key.region.0, key.id.index, key.to_string()), (1, 20, "1-6-20-0".to_string()));
/// assert!("1-6-20".parse::<peerstore::SnapshotKey>().is_err());
/// # Ok::<(), peerstore::Error>(())
/// ```
impl std::str::FromStr for SnapshotKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Option<Vec<u64>> = text.split('-').map(|n| n.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[region, term, index, sequence]) => Ok(SnapshotKey {
                region: RegionId(region),
                id: SnapshotId {
                    term,
                    index,
                    sequence,
                },
            }),
            _ => Err(Error::invalid(
                RegionId(0),
                "snapshot key",
                format!("\"{}\"", text.escape_debug()),
                "region-term-index-sequence, such as 1-6-20-0",
            )),
        }
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
    /// How it is compressed.
    pub codec: Codec,
    /// How many entries its writer counted ([`SnapshotWriter::count_entries`]); 0 if it did not, and in
    /// files of format version 1.
    pub entry_count: u64,
    /// The wall time at which it was begun, in whole milliseconds. For people, and for a policy by age:
    /// nothing else depends on it. Files of format version 1 do not say it.
    pub created: Option<SystemTime>,
    /// A random number that tells this file from all others, those of the same content among them.
    pub file_id: u64,
}

/// What checking a snapshot found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    /// The snapshot.
    pub key: SnapshotKey,
    /// How many of its blocks are as they were written.
    pub blocks: u64,
    /// The content in them, in bytes.
    pub content_bytes: u64,
    /// What is not as it was written, in the order of the file; at most [`DAMAGE_MAX`] places. Where a
    /// block does not tell where the next one starts, it is the last that is looked at.
    pub damage: Vec<SnapshotDamage>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDamage {
    /// The part of the file.
    pub part: SnapshotPart,
    /// Where the part starts, in bytes from the start of the file.
    pub offset: u64,
    /// What was found and what was expected.
    pub detail: String,
}

/// A part of a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// What the snapshot is of.
    Header,
    /// A block of its content, counted from 0.
    Block(u64),
    /// What the content adds up to.
    Footer,
    /// Blocks that are right one by one, but not the content that was written.
    Digest,
}

/// More places are not reported: the file is lost anyway.
pub const DAMAGE_MAX: usize = 16;

impl SnapshotReport {
    /// Whether every block and the digest are as they were written.
    pub fn is_intact(&self) -> bool {
        self.damage.is_empty()
    }
}

impl fmt::Display for SnapshotReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotReport { key, blocks, .. } = self;
        let (bytes, damage) = (self.content_bytes, &self.damage);
        write!(f, "{key}: {blocks} whole blocks, {bytes} bytes")?;
        damage.iter().try_for_each(|damage| write!(f, "; {damage}"))
    }
}

impl fmt::Display for SnapshotDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotDamage {
            part,
            offset,
            detail,
        } = self;
        write!(f, "{part} at offset {offset}: {detail}")
    }
}

impl fmt::Display for SnapshotPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotPart::Header => f.write_str("header"),
            SnapshotPart::Block(number) => write!(f, "block {number}"),
            SnapshotPart::Footer => f.write_str("footer"),
            SnapshotPart::Digest => f.write_str("digest"),
        }
    }
}

/// A file that is on its way from another store: which one, so that what has come of it can be found
/// again when the connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotTransfer {
    /// The snapshot, as its sender names it.
    pub key: SnapshotKey,
    /// The file: [`SnapshotInfo::file_id`].
    pub file_id: u64,
    /// The bytes of the file.
    pub file_bytes: u64,
}

impl SnapshotTransfer {
    /// The transfer of the file `info`, which is at the sender.
    pub fn of(info: &SnapshotInfo) -> Self {
        SnapshotTransfer {
            key: info.key,
            file_id: info.file_id,
            file_bytes: info.file_bytes,
        }
    }
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

    /// Opens the content for reading, from its start. The reader can be moved.
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

    /// Takes in a file that another store sends, from where an earlier try ended:
    /// [`SnapshotReceiver::offset`] says how much of it is there and whole. Dropping the receiver keeps
    /// what came for the next try, over a restart too where the store is on disk; after an error nothing
    /// is kept. A store keeps one unfinished file of a region, the last that was begun, and none for ever.
    ///
    /// # Errors
    /// `SnapshotInUse` while the same file is being received; `Io` of kind `FileTooLarge` beyond the
    /// store's limit, else `DiskFull` or `Io`.
    fn resume(&self, transfer: &SnapshotTransfer) -> Result<Box<dyn SnapshotReceiver>> {
        // A store that keeps nothing begins at the start each time.
        let _ = transfer;
        self.receive()
    }

    /// Takes in a whole file from a stream.
    ///
    /// # Errors
    /// As [`SnapshotReceiver::commit`], and `Io` if the stream fails; nothing is left of it then.
    fn install(&self, file: &mut dyn Read) -> Result<SnapshotInfo> {
        let mut receiver = self.receive()?;
        std::io::copy(file, &mut receiver).map_err(stream_error)?;
        receiver.commit()
    }

    /// The snapshots of `region`, or of all regions, oldest position first.
    ///
    /// # Errors
    /// `Io`. Files that are damaged or not ours are left out and reported to the log.
    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>>;

    /// The newest snapshot of `region`: of the highest position, and of those there the last.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::list`].
    fn latest(&self, region: RegionId) -> Result<Option<SnapshotInfo>> {
        let infos = self.list(Some(region))?;
        Ok(infos.into_iter().max_by_key(|info| info.key))
    }

    /// Removes one. One that does not exist is no error.
    ///
    /// # Errors
    /// `SnapshotInUse` while it is read, else `Io`.
    fn delete(&self, key: &SnapshotKey) -> Result<()>;

    /// Reads all of it and says what is not as it was written, and where.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `UnsupportedVersion` or `Io`; damage is in the report, not an error.
    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport>;

    /// Removes what `retention` does not keep, and says how much that was. `truncated` gives the index
    /// of the last entry that a region's log no longer has, `now` is what ages count from.
    ///
    /// # Errors
    /// `Io`, the first one; the others were removed all the same.
    fn clean_up(
        &self,
        retention: &Retention,
        truncated: &dyn Fn(RegionId) -> Option<u64>,
        now: SystemTime,
    ) -> Result<CleanUp> {
        let infos = self.list(None)?;
        let goes = retention.superseded(&infos, truncated, now);
        clean_up(&infos, &goes, &mut |key| self.delete(key))
    }
}

/// A stream of ours has this crate's own error inside; another's has not.
pub(crate) fn stream_error(error: std::io::Error) -> Error {
    (error.downcast()).unwrap_or_else(|error| Error::io("copy", Path::new("(stream)"), error))
}

/// Takes the content of a new snapshot as a stream of bytes. An error of the stream has this crate's
/// own inside ([`std::io::Error::downcast`]); after one, nothing is left and `commit` fails too.
pub trait SnapshotWriter: Write + Send {
    /// Adds to [`SnapshotInfo::entry_count`]. What an entry is, is for the content to know.
    fn count_entries(&mut self, count: u64);

    /// Makes the snapshot durable and visible.
    ///
    /// # Errors
    /// `DiskFull` or `Io`; nothing is left of it then.
    fn commit(self: Box<Self>) -> Result<SnapshotInfo>;
}

/// Gives the content of a snapshot as a stream of checked bytes. After the last byte the digest has
/// been checked too, unless a part was passed over by seeking: then each block was, by its own checksum.
/// A damaged file ends with an `InvalidData` error, never with a short read.
///
/// A seek by itself does nothing. The read behind it looks at the head of each block in between (forward
/// from where it is, or from the first), so that one block a MiB of content is looked at, and no memory
/// is taken for an index. Behind the end there are no bytes, as in a file.
pub trait SnapshotReader: Read + Seek + Send {
    /// What is read.
    fn info(&self) -> &SnapshotInfo;
}

/// The bytes of a snapshot's file.
pub trait SnapshotFile: Read + Seek + Send {}

impl<T: Read + Seek + Send> SnapshotFile for T {}

/// Takes in the bytes of a snapshot's file.
pub trait SnapshotReceiver: Write + Send {
    /// How many bytes of the file it has: the next one that is written is at this offset of the file.
    fn offset(&self) -> u64;

    /// Checks all of it, then makes it durable and visible. If the same content is there already under
    /// this name, that is kept; if other content is, it gets a new sequence.
    ///
    /// # Errors
    /// `Corruption` or `UnsupportedVersion` if the file is not whole, else `DiskFull` or `Io`;
    /// nothing is left of it then.
    fn commit(self: Box<Self>) -> Result<SnapshotInfo>;
}
