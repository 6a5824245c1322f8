//! One segment file, and what is known of it. Uses: fs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{HEADER_USED, Header, HeaderFound, Identity, SegmentId};
use crate::error::{Error, Result};
use crate::fs::{File, FileSystem};

const SUFFIX: &str = ".seg";

/// The name of a segment's file: its number in sixteen hexadecimal digits.
pub(super) fn file_name(id: SegmentId) -> String {
    format!("{:016x}{SUFFIX}", id.0)
}

/// The segment that a file of this name holds.
pub(super) fn parse_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(SUFFIX)?;
    let id = SegmentId(u64::from_str_radix(digits, 16).ok()?);
    (file_name(id) == name).then_some(id)
}

/// An open segment file.
pub(super) struct Segment {
    pub id: SegmentId,
    pub path: PathBuf,
    pub file: Box<dyn File>,
    /// What frames may take. The space is there: it was written to, if only with zeroes, or set aside.
    pub size: u64,
    /// What the file takes, if no index is added behind the frames: a recycled one still has the space
    /// of its last.
    pub length: u64,
}

impl Segment {
    /// Frames may take `size` bytes from now on.
    pub fn extend(&mut self, size: u64) {
        self.size = size;
        self.length = self.length.max(size);
    }

    pub fn open(fs: &dyn FileSystem, path: PathBuf, id: SegmentId) -> Result<Segment> {
        let file = fs.open_for_write(&path)?;
        let size = file.length()?;
        Ok(Segment {
            id,
            path,
            file,
            size,
            length: size,
        })
    }

    /// What its first bytes say. A file too short for a header is blank.
    pub fn header(&self) -> Result<HeaderFound> {
        if self.size < HEADER_USED as u64 {
            return Ok(HeaderFound::Blank);
        }
        let mut bytes = [0; HEADER_USED];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Header::decode(&bytes))
    }

    /// The header of a segment that must have one.
    ///
    /// # Errors
    /// `Corruption`, `UnsupportedVersion`, or `Io`.
    pub fn valid_header(&self) -> Result<Header> {
        match self.header()? {
            HeaderFound::Valid(header) => Ok(header),
            HeaderFound::Blank => Err(damaged(&self.path, "its header is empty".into())),
            HeaderFound::Newer(got) => Err(newer(&self.path, got)),
            HeaderFound::Damaged(stored, computed) => {
                let detail =
                    format!("its header has crc {stored:#010x}, computed {computed:#010x}");
                Err(damaged(&self.path, detail))
            }
        }
    }

    pub fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut buffer = vec![0; bytes as usize];
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }
}

pub(super) fn newer(path: &Path, got: u32) -> Error {
    Error::UnsupportedVersion {
        path: path.to_path_buf(),
        got,
        max: super::format::VERSION,
    }
}

/// Damage of a file that cannot be pinned to a region.
pub(super) fn damaged(path: &Path, detail: String) -> Error {
    let name = path.file_name().unwrap_or(path.as_os_str());
    Error::corruption(None, format!("log file {}", name.to_string_lossy()), detail)
}

/// A segment in use.
#[derive(Clone)]
pub(super) struct Info {
    pub segment: Arc<Segment>,
    pub identity: Identity,
    /// Whether it holds copies, and not a part of the log's own order.
    pub is_cold: bool,
    /// Behind its last frame.
    pub end: u64,
    /// Where its index is, once it was written.
    pub footer: Option<Footer>,
}

impl Info {
    /// What its file takes: its index may lie behind what was made for frames, and one that copies go to
    /// grows with them.
    pub fn file_bytes(&self) -> u64 {
        let behind = self.footer.map_or(0, |footer| footer.offset + footer.bytes);
        self.segment.length.max(self.end).max(behind)
    }

    /// What of it is for frames.
    pub fn frame_bytes(&self) -> u64 {
        match self.is_cold {
            true => self.end,
            false => self.segment.size,
        }
    }
}

/// Where the index of a sealed segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub offset: u64,
    pub bytes: u64,
}

/// Where the index of a segment that ends at `end` begins: on a page of its own, so that writing it
/// does not read.
pub(super) fn footer_offset(end: u64) -> u64 {
    end.next_multiple_of(super::format::PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_segments() {
        let name = file_name(SegmentId(0x1f));
        assert_eq!(name, "000000000000001f.seg");
        assert_eq!(parse_name(&name), Some(SegmentId(0x1f)));
        for foreign in [
            "1f.seg",
            "000000000000001F.seg",
            "../00000000001f.seg",
            "",
            ".seg",
        ] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }
}
