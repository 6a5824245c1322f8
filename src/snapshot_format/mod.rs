//! How a snapshot lies in a file: the layout, written once. Uses: snapshot_store, proto, types, error.
//! Opens no files: the stores hand it streams.
//!
//! `docs/snapshot-format.md` is the grammar. All integers are little-endian.

mod read;
mod write;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use prost::Message as _;

use crate::error::{Error, Result};
use crate::proto::{Region, wire};
use crate::snapshot_store::{
    SnapshotFile, SnapshotId, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotVerdict,
};
use crate::types::{LogPosition, RegionId};

pub(crate) use read::Decoder;
pub(crate) use write::{Encoder, Sink, SinkStream};

/// The first bytes of every snapshot file, of whatever version.
const MAGIC: [u8; 8] = *b"peersnap";
/// The last bytes of one of this version.
const END_MAGIC: [u8; 8] = *b"snap.end";
/// The version that is written, and the newest that is read.
const FORMAT_VERSION: u32 = 1;
/// Magic, version u32, CRC32C u32 of both. Fixed for all versions to come.
const PREAMBLE_BYTES: usize = 16;
/// Preamble, codec u8, block bytes u32, identity u64, meta bytes u32.
const HEAD_BYTES: usize = PREAMBLE_BYTES + 17;
/// A CRC32C.
const CRC_BYTES: usize = 4;
/// Raw bytes u32, stored bytes u32, CRC32C u32.
const BLOCK_HEAD_BYTES: usize = 12;
/// Content bytes u64, block count u64, digest, CRC32C u32, end magic.
const FOOTER_BYTES: usize = 60;
/// The part of the footer that its CRC32C covers.
const FOOTER_CHECKED_BYTES: usize = 48;
/// The most content that a block may hold: what a reader must be ready to take memory for.
pub(crate) const BLOCK_BYTES_MAX: u32 = 1 << 20;
/// The most bytes of encoded metadata: two keys and a few thousand peers.
const META_BYTES_MAX: u32 = 256 << 10;

/// How the blocks of a snapshot are compressed. A block that would not get smaller is stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 blocks: fast.
    Lz4,
    /// Zstandard frames: small.
    Zstd {
        /// From 1, fast, to 22, small.
        level: i32,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd { level: 3 }
    }
}

/// What reading needs to know about the compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl Codec {
    fn from_byte(byte: u8) -> Option<Codec> {
        [Codec::None, Codec::Lz4, Codec::Zstd]
            .into_iter()
            .find(|codec| *codec as u8 == byte)
    }
}

/// The bytes of [`SnapshotMeta`], whatever codec raft-rs was built with.
#[derive(Clone, PartialEq, prost::Message)]
struct WireMeta {
    #[prost(message, required, tag = "1")]
    region: Region,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(message, required, tag = "4")]
    conf_state: wire::ConfState,
}

/// The head of a file.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    codec: Codec,
    /// The content of every block but the last. Invariant: in `1..=BLOCK_BYTES_MAX`.
    block_bytes: u32,
    /// Random: blocks and footer carry it in their checksums, so those of another file do not fit.
    identity: u64,
    meta: SnapshotMeta,
}

impl Header {
    /// # Errors
    /// `InvalidArgument` if the metadata is larger than any reader would take.
    fn encode(&self) -> Result<Vec<u8>> {
        let wire = WireMeta {
            region: self.meta.region.clone(),
            index: self.meta.position.index,
            term: self.meta.position.term,
            conf_state: (&self.meta.conf_state).into(),
        };
        let meta = wire.encode_to_vec();
        if meta.len() > META_BYTES_MAX as usize {
            return Err(Error::invalid(
                self.meta.region.region_id(),
                "snapshot metadata",
                format!("{} bytes", meta.len()),
                format!("at most {META_BYTES_MAX}"),
            ));
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + meta.len() + CRC_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes.push(self.codec as u8);
        bytes.extend(self.block_bytes.to_le_bytes());
        bytes.extend(self.identity.to_le_bytes());
        bytes.extend((meta.len() as u32).to_le_bytes());
        bytes.extend(meta);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Reads it from the start of `file`, and says how many bytes it takes.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `Corruption` or `Io`.
    fn read(file: &mut dyn SnapshotFile, path: &Path) -> Result<(Header, u64)> {
        let damage = |detail| damaged(path, None, detail);
        let mut bytes = vec![0; PREAMBLE_BYTES];
        read_exact(file, &mut bytes, path)?;
        check_preamble(&bytes, path)?;
        bytes.resize(HEAD_BYTES, 0);
        read_exact(file, &mut bytes[PREAMBLE_BYTES..], path)?;
        let mut fields = Fields(&bytes[PREAMBLE_BYTES..]);
        let codec_byte = fields.array::<1>()[0];
        let (block_bytes, identity) = (fields.u32(), fields.u64());
        let meta_bytes = fields.u32();
        if meta_bytes > META_BYTES_MAX {
            let detail =
                format!("{meta_bytes} bytes of metadata, expected at most {META_BYTES_MAX}");
            return Err(damage(detail));
        }
        let crc_at = HEAD_BYTES + meta_bytes as usize;
        bytes.resize(crc_at + CRC_BYTES, 0);
        read_exact(file, &mut bytes[HEAD_BYTES..], path)?;
        let crc = Fields(&bytes[crc_at..]).u32();
        check_crc(crc, crc32c::crc32c(&bytes[..crc_at]))
            .map_err(|d| damage(format!("header: {d}")))?;
        let codec = Codec::from_byte(codec_byte)
            .ok_or_else(|| damage(format!("codec {codec_byte}, expected 0 to 2")))?;
        if !(1..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(damage(format!(
                "blocks of {block_bytes} bytes, expected 1 to {BLOCK_BYTES_MAX}"
            )));
        }
        let meta = WireMeta::decode(&bytes[HEAD_BYTES..crc_at])
            .map_err(|e| damage(format!("metadata: {e}")))?;
        let header = Header {
            codec,
            block_bytes,
            identity,
            meta: SnapshotMeta {
                region: meta.region,
                position: LogPosition::new(meta.term, meta.index),
                conf_state: meta.conf_state.into(),
            },
        };
        Ok((header, bytes.len() as u64))
    }
}

/// The preamble is checked alone, so that a newer version is told from damage.
fn check_preamble(bytes: &[u8], path: &Path) -> Result<()> {
    let mut fields = Fields(bytes);
    let (magic, version, crc) = (fields.array::<8>(), fields.u32(), fields.u32());
    if magic != MAGIC {
        let detail = format!(
            "starts with \"{}\", expected \"{}\"",
            magic.escape_ascii(),
            MAGIC.escape_ascii()
        );
        return Err(damaged(path, None, detail));
    }
    check_crc(crc, crc32c::crc32c(&bytes[..PREAMBLE_BYTES - CRC_BYTES]))
        .map_err(|detail| damaged(path, None, format!("version: {detail}")))?;
    if version > FORMAT_VERSION {
        return Err(Error::UnsupportedVersion {
            path: path.to_path_buf(),
            got: version,
            max: FORMAT_VERSION,
        });
    }
    if version == 0 {
        return Err(damaged(path, None, "version 0, expected 1".into()));
    }
    Ok(())
}

/// The foot of a file.
#[derive(Clone, Debug, PartialEq)]
struct Footer {
    content_bytes: u64,
    block_count: u64,
    digest: [u8; 32],
}

impl Footer {
    fn encode(&self, identity: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend(self.content_bytes.to_le_bytes());
        bytes.extend(self.block_count.to_le_bytes());
        bytes.extend(self.digest);
        bytes.extend(Footer::crc(identity, &bytes).to_le_bytes());
        bytes.extend(END_MAGIC);
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes.
    fn decode(bytes: &[u8; FOOTER_BYTES], identity: u64) -> Result<Footer, String> {
        let mut fields = Fields(bytes);
        let footer = Footer {
            content_bytes: fields.u64(),
            block_count: fields.u64(),
            digest: fields.array(),
        };
        check_crc(
            fields.u32(),
            Footer::crc(identity, &bytes[..FOOTER_CHECKED_BYTES]),
        )?;
        let magic = fields.array();
        if magic != END_MAGIC {
            let (got, expected) = (magic.escape_ascii(), END_MAGIC.escape_ascii());
            return Err(format!("ends with \"{got}\", expected \"{expected}\""));
        }
        Ok(footer)
    }

    fn crc(identity: u64, checked: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&identity.to_le_bytes()), checked)
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

/// Head and foot of a file that fit each other and its length.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    header: Header,
    footer: Footer,
    /// Where the first block starts.
    blocks_start: u64,
    /// Where the footer starts: behind the last block.
    blocks_end: u64,
}

impl Layout {
    /// Reads both and leaves `file` at its first block.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `Corruption` or `Io`.
    fn read(file: &mut dyn SnapshotFile, path: &Path) -> Result<Layout> {
        let file_bytes = seek(file, SeekFrom::End(0), path)?;
        seek(file, SeekFrom::Start(0), path)?;
        let (header, blocks_start) = Header::read(file, path)?;
        let damage = |detail| damaged(path, Some(header.meta.region.region_id()), detail);
        let blocks_end = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        if blocks_end < blocks_start {
            let least = blocks_start + FOOTER_BYTES as u64;
            let detail = format!("{file_bytes} bytes, expected at least {least}");
            return Err(damage(detail));
        }
        seek(file, SeekFrom::Start(blocks_end), path)?;
        let mut bytes = [0; FOOTER_BYTES];
        read_exact(file, &mut bytes, path)?;
        let footer = Footer::decode(&bytes, header.identity)
            .map_err(|detail| damage(format!("footer at offset {blocks_end}: {detail}")))?;
        let blocks = footer.content_bytes.div_ceil(header.block_bytes.into());
        if footer.block_count != blocks {
            let (count, content) = (footer.block_count, footer.content_bytes);
            let detail = format!("{count} blocks for {content} bytes, expected {blocks}");
            return Err(damage(detail));
        }
        seek(file, SeekFrom::Start(blocks_start), path)?;
        Ok(Layout {
            header,
            footer,
            blocks_start,
            blocks_end,
        })
    }

    fn info(&self, sequence: u64) -> SnapshotInfo {
        let LogPosition { term, index } = self.header.meta.position;
        SnapshotInfo {
            key: SnapshotKey {
                region: self.header.meta.region.region_id(),
                id: SnapshotId {
                    term,
                    index,
                    sequence,
                },
            },
            meta: self.header.meta.clone(),
            content_bytes: self.footer.content_bytes,
            file_bytes: self.blocks_end + FOOTER_BYTES as u64,
            digest: self.footer.digest,
        }
    }
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

/// A random number for a new file.
pub(crate) fn random_identity() -> u64 {
    RandomState::new().build_hasher().finish()
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

/// What a check that went through to its end, or to damage, says.
///
/// # Errors
/// Those that say nothing about the file's bytes.
pub(crate) fn verdict(checked: Result<SnapshotInfo>) -> Result<SnapshotVerdict> {
    match checked {
        Ok(_) => Ok(SnapshotVerdict::Intact),
        Err(Error::Corruption { what, detail, .. }) => {
            Ok(SnapshotVerdict::Damaged(format!("{what}: {detail}")))
        }
        Err(other) => Err(other),
    }
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

/// A store's own error comes back out of the stream it went through.
fn from_stream(op: &'static str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return damaged(path, None, "it ends too early".into());
    }
    (error.downcast::<Error>()).unwrap_or_else(|error| Error::io(op, path, error))
}

fn read_exact(file: &mut dyn SnapshotFile, buffer: &mut [u8], path: &Path) -> Result<()> {
    Read::read_exact(file, buffer).map_err(|e| from_stream("read", path, e))
}

fn seek(file: &mut dyn SnapshotFile, to: SeekFrom, path: &Path) -> Result<u64> {
    Seek::seek(file, to).map_err(|e| from_stream("seek in", path, e))
}

#[cfg(test)]
mod tests;
