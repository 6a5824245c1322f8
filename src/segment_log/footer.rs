//! The index of a sealed segment, written behind its frames, so that the memory for it can be given
//! back. It repeats what the frames say: where it is damaged or missing, they are read instead.
//! Uses: fs.

use std::collections::HashMap;

use crc32c::crc32c_append;

use super::codec::{Input, put_varint};
use super::format::{COMPRESSED, RUN_ENTRIES_MAX, SegmentId};
use super::part::{Part, RunRef, Runs};
use super::segment::{Footer, Info, footer_offset};
use crate::error::Result;
use crate::types::RegionId;

/// The parts of each region in one segment, ascending.
pub(super) type SegmentIndex = HashMap<RegionId, Vec<Part>>;

const CRC_BYTES: usize = 4;

/// The index of a segment on its way: it is far smaller than what it is made of, so the regions come one
/// after the other.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Writer {
            bytes: vec![0; CRC_BYTES],
        }
    }

    /// Adds what a region has in the segment.
    pub fn region(&mut self, region: RegionId, parts: &[Part]) {
        put_varint(&mut self.bytes, region.0);
        put_varint(&mut self.bytes, parts.len() as u64);
        for part in parts {
            put_part(&mut self.bytes, part);
        }
    }

    /// Writes it behind the frames of its segment, durable on return.
    ///
    /// # Errors
    /// `DiskFull` or `Io`. The segment's frames are untouched.
    pub fn finish(mut self, info: &Info) -> Result<Footer> {
        let offset = footer_offset(info.end);
        let crc = footer_crc(info, offset, &self.bytes[CRC_BYTES..]);
        self.bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        info.segment.file.write_all_at(&self.bytes, offset)?;
        info.segment.file.sync()?;
        Ok(Footer {
            offset,
            bytes: self.bytes.len() as u64,
        })
    }
}

fn footer_crc(info: &Info, offset: u64, body: &[u8]) -> u32 {
    let crc = crc32c_append(info.identity.seed(), &offset.to_le_bytes());
    crc32c_append(crc32c_append(crc, b"index"), body)
}

fn put_part(out: &mut Vec<u8>, part: &Part) {
    let range = part.range();
    let runs = part.runs.as_ref().map(|runs| runs.within(&range));
    let count = runs.as_ref().map_or(0, |runs| runs.len() as u64);
    let mut runs = runs.into_iter().flatten().peekable();
    let base = runs.peek().map_or(part.first, |run| run.first);
    for word in [part.first, part.count, part.term, part.first - base, count] {
        put_varint(out, word);
    }
    let mut behind = 0u32;
    for run in runs {
        put_varint(out, run.count);
        put_varint(out, u64::from(run.at.offset.wrapping_sub(behind)));
        let packed = u64::from(run.at.stored & COMPRESSED != 0);
        put_varint(out, run.at.bytes() << 1 | packed);
        behind = run.at.offset.wrapping_add(run.at.bytes() as u32);
    }
}

/// Reads the index of a segment. Nothing if it has none or it is damaged.
///
/// # Errors
/// `Io`.
pub(super) fn read(info: &Info) -> Result<Option<SegmentIndex>> {
    let Some(footer) = info.footer else {
        return Ok(None);
    };
    let length = info.segment.file.length()?;
    let fits = footer
        .offset
        .checked_add(footer.bytes)
        .is_some_and(|end| end <= length);
    if !fits || footer.bytes < CRC_BYTES as u64 {
        return Ok(None);
    }
    let bytes = info.segment.read(footer.offset, footer.bytes)?;
    let (crc, body) = bytes.split_at(CRC_BYTES);
    let computed = footer_crc(info, footer.offset, body);
    if crc != computed.to_le_bytes() {
        return Ok(None);
    }
    Ok(parse(info.identity.segment, body))
}

fn parse(segment: SegmentId, body: &[u8]) -> Option<SegmentIndex> {
    let mut input = Input::new(body);
    let mut index = SegmentIndex::new();
    while !input.is_empty() {
        let region = RegionId(input.varint()?);
        let mut parts = Vec::new();
        for _ in 0..input.varint()? {
            parts.push(read_part(segment, &mut input)?);
        }
        index.insert(region, parts);
    }
    Some(index)
}

fn read_part(segment: SegmentId, input: &mut Input) -> Option<Part> {
    let (first, count, term) = (input.varint()?, input.varint()?, input.varint()?);
    let base = first.checked_sub(input.varint()?)?;
    let end = first.checked_add(count)?;
    let mut runs = Runs::empty(base, 0);
    let mut behind = 0u32;
    for _ in 0..input.varint()? {
        let count = input
            .varint32()
            .filter(|c| (1..=RUN_ENTRIES_MAX).contains(c))?;
        let offset = behind.wrapping_add(input.varint32()?);
        let stored = input.varint()?;
        let length = u32::try_from(stored >> 1)
            .ok()
            .filter(|l| l & COMPRESSED == 0)?;
        let packed = if stored & 1 != 0 { COMPRESSED } else { 0 };
        runs.push(
            count,
            RunRef {
                offset,
                stored: length | packed,
            },
        );
        behind = offset.wrapping_add(length);
    }
    runs.shrink_to_fit();
    let is_whole = count > 0 && base <= first && runs.end() >= end;
    is_whole.then(|| Part::new(segment, term, first..end, runs))
}
