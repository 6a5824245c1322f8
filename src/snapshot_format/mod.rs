//! How a snapshot lies in a file: the layout, written once. Uses: snapshot_store, proto, types, error.
//! Opens no files: the stores hand it streams.
//!
//! `docs/snapshot-format.md` is the grammar. All integers are little-endian.

mod check;
mod codec;
mod layout;
mod read;
mod write;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::snapshot_store::{SnapshotDamage, SnapshotFile, SnapshotId, SnapshotKey, SnapshotPart};
use crate::types::RegionId;

pub(crate) use check::{report, whole_prefix};
pub(crate) use read::Decoder;
pub(crate) use write::{Encoder, Sink, SinkStream};

/// The first bytes of every snapshot file, of whatever version.
const MAGIC: [u8; 8] = *b"peersnap";
/// The last bytes of one of these versions.
const END_MAGIC: [u8; 8] = *b"snap.end";
/// The version that is written, and the newest that is read. All before it are read too.
const FORMAT_VERSION: u32 = 2;
/// Magic, version u32, CRC32C u32 of both. Fixed for all versions to come.
const PREAMBLE_BYTES: usize = 16;
/// Preamble, codec u8, block bytes u32, identity u64, meta bytes u32.
const HEAD_BYTES: usize = PREAMBLE_BYTES + 17;
/// A CRC32C.
const CRC_BYTES: usize = 4;
/// Raw bytes u32, stored bytes u32, CRC32C u32.
const BLOCK_HEAD_BYTES: usize = 12;
/// The part of the footer behind what its CRC32C covers: that, and the end magic.
const FOOTER_END_BYTES: usize = CRC_BYTES + END_MAGIC.len();
/// The footer of version 1: content bytes u64, block count u64, digest, CRC32C u32, end magic.
const FOOTER_BYTES_1: usize = 48 + FOOTER_END_BYTES;
/// The footer of version 2: entry count u64, then as that of version 1.
const FOOTER_BYTES: usize = 8 + FOOTER_BYTES_1;
/// The most content that a block may hold: what a reader must be ready to take memory for.
pub(crate) const BLOCK_BYTES_MAX: u32 = 1 << 20;
/// The most bytes of encoded metadata: two keys and a few thousand peers.
const META_BYTES_MAX: u32 = 256 << 10;

/// What is different in each file, whatever its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Blocks and footer carry it in their checksums, so those of another file do not fit.
    pub identity: u64,
    /// When it was begun, in milliseconds of Unix time; 0 if nobody knows.
    pub created_ms: u64,
}

impl Stamp {
    /// A random one of now.
    pub(crate) fn new() -> Stamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Stamp {
            // 0 stands for none where it is written down.
            identity: random_number().max(1),
            created_ms: since_epoch.map_or(0, |since| since.as_millis() as u64),
        }
    }

    fn created(&self) -> Option<SystemTime> {
        let since = Duration::from_millis(self.created_ms);
        (self.created_ms > 0)
            .then(|| UNIX_EPOCH.checked_add(since))
            .flatten()
    }
}

/// A number that nobody has had.
pub(crate) fn random_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Why a file cannot be read on: it is damaged, or something else is wrong.
#[derive(Debug)]
enum Fault {
    Damage(SnapshotDamage),
    Other(Error),
}

impl Fault {
    fn new(part: SnapshotPart, offset: u64, detail: String) -> Fault {
        Fault::Damage(SnapshotDamage {
            part,
            offset,
            detail,
        })
    }

    /// As an error about the file at `path`.
    fn into_error(self, path: &Path, region: Option<RegionId>) -> Error {
        match self {
            Fault::Damage(damage) => damaged(path, region, damage.to_string()),
            Fault::Other(error) => error,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

/// The checksum of block `number`: it covers whose it is and where it belongs.
fn block_crc(identity: u64, number: u64, lengths: &[u8], stored: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&identity.to_le_bytes());
    for part in [&number.to_le_bytes(), lengths, stored] {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc
}

/// The key under which a snapshot of `key`'s position comes next, its sequence behind all that are there.
///
/// # Errors
/// `SnapshotRefused` if the numbers have run out.
pub(crate) fn free_key<V>(
    taken: &BTreeMap<SnapshotKey, V>,
    key: &SnapshotKey,
) -> Result<SnapshotKey> {
    let with = |sequence| SnapshotKey {
        region: key.region,
        id: SnapshotId { sequence, ..key.id },
    };
    let Some((last, _)) = taken.range(with(0)..=with(u64::MAX)).next_back() else {
        return Ok(with(0));
    };
    match last.id.sequence.checked_add(1) {
        Some(next) => Ok(with(next)),
        None => Err(Error::SnapshotRefused {
            region: key.region,
            reason: format!("{last} has the last sequence that there is"),
        }),
    }
}

/// Refuses to take `more` bytes of a file that has `length`, if it were to exceed `limit`.
///
/// # Errors
/// `Io` of kind `FileTooLarge`.
pub(crate) fn check_limit(path: &Path, length: u64, more: usize, limit: u64) -> Result<()> {
    if length.saturating_add(more as u64) <= limit {
        return Ok(());
    }
    let kind = std::io::ErrorKind::FileTooLarge;
    let source = std::io::Error::new(kind, format!("larger than the limit of {limit} bytes"));
    Err(Error::io("receive", path, source))
}

/// Takes little-endian integers from the front. The caller knows that there are enough bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (mut array, (front, rest)) = ([0; N], self.0.split_at(N));
        array.copy_from_slice(front);
        self.0 = rest;
        array
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

fn check_crc(got: u32, computed: u32) -> Result<(), String> {
    if got == computed {
        return Ok(());
    }
    Err(format!("crc {got:#010x}, computed {computed:#010x}"))
}

fn damaged(path: &Path, region: Option<RegionId>, detail: String) -> Error {
    Error::corruption(region, format!("snapshot file {}", path.display()), detail)
}

/// Fills `buffer` with what is at `offset` of `file`, which belongs to `part`.
fn read_part(
    file: &mut dyn SnapshotFile,
    (part, offset): (SnapshotPart, u64),
    buffer: &mut [u8],
    path: &Path,
) -> Result<(), Fault> {
    seek(file, SeekFrom::Start(offset), path)?;
    Read::read_exact(file, buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Fault::new(part, offset, "the file ends too early".into())
        }
        _ => Fault::Other(from_stream("read", path, error)),
    })
}

/// A store's own error comes back out of the stream it went through.
fn from_stream(op: &'static str, path: &Path, error: std::io::Error) -> Error {
    (error.downcast::<Error>()).unwrap_or_else(|error| Error::io(op, path, error))
}

fn seek(file: &mut dyn SnapshotFile, to: SeekFrom, path: &Path) -> Result<u64> {
    Seek::seek(file, to).map_err(|e| from_stream("seek in", path, e))
}

#[cfg(test)]
mod tests;
