//! A snapshot file in, checked content out, block by block. Uses: snapshot_format, snapshot_store, error.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{BLOCK_HEAD_BYTES, Codec, Fields, Layout, block_crc, check_crc, damaged, read_exact};
use crate::error::{Error, Result};
use crate::snapshot_store::{SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotReader};

enum Decompressor {
    None,
    Lz4,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decompressor {
    fn new(codec: Codec, path: &Path) -> Result<Self> {
        Ok(match codec {
            Codec::None => Decompressor::None,
            Codec::Lz4 => Decompressor::Lz4,
            Codec::Zstd => {
                let zstd = zstd::bulk::Decompressor::new();
                Decompressor::Zstd(zstd.map_err(|e| Error::io("decompress", path, e))?)
            }
        })
    }

    /// Fills `raw`, no more and no less.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decompress(&mut self, stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
        let got = match self {
            Decompressor::None => return Err("compressed, in a file without compression".into()),
            Decompressor::Lz4 => {
                lz4_flex::block::decompress_into(stored, raw).map_err(|e| e.to_string())?
            }
            Decompressor::Zstd(zstd) => {
                (zstd.decompress_to_buffer(stored, raw)).map_err(|e| e.to_string())?
            }
        };
        if got != raw.len() {
            let expected = raw.len();
            return Err(format!(
                "{got} bytes when decompressed, expected {expected}"
            ));
        }
        Ok(())
    }
}

/// Reads one file. Its memory is two blocks, of at most [`super::BLOCK_BYTES_MAX`] each, and what the
/// decompressor takes. Bytes come out only of blocks that were checked, those of the last one only
/// after the digest was.
pub(crate) struct Decoder {
    file: Box<dyn SnapshotFile>,
    path: PathBuf,
    layout: Layout,
    info: SnapshotInfo,
    decompressor: Decompressor,
    digest: blake3::Hasher,
    /// Where the next block starts.
    offset: u64,
    next_block: u64,
    /// The content of the blocks that were not read yet.
    content_left: u64,
    block: Vec<u8>,
    /// How much of `block` was given out. Invariant: `taken <= block.len()`.
    taken: usize,
    stored: Vec<u8>,
    /// After an error there is nothing more to read.
    failed: bool,
}

impl Decoder {
    /// Checks head and foot; `path` is named in the errors. Sequence 0 is assumed.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `Corruption` or `Io`.
    pub(crate) fn new(mut file: Box<dyn SnapshotFile>, path: &Path) -> Result<Decoder> {
        let layout = Layout::read(&mut *file, path)?;
        let decoder = Decoder {
            file,
            path: path.to_path_buf(),
            info: layout.info(0),
            decompressor: Decompressor::new(layout.header.codec, path)?,
            digest: blake3::Hasher::new(),
            offset: layout.blocks_start,
            next_block: 0,
            content_left: layout.footer.content_bytes,
            block: Vec::new(),
            taken: 0,
            stored: Vec::new(),
            failed: false,
            layout,
        };
        if decoder.content_left == 0 {
            decoder.check_end()?;
        }
        Ok(decoder)
    }

    /// As [`Decoder::new`], of a file that is stored under `key`: it must be what its name says.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub(crate) fn of_key(
        file: Box<dyn SnapshotFile>,
        path: &Path,
        key: &SnapshotKey,
    ) -> Result<Decoder> {
        let mut decoder = Decoder::new(file, path)?;
        decoder.info = decoder.layout.info(key.id.sequence);
        if decoder.info.key != *key {
            let detail = format!("it is of {}, its name says {key}", decoder.info.key);
            return Err(damaged(path, Some(key.region), detail));
        }
        Ok(decoder)
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// `Corruption` at the first block that is not as it was written, or `Io`.
    pub(crate) fn check(mut self) -> Result<SnapshotInfo> {
        while self.content_left > 0 {
            self.read_block()?;
        }
        Ok(self.info)
    }

    fn damage(&self, detail: String) -> Error {
        damaged(&self.path, Some(self.info.key.region), detail)
    }

    fn damaged_block(&self, detail: String) -> Error {
        let (block, offset) = (self.next_block, self.offset);
        self.damage(format!("block {block} at offset {offset}: {detail}"))
    }

    /// Puts the next block into `block`.
    fn read_block(&mut self) -> Result<()> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        let room = (self.layout.blocks_end - self.offset).saturating_sub(BLOCK_HEAD_BYTES as u64);
        if room == 0 {
            return Err(self.damaged_block("the footer is there".into()));
        }
        read_exact(&mut *self.file, &mut head, &self.path)?;
        let mut fields = Fields(&head);
        let (raw_len, stored_len, crc) = (fields.u32(), fields.u32(), fields.u32());
        // Lengths are checked before memory is taken.
        let block_bytes = self.layout.header.block_bytes;
        let expected = self.content_left.min(block_bytes.into());
        if u64::from(raw_len) != expected {
            return Err(self.damaged_block(format!("{raw_len} bytes, expected {expected}")));
        }
        let limit = room.min(expected);
        if stored_len == 0 || u64::from(stored_len) > limit {
            let detail = format!("stored in {stored_len} bytes, expected 1 to {limit}");
            return Err(self.damaged_block(detail));
        }
        self.stored.resize(stored_len as usize, 0);
        read_exact(&mut *self.file, &mut self.stored, &self.path)?;
        let identity = self.layout.header.identity;
        let computed = block_crc(identity, self.next_block, &head[..8], &self.stored);
        check_crc(crc, computed).map_err(|detail| self.damaged_block(detail))?;
        self.taken = 0;
        if stored_len == raw_len {
            std::mem::swap(&mut self.block, &mut self.stored);
        } else {
            self.block.resize(raw_len as usize, 0);
            (self.decompressor.decompress(&self.stored, &mut self.block))
                .map_err(|detail| self.damaged_block(detail))?;
        }
        self.digest.update(&self.block);
        self.offset += BLOCK_HEAD_BYTES as u64 + u64::from(stored_len);
        self.content_left -= expected;
        self.next_block += 1;
        if self.content_left == 0 {
            self.check_end()?;
        }
        Ok(())
    }

    /// Behind the last block comes the footer, and the digest is right.
    fn check_end(&self) -> Result<()> {
        let (end, footer) = (self.offset, self.layout.blocks_end);
        if end != footer {
            let detail =
                format!("the last block ends at offset {end}, the footer starts at {footer}");
            return Err(self.damage(detail));
        }
        let computed = self.digest.finalize();
        let got = blake3::Hash::from_bytes(self.layout.footer.digest);
        if got != computed {
            return Err(self.damage(format!("digest {got}, computed {computed}")));
        }
        Ok(())
    }

    fn read_checked(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.taken == self.block.len() && self.content_left > 0 {
            self.read_block()?;
        }
        let rest = &self.block[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.failed {
            let detail = "an earlier read found it".into();
            return Err(self.damage(detail).into());
        }
        let outcome = self.read_checked(buffer);
        self.failed = outcome.is_err();
        Ok(outcome?)
    }
}

impl SnapshotReader for Decoder {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}
