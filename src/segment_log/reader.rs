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
use super::index::Run;
use super::part::{Part, Runs};
use super::segment::Info;
use crate::error::{Error, Result};
use crate::types::RegionId;

/// Bytes between two runs that are read with them rather than by a second call.
const GAP_BYTES: u64 = 16 << 10;
/// What one call reads at most, unless one run is larger.
const CALL_BYTES: u64 = 1 << 20;
/// What is looked up at once, in bytes of runs,
const PLAN_BYTES: u64 = 4 << 20;
/// and in runs: to be looked up takes more memory than a tiny one has bytes.
const PLAN_RUNS: usize = 4096;

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
        let mut loaded: Option<(SegmentId, Vec<Part>)> = None;
        let mut gone = None;
        loop {
            let plan = self
                .read_tables()
                .plan(region, &range, bytes, loaded.as_ref());
            match plan {
                Plan::Pieces(pieces) => return Ok(Some(pieces)),
                Plan::Missing => return Ok(None),
                Plan::Load(segment)
                    if gone == Some(segment)
                        || loaded.as_ref().is_some_and(|(found, _)| *found == segment) =>
                {
                    let what = format!("entries from {}", range.start);
                    let detail = format!("segment {segment}: its frames do not hold them");
                    return Err(Error::corruption(Some(region), what, detail));
                }
                Plan::Load(segment) => {
                    // What is found is held on to: another reader may need the memory at once.
                    match self.load(segment, region)? {
                        Some(parts) => loaded = Some((segment, parts)),
                        // Its entries were copied elsewhere since.
                        None => gone = Some(segment),
                    }
                }
            }
        }
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
            let mut read = first.info.segment.read(start, end - start)?;
            self.counters.read_bytes.fetch_add(end - start, Relaxed);
            let is_packed = count > 1 && pack(call, &mut read);
            let read = Bytes::from(read);
            let mut next = 0;
            for piece in call {
                let at = match is_packed {
                    true => next,
                    false => (piece.start() - start) as usize,
                };
                next = at + piece.bytes() as usize;
                let bytes = read.slice(at..next);
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

/// Leaves of what was read for several pieces no more than their bytes, one after the other, if most of
/// it lies between them: whoever keeps an entry keeps all that was read with it. Says whether it has.
fn pack(pieces: &[Piece], read: &mut Vec<u8>) -> bool {
    let wanted: u64 = pieces.iter().map(Piece::bytes).sum();
    if wanted * 2 >= read.len() as u64 {
        return false;
    }
    let mut end = 0;
    for piece in pieces {
        let (at, bytes) = (piece.start() - pieces[0].start(), piece.bytes());
        read.copy_within(at as usize..(at + bytes) as usize, end);
        end += bytes as usize;
    }
    read.truncate(end);
    read.shrink_to_fit();
    true
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
    /// Looks the first entries of `range` up. `loaded` are the places in a segment that have just been
    /// read, for parts that have dropped theirs.
    fn plan(
        &self,
        region: RegionId,
        range: &Range<u64>,
        bytes_max: u64,
        loaded: Option<&(SegmentId, Vec<Part>)>,
    ) -> Plan {
        let Some(log) = self.index.regions.get(&region) else {
            return Plan::Missing;
        };
        let mut planned = Planned {
            pieces: Vec::new(),
            bytes: 0,
            bytes_max,
            next: range.start,
        };
        for part in &log.parts[log.overlapping(range)] {
            if part.first > planned.next || planned.is_full() {
                break;
            }
            let before = planned.next;
            let wanted = before..part.end().min(range.end);
            match (&part.runs, self.segments.get(&part.segment)) {
                (Some(runs), Some(info)) => {
                    self.take(region, (part, runs, info), &wanted, &mut planned);
                }
                (None, Some(info)) => {
                    let here = loaded.filter(|(segment, _)| *segment == part.segment);
                    let found = here.map(|(_, found)| part.clip(wanted).cover(found));
                    for piece in found.iter().flatten() {
                        if let Some(runs) = &piece.runs {
                            self.take(region, (piece, runs, info), &piece.range(), &mut planned);
                        }
                    }
                }
                (_, None) => {}
            }
            if planned.next == before {
                if planned.pieces.is_empty() {
                    return Plan::Load(part.segment);
                }
                break;
            }
        }
        match planned.pieces.is_empty() {
            true => Plan::Missing,
            false => Plan::Pieces(planned.pieces),
        }
    }

    /// Adds the runs of a part that hold entries of `wanted`, until there is enough.
    fn take(
        &self,
        region: RegionId,
        (part, runs, info): (&Part, &Runs, &Info),
        wanted: &Range<u64>,
        planned: &mut Planned,
    ) {
        // Only what follows on what is planned already.
        if planned.is_full() || wanted.start != planned.next || wanted.is_empty() {
            return;
        }
        for found in runs.within(wanted) {
            let run = Run {
                region,
                first: found.first,
                count: found.count as u32,
                term: part.term,
                stored: found.at.stored,
                offset: found.at.offset,
            };
            let window = planned.next..run.range().end.min(wanted.end);
            planned.next = window.end;
            planned.bytes += found.at.bytes();
            let offset = u64::from(run.offset);
            let cached = self.ring.find(part.segment, offset, found.at.bytes());
            planned.pieces.push(Piece {
                info: info.clone(),
                run,
                window,
                cached,
            });
            if planned.is_full() {
                return;
            }
        }
    }
}

/// What was looked up so far.
struct Planned {
    pieces: Vec<Piece>,
    bytes: u64,
    bytes_max: u64,
    /// Behind the last entry.
    next: u64,
}

impl Planned {
    /// Whether it is as much as was asked for: at least one run.
    fn is_full(&self) -> bool {
        !self.pieces.is_empty() && (self.bytes >= self.bytes_max || self.pieces.len() >= PLAN_RUNS)
    }
}

pub(super) fn missing(region: RegionId, index: u64) -> Error {
    let detail = "it is missing from the log";
    Error::corruption(Some(region), format!("entry {index}"), detail)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::format::Identity;
    use super::super::segment::Segment;
    use super::*;
    use crate::fs::FileSystem as _;
    use crate::memory::MemFs;

    fn pieces(places: &[(u32, u32)]) -> Result<Vec<Piece>> {
        let path = PathBuf::from("segment");
        let segment = Arc::new(Segment {
            id: SegmentId(1),
            file: MemFs::new().create(&path)?,
            path,
            size: 0,
            length: 0,
        });
        let piece = |(offset, stored)| Piece {
            info: Info {
                segment: Arc::clone(&segment),
                identity: Identity::default(),
                is_cold: false,
                end: 0,
                footer: None,
            },
            run: Run {
                region: RegionId(1),
                first: 1,
                count: 1,
                term: 1,
                stored,
                offset,
            },
            window: 1..2,
            cached: None,
        };
        Ok(places.iter().copied().map(piece).collect())
    }

    #[test]
    fn entries_that_lie_far_apart_keep_no_more_than_their_bytes() -> Result<()> {
        let read: Vec<u8> = (0..100).collect();
        let mut packed = read.clone();
        assert!(pack(
            &pieces(&[(500, 3), (560, 2), (590, 10 | COMPRESSED)])?,
            &mut packed
        ));
        assert_eq!(packed[..5], [0, 1, 2, 60, 61]);
        assert_eq!(packed[5..], (90..100).collect::<Vec<u8>>());
        assert_eq!(packed.capacity(), 15);
        // Where most of it is wanted, nothing is moved.
        let mut dense = read.clone();
        assert!(!pack(&pieces(&[(500, 40), (590, 10)])?, &mut dense));
        assert_eq!(dense, read);
        Ok(())
    }
}
