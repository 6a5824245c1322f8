//! Reading entries: looked up under the lock, read without it, checked, and cut out without copies.
//! Uses: fs.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Entry;

use super::batch::check_run;
use super::core::{Core, Tables};
use super::entries::{decode_run, unpack};
use super::format::{COMPRESSED, RUN_CRC_BYTES, SegmentId};
use super::index::{Index, Run};
use super::scan::scan_group;
use super::segment::Info;
use super::{footer, scan};
use crate::error::{Error, Result};
use crate::types::RegionId;

/// Bytes between two runs that are read with them rather than by a second call.
const GAP_BYTES: u64 = 16 << 10;
/// What one call reads at most, unless one run is larger.
const CALL_BYTES: u64 = 1 << 20;
/// What is looked up at once, in bytes of runs.
const PLAN_BYTES: u64 = 4 << 20;

/// A run that is wanted, and what of it.
pub(super) struct Piece {
    pub info: Info,
    pub run: Run,
    pub window: Range<u64>,
    /// The run's bytes, checksum and all, if they are in memory.
    cached: Option<Bytes>,
}

impl Piece {
    fn start(&self) -> u64 {
        u64::from(self.run.offset)
    }

    fn bytes(&self) -> u64 {
        u64::from(self.run.stored & !COMPRESSED)
    }

    fn end(&self) -> u64 {
        self.start() + self.bytes()
    }

    /// The damage of this run.
    fn damaged(&self, detail: &str) -> Error {
        let Range { start, end } = self.run.range();
        let what = format!("entries [{start}, {end})");
        let (segment, offset) = (self.info.identity.segment, self.run.offset);
        let detail = format!("segment {segment} offset {offset}: {detail}");
        Error::corruption(Some(self.run.region), what, detail)
    }
}

/// What a look-up came to.
enum Plan {
    Pieces(Vec<Piece>),
    /// The places of the entries in this segment were dropped.
    Load(SegmentId),
    Missing,
}

impl Core {
    /// As [`RaftLogStorage::read_entries`](crate::RaftLogStorage::read_entries).
    pub fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut bytes, mut next) = (0u64, range.start);
        while next < range.end {
            // At least one run, and of those behind it what can still fit.
            let wanted = bytes_max.saturating_sub(bytes).min(PLAN_BYTES);
            let pieces = match self.pieces(region, next..range.end, wanted)? {
                Some(pieces) => pieces,
                None => return Err(missing(region, next)),
            };
            next = pieces.last().map_or(range.end, |piece| piece.window.end);
            let before = entries.len();
            self.fetch(&pieces, &mut entries)?;
            for at in before..entries.len() {
                bytes = bytes.saturating_add(u64::from(entries[at].compute_size()));
                if bytes > bytes_max && at > 0 {
                    entries.truncate(at);
                    return Ok(entries);
                }
            }
        }
        Ok(entries)
    }

    pub fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        if index == u64::MAX {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(1);
        if let Some(pieces) = self.pieces(region, index..index + 1, 0)? {
            self.fetch(&pieces, &mut entries)?;
        }
        Ok(entries.pop())
    }

    /// The runs of the first entries of `range`, up to about `bytes`. Nothing if its first is not in
    /// the log.
    pub fn pieces(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes: u64,
    ) -> Result<Option<Vec<Piece>>> {
        let mut loaded = None;
        loop {
            let plan = self.read_tables().plan(region, &range, bytes);
            match plan {
                Plan::Pieces(pieces) => return Ok(Some(pieces)),
                Plan::Missing => return Ok(None),
                Plan::Load(segment) if loaded == Some(segment) => {
                    let what = format!("entries from {}", range.start);
                    let detail = format!("segment {segment}: its frames do not hold them");
                    return Err(Error::corruption(Some(region), what, detail));
                }
                Plan::Load(segment) => {
                    self.load(segment, region)?;
                    loaded = Some(segment);
                }
            }
        }
    }

    /// Reads the places of a segment's entries back into memory.
    pub fn load(&self, segment: SegmentId, region: RegionId) -> Result<()> {
        let info = self.info(segment, region)?;
        let found = match footer::read(&info)? {
            Some(found) => found,
            None => self.index_of_frames(&info)?,
        };
        let mut tables = self.write_tables();
        for (region, parts) in &found {
            tables.index.fill(*region, segment, parts);
        }
        drop(tables);
        self.wake_background();
        Ok(())
    }

    /// The index of a segment without a footer, from its frames.
    fn index_of_frames(&self, info: &Info) -> Result<footer::SegmentIndex> {
        let bytes = info.segment.read(0, info.end)?;
        let scanned = scan::whole(info, &bytes)?;
        let mut index = Index::default();
        for frame in &scanned {
            for op in scan_group(frame, &bytes)? {
                // What was removed later is not asked for.
                if op.data().is_some() {
                    index.apply(info.identity.segment, &op);
                }
            }
        }
        let parts = index
            .regions
            .into_iter()
            .map(|(region, log)| (region, log.parts));
        Ok(parts.collect())
    }

    /// Reads the pieces, which lie in the order of their indexes, and appends their entries.
    pub fn fetch(&self, pieces: &[Piece], entries: &mut Vec<Entry>) -> Result<()> {
        self.fetch_raw(pieces, &mut |piece, bytes| {
            let body = bytes.slice(RUN_CRC_BYTES..);
            let run = &piece.run;
            unpack(run.stored, body)
                .and_then(|b| decode_run(&b, run.first, run.term, &piece.window, entries))
                .ok_or_else(|| piece.damaged("its checksum is right and its bytes do not parse"))
        })
    }

    /// Reads the pieces and hands each one's bytes, checked, to `take`.
    pub fn fetch_raw(
        &self,
        pieces: &[Piece],
        take: &mut dyn FnMut(&Piece, Bytes) -> Result<()>,
    ) -> Result<()> {
        let mut rest = pieces;
        while let Some(first) = rest.first() {
            if let Some(bytes) = &first.cached {
                take(first, bytes.clone())?;
                rest = &rest[1..];
                continue;
            }
            let count = contiguous(rest);
            let (call, behind) = rest.split_at(count);
            let (start, end) = (first.start(), call[count - 1].end());
            let bytes = Bytes::from(first.info.segment.read(start, end - start)?);
            self.counters.read_bytes.fetch_add(end - start, Relaxed);
            for piece in call {
                let within = (piece.start() - start) as usize;
                let bytes = bytes.slice(within..within + piece.bytes() as usize);
                let checked = check_run(&piece.run, piece.info.identity.seed(), &bytes);
                checked.map_err(|(stored, computed)| {
                    piece.damaged(&format!("crc {stored:#010x}, computed {computed:#010x}"))
                })?;
                take(piece, bytes)?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// The stored bytes of the runs that hold entries of `range`.
    pub fn approximate_bytes(&self, region: RegionId, range: &Range<u64>) -> u64 {
        let tables = self.read_tables();
        let Some(log) = tables
            .index
            .regions
            .get(&region)
            .filter(|_| !range.is_empty())
        else {
            return 0;
        };
        let parts = log.parts[log.overlapping(range)].iter();
        let clipped = parts.map(|p| p.clip(p.first.max(range.start)..p.end().min(range.end)));
        clipped.map(|part| part.bytes).sum()
    }
}

/// How many of the first pieces are read by one call.
fn contiguous(pieces: &[Piece]) -> usize {
    let first = &pieces[0];
    let mut end = first.end();
    for (at, piece) in pieces.iter().enumerate().skip(1) {
        let same = piece.info.identity == first.info.identity && piece.cached.is_none();
        let near = (end..end + GAP_BYTES + 1).contains(&piece.start());
        if !same || !near || piece.end() - first.start() > CALL_BYTES {
            return at;
        }
        end = piece.end();
    }
    pieces.len()
}

impl Tables {
    fn plan(&self, region: RegionId, range: &Range<u64>, bytes_max: u64) -> Plan {
        let Some(log) = self.index.regions.get(&region) else {
            return Plan::Missing;
        };
        let (mut pieces, mut bytes, mut next) = (Vec::new(), 0, range.start);
        for part in &log.parts[log.overlapping(range)] {
            if part.first > next || (!pieces.is_empty() && bytes >= bytes_max) {
                break;
            }
            let found = part.runs.as_ref().zip(self.segments.get(&part.segment));
            let Some((runs, info)) = found else {
                if pieces.is_empty() {
                    return Plan::Load(part.segment);
                }
                break;
            };
            let wanted = next..part.end().min(range.end);
            for found in runs.within(&wanted) {
                let run = Run {
                    region,
                    first: found.first,
                    count: found.count as u32,
                    term: part.term,
                    stored: found.at.stored,
                    offset: found.at.offset,
                };
                let window = next..run.range().end.min(wanted.end);
                next = window.end;
                bytes += found.at.bytes();
                let offset = u64::from(run.offset);
                let cached = self.ring.find(part.segment, offset, found.at.bytes());
                pieces.push(Piece {
                    info: info.clone(),
                    run,
                    window,
                    cached,
                });
                if bytes >= bytes_max {
                    break;
                }
            }
        }
        match pieces.is_empty() {
            true => Plan::Missing,
            false => Plan::Pieces(pieces),
        }
    }
}

pub(super) fn missing(region: RegionId, index: u64) -> Error {
    let detail = "it is missing from the log";
    Error::corruption(Some(region), format!("entry {index}"), detail)
}
