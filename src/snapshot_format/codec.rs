//! The codecs: one block in, one block out, into memory that the caller gives. Uses: snapshot_store, error.

use std::io::{Cursor, Read as _, Write as _};
use std::path::Path;

use crate::error::{Error, Result};
use crate::snapshot_store::{Codec, Compression, SnapshotMeta};

pub(super) enum Compressor {
    None,
    Gzip(flate2::Compression),
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// # Errors
    /// `SnapshotRefused` if there is no such level.
    pub fn new(compression: Compression, meta: &SnapshotMeta) -> Result<Compressor> {
        let refused = |reason: String| Error::SnapshotRefused {
            region: meta.region.region_id(),
            reason: format!("{compression:?}: {reason}"),
        };
        compression.check().map_err(refused)?;
        Ok(match compression {
            Compression::None => Compressor::None,
            Compression::Gzip { level } => Compressor::Gzip(flate2::Compression::new(level)),
            Compression::Lz4 => Compressor::Lz4,
            Compression::Zstd { level } => Compressor::Zstd(
                zstd::bulk::Compressor::new(level).map_err(|e| refused(e.to_string()))?,
            ),
        })
    }

    /// What a block of `raw_len` bytes may need to be compressed into.
    pub fn room(raw_len: usize) -> usize {
        zstd::zstd_safe::compress_bound(raw_len)
            .max(lz4_flex::block::get_maximum_output_size(raw_len))
    }

    /// Compresses into `out` and says how many bytes it took, if that went well.
    pub fn compress(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Compressor::None => None,
            // What does not get smaller need not fit.
            Compressor::Gzip(level) => {
                let mut gzip = flate2::write::GzEncoder::new(Cursor::new(out), *level);
                gzip.write_all(raw).ok()?;
                let written = gzip.finish().ok()?;
                usize::try_from(written.position()).ok()
            }
            Compressor::Lz4 => lz4_flex::block::compress_into(raw, out).ok(),
            Compressor::Zstd(compressor) => compressor.compress_to_buffer(raw, out).ok(),
        }
    }
}

pub(super) enum Decompressor {
    None,
    Gzip,
    Lz4,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decompressor {
    pub fn new(codec: Codec, path: &Path) -> Result<Self> {
        Ok(match codec {
            Codec::None => Decompressor::None,
            Codec::Gzip => Decompressor::Gzip,
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
    pub fn decompress(&mut self, stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
        let got = match self {
            Decompressor::None => return Err("compressed, in a file without compression".into()),
            Decompressor::Gzip => return gunzip(stored, raw).map_err(|e| e.to_string()),
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

/// Fills `raw` from the one member that `stored` is.
fn gunzip(stored: &[u8], raw: &mut [u8]) -> std::io::Result<()> {
    let mut gzip = flate2::bufread::GzDecoder::new(stored);
    gzip.read_exact(raw)?;
    // The read behind the end checks the member's own checksum. One byte is all that a bomb gets.
    if gzip.read(&mut [0])? > 0 {
        let detail = format!("more than {} bytes when decompressed", raw.len());
        return Err(std::io::Error::other(detail));
    }
    match gzip.into_inner() {
        [] => Ok(()),
        rest => {
            let detail = format!("{} bytes behind the end", rest.len());
            Err(std::io::Error::other(detail))
        }
    }
}
