//! Head and foot of a file, and how they fit each other. Uses: snapshot_format, snapshot_store, proto, error.

use std::io::SeekFrom;
use std::path::Path;

use prost::Message as _;

use super::{
    BLOCK_BYTES_MAX, CRC_BYTES, END_MAGIC, FOOTER_BYTES, FOOTER_BYTES_1, FOOTER_END_BYTES,
    FORMAT_VERSION, Fault, Fields, HEAD_BYTES, MAGIC, META_BYTES_MAX, PREAMBLE_BYTES, Stamp,
    check_crc, read_part, seek,
};
use crate::error::{Error, Result};
use crate::proto::{Region, wire};
use crate::snapshot_store::{
    Codec, SnapshotFile, SnapshotId, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotPart,
};
use crate::types::LogPosition;

/// The codecs by their byte. Those from [`GZIP_BYTE`] on are not in files of version 1.
const CODECS: [Codec; 4] = [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip];
const GZIP_BYTE: usize = 3;

/// The bytes of [`SnapshotMeta`] and of [`Stamp::created_ms`], whatever codec raft-rs was built with.
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
    #[prost(fixed64, tag = "5")]
    created_ms: u64,
}

/// The head of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    /// Invariant: in `1..=FORMAT_VERSION`.
    pub version: u32,
    pub codec: Codec,
    /// The content of every block but the last. Invariant: in `1..=BLOCK_BYTES_MAX`.
    pub block_bytes: u32,
    pub stamp: Stamp,
    pub meta: SnapshotMeta,
}

impl Header {
    /// # Errors
    /// `InvalidArgument` if the metadata is larger than any reader would take.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let wire = WireMeta {
            region: self.meta.region.clone(),
            index: self.meta.position.index,
            term: self.meta.position.term,
            conf_state: (&self.meta.conf_state).into(),
            created_ms: self.stamp.created_ms,
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
        let codec = CODECS.iter().position(|codec| *codec == self.codec);
        let codec = codec.expect("the table has every codec") as u8;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + meta.len() + CRC_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes.push(codec);
        bytes.extend(self.block_bytes.to_le_bytes());
        bytes.extend(self.stamp.identity.to_le_bytes());
        bytes.extend((meta.len() as u32).to_le_bytes());
        bytes.extend(meta);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Reads it from the start of `file`, and says how many bytes it takes.
    pub fn read(file: &mut dyn SnapshotFile, path: &Path) -> Result<(Header, u64), Fault> {
        let damage = |detail| Fault::new(SnapshotPart::Header, 0, detail);
        let at = |offset: usize| (SnapshotPart::Header, offset as u64);
        let mut bytes = vec![0; PREAMBLE_BYTES];
        read_part(file, at(0), &mut bytes, path)?;
        let version = check_preamble(&bytes, path)?;
        bytes.resize(HEAD_BYTES, 0);
        let rest = &mut bytes[PREAMBLE_BYTES..];
        read_part(file, at(PREAMBLE_BYTES), rest, path)?;
        let mut fields = Fields(&bytes[PREAMBLE_BYTES..]);
        let codec_byte = usize::from(fields.array::<1>()[0]);
        let (block_bytes, identity) = (fields.u32(), fields.u64());
        let meta_bytes = fields.u32();
        if meta_bytes > META_BYTES_MAX {
            let detail =
                format!("{meta_bytes} bytes of metadata, expected at most {META_BYTES_MAX}");
            return Err(damage(detail));
        }
        let crc_at = HEAD_BYTES + meta_bytes as usize;
        bytes.resize(crc_at + CRC_BYTES, 0);
        read_part(file, at(HEAD_BYTES), &mut bytes[HEAD_BYTES..], path)?;
        let crc = Fields(&bytes[crc_at..]).u32();
        check_crc(crc, crc32c::crc32c(&bytes[..crc_at])).map_err(damage)?;
        let known = if version == 1 {
            GZIP_BYTE
        } else {
            CODECS.len()
        };
        let codec = (CODECS[..known].get(codec_byte).copied())
            .ok_or_else(|| damage(format!("codec {codec_byte}, expected 0 to {}", known - 1)))?;
        if !(1..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(damage(format!(
                "blocks of {block_bytes} bytes, expected 1 to {BLOCK_BYTES_MAX}"
            )));
        }
        let meta = WireMeta::decode(&bytes[HEAD_BYTES..crc_at])
            .map_err(|e| damage(format!("metadata: {e}")))?;
        let header = Header {
            version,
            codec,
            block_bytes,
            stamp: Stamp {
                identity,
                created_ms: meta.created_ms,
            },
            meta: SnapshotMeta {
                region: meta.region,
                position: LogPosition::new(meta.term, meta.index),
                conf_state: meta.conf_state.into(),
            },
        };
        Ok((header, bytes.len() as u64))
    }

    /// The snapshot's name, with `sequence`, which is not in the file.
    pub fn key(&self, sequence: u64) -> SnapshotKey {
        let LogPosition { term, index } = self.meta.position;
        SnapshotKey {
            region: self.meta.region.region_id(),
            id: SnapshotId {
                term,
                index,
                sequence,
            },
        }
    }

    fn footer_bytes(&self) -> usize {
        match self.version {
            1 => FOOTER_BYTES_1,
            _ => FOOTER_BYTES,
        }
    }
}

/// The preamble is checked alone, so that a newer version is told from damage. Answers the version.
fn check_preamble(bytes: &[u8], path: &Path) -> Result<u32, Fault> {
    let damage = |detail| Fault::new(SnapshotPart::Header, 0, detail);
    let mut fields = Fields(bytes);
    let (magic, version, crc) = (fields.array::<8>(), fields.u32(), fields.u32());
    if magic != MAGIC {
        return Err(damage(format!(
            "starts with \"{}\", expected \"{}\"",
            magic.escape_ascii(),
            MAGIC.escape_ascii()
        )));
    }
    check_crc(crc, crc32c::crc32c(&bytes[..PREAMBLE_BYTES - CRC_BYTES]))
        .map_err(|detail| damage(format!("version: {detail}")))?;
    if version > FORMAT_VERSION {
        return Err(Fault::Other(Error::UnsupportedVersion {
            path: path.to_path_buf(),
            got: version,
            max: FORMAT_VERSION,
        }));
    }
    if version == 0 {
        let detail = format!("version 0, expected 1 to {FORMAT_VERSION}");
        return Err(damage(detail));
    }
    Ok(version)
}

/// The foot of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Footer {
    /// Not in a file of version 1: 0.
    pub entry_count: u64,
    pub content_bytes: u64,
    pub block_count: u64,
    pub digest: [u8; 32],
}

impl Footer {
    /// As a file of the present version has it.
    pub fn encode(&self, identity: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend(self.entry_count.to_le_bytes());
        bytes.extend(self.content_bytes.to_le_bytes());
        bytes.extend(self.block_count.to_le_bytes());
        bytes.extend(self.digest);
        bytes.extend(Footer::crc(identity, &bytes).to_le_bytes());
        bytes.extend(END_MAGIC);
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes.
    fn decode(bytes: &[u8], header: &Header) -> Result<Footer, String> {
        let mut fields = Fields(bytes);
        let footer = Footer {
            entry_count: match header.version {
                1 => 0,
                _ => fields.u64(),
            },
            content_bytes: fields.u64(),
            block_count: fields.u64(),
            digest: fields.array(),
        };
        let checked = &bytes[..bytes.len() - FOOTER_END_BYTES];
        check_crc(fields.u32(), Footer::crc(header.stamp.identity, checked))?;
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

/// Head and foot of a file that fit each other and its length.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub header: Header,
    pub footer: Footer,
    /// Where the first block starts.
    pub blocks_start: u64,
    /// Where the footer starts: behind the last block.
    pub blocks_end: u64,
}

impl Layout {
    /// Reads both.
    pub fn read(file: &mut dyn SnapshotFile, path: &Path) -> Result<Layout, Fault> {
        let file_bytes = seek(file, SeekFrom::End(0), path)?;
        let (header, blocks_start) = Header::read(file, path)?;
        let mut bytes = vec![0; header.footer_bytes()];
        let blocks_end = file_bytes.saturating_sub(bytes.len() as u64);
        let damage = |detail| Fault::new(SnapshotPart::Footer, blocks_end, detail);
        if blocks_end < blocks_start {
            let least = blocks_start + bytes.len() as u64;
            let detail = format!("{file_bytes} bytes, expected at least {least}");
            return Err(damage(detail));
        }
        let at = (SnapshotPart::Footer, blocks_end);
        read_part(file, at, &mut bytes, path)?;
        let footer = Footer::decode(&bytes, &header).map_err(damage)?;
        let blocks = footer.content_bytes.div_ceil(header.block_bytes.into());
        if footer.block_count != blocks {
            let (count, content) = (footer.block_count, footer.content_bytes);
            let detail = format!("{count} blocks for {content} bytes, expected {blocks}");
            return Err(damage(detail));
        }
        Ok(Layout {
            header,
            footer,
            blocks_start,
            blocks_end,
        })
    }

    pub fn info(&self, sequence: u64) -> SnapshotInfo {
        SnapshotInfo {
            key: self.header.key(sequence),
            meta: self.header.meta.clone(),
            content_bytes: self.footer.content_bytes,
            file_bytes: self.blocks_end + self.header.footer_bytes() as u64,
            digest: self.footer.digest,
            codec: self.header.codec,
            entry_count: self.footer.entry_count,
            created: self.header.stamp.created(),
            file_id: self.header.stamp.identity,
        }
    }
}
