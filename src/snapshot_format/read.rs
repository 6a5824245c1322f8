//! A snapshot file in, checked content out, block by block. Uses: snapshot_format, snapshot_store, error.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::codec::Decompressor;
use super::layout::Layout;
use super::{BLOCK_HEAD_BYTES, Fault, Fields, block_crc, check_crc, damaged, read_part};
use crate::error::{Error, Result};
use crate::snapshot_store::{
    SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotPart, SnapshotReader,
};

/// Reads one file. Its memory is two blocks, of at most [`super::BLOCK_BYTES_MAX`] each, and what the
/// decompressor takes. Bytes come out only of blocks that were checked, those of the last one only
/// after the digest was, if every block was read.
pub(crate) struct Decoder {
    file: Box<dyn SnapshotFile>,
    path: PathBuf,
    layout: Layout,
    info: SnapshotInfo,
    decompressor: Decompressor,
    /// Of the first `digested` blocks.
    digest: blake3::Hasher,
    digested: u64,
    /// The block that is read next, and where it starts.
    next_block: u64,
    offset: u64,
    /// Where in the content the next read starts.
    position: u64,
    /// The last block that was read, and where in the content it starts.
    block: Vec<u8>,
    block_start: u64,
    stored: Vec<u8>,
    /// After an error there is nothing more to read.
    failed: bool,
}

/// The lengths and the checksum in front of a block.
struct BlockHead {
    bytes: [u8; BLOCK_HEAD_BYTES],
    raw_len: u32,
    stored_len: u32,
    crc: u32,
}

impl Decoder {
    /// Checks head and foot; `path` is named in the errors. Sequence 0 is assumed.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `Corruption` or `Io`.
    pub(crate) fn new(mut file: Box<dyn SnapshotFile>, path: &Path) -> Result<Decoder> {
        let layout =
            Layout::read(&mut *file, path).map_err(|fault| fault.into_error(path, None))?;
        let decoder = Decoder::of_layout(file, path, layout)?;
        if decoder.layout.footer.block_count == 0 {
            decoder.check_end().map_err(|fault| decoder.error(fault))?;
        }
        Ok(decoder)
    }

    pub(super) fn of_layout(
        file: Box<dyn SnapshotFile>,
        path: &Path,
        layout: Layout,
    ) -> Result<Decoder> {
        Ok(Decoder {
            file,
            path: path.to_path_buf(),
            info: layout.info(0),
            decompressor: Decompressor::new(layout.header.codec, path)?,
            digest: blake3::Hasher::new(),
            digested: 0,
            next_block: 0,
            offset: layout.blocks_start,
            position: 0,
            block: Vec::new(),
            block_start: 0,
            stored: Vec::new(),
            failed: false,
            layout,
        })
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
            let detail = misnamed(&decoder.info.key, key);
            return Err(damaged(path, Some(key.region), detail));
        }
        Ok(decoder)
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// `Corruption` at the first block that is not as it was written, or `Io`.
    pub(crate) fn check(mut self) -> Result<SnapshotInfo> {
        while self.has_blocks() {
            self.load_block().map_err(|fault| self.error(fault))?;
        }
        Ok(self.info)
    }

    /// Whether the last block was not read yet.
    pub(super) fn has_blocks(&self) -> bool {
        self.next_block < self.layout.footer.block_count
    }

    /// The content of the block that was read last.
    pub(super) fn block(&self) -> &[u8] {
        &self.block
    }

    fn error(&self, fault: Fault) -> Error {
        fault.into_error(&self.path, Some(self.info.key.region))
    }

    fn damaged_block(&self, detail: String) -> Fault {
        Fault::new(SnapshotPart::Block(self.next_block), self.offset, detail)
    }

    /// Reads the lengths of the next block, and checks them before memory is taken.
    fn block_head(&mut self) -> Result<BlockHead, Fault> {
        let room = self.layout.blocks_end.saturating_sub(self.offset);
        let room = room.saturating_sub(BLOCK_HEAD_BYTES as u64);
        if room == 0 {
            return Err(self.damaged_block("the footer is there".into()));
        }
        let mut bytes = [0; BLOCK_HEAD_BYTES];
        let at = (SnapshotPart::Block(self.next_block), self.offset);
        read_part(&mut *self.file, at, &mut bytes, &self.path)?;
        let mut fields = Fields(&bytes);
        let (raw_len, stored_len, crc) = (fields.u32(), fields.u32(), fields.u32());
        let block_bytes = u64::from(self.layout.header.block_bytes);
        let content_left = self.layout.footer.content_bytes - self.next_block * block_bytes;
        let expected = content_left.min(block_bytes);
        if u64::from(raw_len) != expected {
            return Err(self.damaged_block(format!("{raw_len} bytes, expected {expected}")));
        }
        let limit = room.min(expected);
        if stored_len == 0 || u64::from(stored_len) > limit {
            let detail = format!("stored in {stored_len} bytes, expected 1 to {limit}");
            return Err(self.damaged_block(detail));
        }
        Ok(BlockHead {
            bytes,
            raw_len,
            stored_len,
            crc,
        })
    }

    fn pass(&mut self, head: &BlockHead) {
        self.offset += BLOCK_HEAD_BYTES as u64 + u64::from(head.stored_len);
        self.next_block += 1;
    }

    /// Puts the next block into `block`; with the last one, checks that the content ends there.
    pub(super) fn load_block(&mut self) -> Result<(), Fault> {
        self.read_block()?;
        if !self.has_blocks() {
            self.check_end()?;
        }
        Ok(())
    }

    /// Puts the next block into `block`.
    pub(super) fn read_block(&mut self) -> Result<(), Fault> {
        let head = self.block_head()?;
        let (part, data) = (
            SnapshotPart::Block(self.next_block),
            self.offset + BLOCK_HEAD_BYTES as u64,
        );
        // What is in it no longer is a block that was checked.
        self.block.clear();
        self.stored.resize(head.stored_len as usize, 0);
        read_part(&mut *self.file, (part, data), &mut self.stored, &self.path)?;
        let identity = self.layout.header.stamp.identity;
        let computed = block_crc(identity, self.next_block, &head.bytes[..8], &self.stored);
        check_crc(head.crc, computed).map_err(|detail| self.damaged_block(detail))?;
        if head.stored_len == head.raw_len {
            std::mem::swap(&mut self.block, &mut self.stored);
        } else {
            self.block.resize(head.raw_len as usize, 0);
            let filled = self.decompressor.decompress(&self.stored, &mut self.block);
            if let Err(detail) = filled {
                self.block.clear();
                return Err(self.damaged_block(detail));
            }
        }
        self.block_start = self.next_block * u64::from(self.layout.header.block_bytes);
        if self.next_block == self.digested {
            self.digest.update(&self.block);
            self.digested += 1;
        }
        self.pass(&head);
        Ok(())
    }

    /// Passes over the next block without looking at more than its lengths.
    pub(super) fn skip_block(&mut self) -> Result<(), Fault> {
        let head = self.block_head()?;
        self.pass(&head);
        Ok(())
    }

    /// Goes to block `number`, over the heads of those in between.
    fn go_to(&mut self, number: u64) -> Result<(), Fault> {
        if number < self.next_block {
            (self.next_block, self.offset) = (0, self.layout.blocks_start);
        }
        while self.next_block < number {
            self.skip_block()?;
        }
        Ok(())
    }

    /// Behind the last block comes the footer, and the digest is right.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        let (end, footer) = (self.offset, self.layout.blocks_end);
        if end != footer {
            let detail = format!("it starts there, the last block ends at offset {end}");
            return Err(Fault::new(SnapshotPart::Footer, footer, detail));
        }
        if self.digested < self.layout.footer.block_count {
            return Ok(());
        }
        let computed = self.digest.finalize();
        let got = blake3::Hash::from_bytes(self.layout.footer.digest);
        if got != computed {
            let detail = format!("{got}, computed {computed}");
            return Err(Fault::new(SnapshotPart::Digest, footer, detail));
        }
        Ok(())
    }

    fn read_checked(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if self.position >= self.layout.footer.content_bytes || buffer.is_empty() {
            return Ok(0);
        }
        let is_here = (self.position.checked_sub(self.block_start))
            .is_some_and(|into| into < self.block.len() as u64);
        if !is_here {
            self.go_to(self.position / u64::from(self.layout.header.block_bytes))?;
            self.load_block()?;
        }
        let rest = &self.block[(self.position - self.block_start) as usize..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

/// What is wrong with a file of `got` that has the name of `key`.
pub(super) fn misnamed(got: &SnapshotKey, key: &SnapshotKey) -> String {
    format!("it is of {got}, its name says {key}")
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.failed {
            let detail = "an earlier read found it".into();
            return Err(damaged(&self.path, Some(self.info.key.region), detail).into());
        }
        let outcome = self.read_checked(buffer);
        self.failed = outcome.is_err();
        Ok(outcome.map_err(|fault| self.error(fault))?)
    }
}

impl Seek for Decoder {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let length = self.layout.footer.content_bytes;
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => length.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl SnapshotReader for Decoder {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}
