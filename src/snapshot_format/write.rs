//! Content in, a snapshot file out, block by block. Uses: snapshot_format, snapshot_store, error.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::codec::Compressor;
use super::layout::{Footer, Header, Layout};
use super::{BLOCK_HEAD_BYTES, FORMAT_VERSION, Stamp, block_crc};
use crate::error::{Error, Result};
use crate::snapshot_store::{Compression, SnapshotInfo, SnapshotMeta};

/// Takes the bytes of a file, in order.
pub(crate) trait Sink {
    /// Takes the next ones.
    ///
    /// # Errors
    /// Those of the store.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes one file. Its memory is two blocks and what the compressor takes.
pub(crate) struct Encoder<S> {
    sink: S,
    header: Header,
    header_bytes: u64,
    compressor: Compressor,
    /// The content of the block that is not full yet.
    raw: Vec<u8>,
    /// A block as it is written: its head, then room for the worst that a compressor may make of it.
    frame: Vec<u8>,
    file_bytes: u64,
    content_bytes: u64,
    block_count: u64,
    entry_count: u64,
    digest: blake3::Hasher,
}

impl<S: Sink> Encoder<S> {
    /// Starts a file with its header. The stamp must be another for each file.
    ///
    /// # Errors
    /// `InvalidArgument` if the metadata is too large, else those of the sink.
    pub(crate) fn new(
        mut sink: S,
        meta: SnapshotMeta,
        compression: Compression,
        block_bytes: u32,
        stamp: Stamp,
    ) -> Result<Self> {
        let compressor = Compressor::new(compression, &meta)?;
        let block_len = block_bytes as usize;
        let header = Header {
            version: FORMAT_VERSION,
            codec: compression.codec(),
            block_bytes,
            stamp,
            meta,
        };
        let bytes = header.encode()?;
        sink.put(&bytes)?;
        Ok(Encoder {
            sink,
            header,
            header_bytes: bytes.len() as u64,
            compressor,
            raw: Vec::with_capacity(block_len),
            frame: vec![0; BLOCK_HEAD_BYTES + Compressor::room(block_len)],
            file_bytes: bytes.len() as u64,
            content_bytes: 0,
            block_count: 0,
            entry_count: 0,
            digest: blake3::Hasher::new(),
        })
    }

    /// Takes the next bytes of the content.
    ///
    /// # Errors
    /// Those of the sink. The file is of no use then.
    pub(crate) fn write(&mut self, mut content: &[u8]) -> Result<()> {
        let block_bytes = self.header.block_bytes as usize;
        while !content.is_empty() {
            let (front, rest) = content.split_at(content.len().min(block_bytes - self.raw.len()));
            self.raw.extend_from_slice(front);
            content = rest;
            if self.raw.len() == block_bytes {
                self.write_block()?;
            }
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<()> {
        let raw_len = self.raw.len();
        self.digest.update(&self.raw);
        let (head, room) = self.frame.split_at_mut(BLOCK_HEAD_BYTES);
        let compressed = self.compressor.compress(&self.raw, room);
        // Equal lengths say that it is not compressed.
        let stored_len = match compressed {
            Some(length) if length < raw_len => length,
            _ => {
                room[..raw_len].copy_from_slice(&self.raw);
                raw_len
            }
        };
        let (lengths, crc) = head.split_at_mut(8);
        lengths[..4].copy_from_slice(&(raw_len as u32).to_le_bytes());
        lengths[4..].copy_from_slice(&(stored_len as u32).to_le_bytes());
        let stored = &room[..stored_len];
        let computed = block_crc(
            self.header.stamp.identity,
            self.block_count,
            lengths,
            stored,
        );
        crc.copy_from_slice(&computed.to_le_bytes());
        self.sink
            .put(&self.frame[..BLOCK_HEAD_BYTES + stored_len])?;
        self.file_bytes += (BLOCK_HEAD_BYTES + stored_len) as u64;
        self.content_bytes += raw_len as u64;
        self.block_count += 1;
        self.raw.clear();
        Ok(())
    }

    /// Adds to the number of entries that the footer tells.
    pub(crate) fn count_entries(&mut self, count: u64) {
        self.entry_count = self.entry_count.saturating_add(count);
    }

    /// Writes the last block and the footer. The sequence of the answer is 0.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn finish(mut self) -> Result<(S, SnapshotInfo)> {
        if !self.raw.is_empty() {
            self.write_block()?;
        }
        let footer = Footer {
            entry_count: self.entry_count,
            content_bytes: self.content_bytes,
            block_count: self.block_count,
            digest: *self.digest.finalize().as_bytes(),
        };
        self.sink.put(&footer.encode(self.header.stamp.identity))?;
        let layout = Layout {
            header: self.header,
            footer,
            blocks_start: self.header_bytes,
            blocks_end: self.file_bytes,
        };
        Ok((self.sink, layout.info(0)))
    }
}

impl<S: Sink> Sink for Encoder<S> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }
}

/// A sink as a stream that ends with its first failure: the sink is dropped at once.
pub(crate) struct SinkStream<S> {
    /// The sink, or what ended it.
    sink: Result<S, String>,
    /// The store, for the error.
    store: PathBuf,
}

impl<S: Sink> SinkStream<S> {
    pub(crate) fn new(sink: S, store: &Path) -> Self {
        SinkStream {
            sink: Ok(sink),
            store: store.to_path_buf(),
        }
    }

    /// The sink, unless a write has failed.
    pub(crate) fn sink(&self) -> Option<&S> {
        self.sink.as_ref().ok()
    }

    /// The sink, unless a write has failed.
    pub(crate) fn sink_mut(&mut self) -> Option<&mut S> {
        self.sink.as_mut().ok()
    }

    /// # Errors
    /// `Poisoned` if a write has failed.
    pub(crate) fn into_inner(self) -> Result<S> {
        let (sink, path) = (self.sink, self.store);
        sink.map_err(|cause| Error::Poisoned { path, cause })
    }
}

impl<S: Sink> Write for SinkStream<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let outcome = match &mut self.sink {
            Ok(sink) => sink.put(bytes),
            Err(cause) => {
                let (path, cause) = (self.store.clone(), cause.clone());
                return Err(Error::Poisoned { path, cause }.into());
            }
        };
        if let Err(error) = outcome {
            self.sink = Err(error.to_string());
            return Err(error.into());
        }
        Ok(bytes.len())
    }

    /// Does nothing: what is not full is kept for `commit`.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
