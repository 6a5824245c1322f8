//! Copies what lives in a nearly dead segment into a cold one, so that the space of the rest can be
//! used again. What regions that lag have lives longest: it goes to a cold segment of its own, or it
//! would be copied again with each of those that others' entries are in. Uses: fs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::batch::Encoded;
use super::core::Core;
use super::format::{
    DirWriter, FrameHead, FrameKind, HEADER_BYTES, Header, Identity, RUN_CRC_BYTES, SegmentId,
    Usage, run_crc,
};
use super::index::{Op, Run};
use super::options::Laggard;
use super::reader::Piece;
use super::segment::{Info, Segment};
use super::upkeep::Upkeep;
use crate::error::{Error, Result};
use crate::types::RegionId;

/// The data of one frame of copies, at most,
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// and so small a part of a segment that little of it is left empty,
const FRAMES_PER_SEGMENT: u64 = 16;
/// but not so little that the two fsyncs of a frame are what it costs.
const FRAME_BYTES_MIN: u64 = 4 << 10;

/// A cold segment is full with so small a part of a segment: its file grows with the copies, and the
/// smaller it is, the sooner all of it is dead,
const COLD_PER_SEGMENT: u64 = 8;
/// but the page of its header has to be little of it,
const COLD_BYTES_MIN: u64 = 64 << 10;
/// and each is an open file: in a large log they are larger, up to a segment.
const COLD_PER_LOG: u64 = 64;
/// A region lags if it has so many times the entries that regions have on average.
const TIMES_USUAL: u64 = 2;

/// A segment that copies are written to.
struct Cold {
    segment: Arc<Segment>,
    identity: Identity,
    end: u64,
}

/// The segments that copies are written to.
#[derive(Default)]
pub(super) struct Colds {
    lagging: Option<Cold>,
    others: Option<Cold>,
}

impl Colds {
    fn of(&mut self, is_lagging: bool) -> &mut Option<Cold> {
        match is_lagging {
            true => &mut self.lagging,
            false => &mut self.others,
        }
    }

    /// Whether copies go to this one.
    pub fn has(&self, id: SegmentId) -> bool {
        let is_it = |cold: &Cold| cold.segment.id == id;
        self.lagging.as_ref().is_some_and(is_it) || self.others.as_ref().is_some_and(is_it)
    }

    /// Copies go to none of these any more.
    pub fn forget(&mut self, ids: &[SegmentId]) {
        for cold in [&mut self.lagging, &mut self.others] {
            cold.take_if(|cold| ids.contains(&cold.segment.id));
        }
    }
}

/// What lives in one segment, of one region.
struct Wanted {
    region: RegionId,
    range: Range<u64>,
    /// How many entries the region has, in all segments.
    entries: u64,
}

/// Runs on their way, of one source.
#[derive(Default)]
struct Copies {
    runs: Vec<(Run, Range<u64>)>,
    bodies: Vec<Bytes>,
    bytes: usize,
}

impl Copies {
    fn add(&mut self, piece: &Piece, bytes: &Bytes) {
        self.bytes += bytes.len();
        self.runs.push((piece.run, piece.window.clone()));
        self.bodies.push(bytes.slice(RUN_CRC_BYTES..));
    }
}

impl Core {
    /// Copies what lives in `source`. Says whether it has.
    pub fn copy_what_is_nearly_dead(&self, upkeep: &mut Upkeep, source: &Info) -> Result<bool> {
        match self.copy_segment(upkeep, source) {
            Ok(()) => Ok(true),
            // A spare is worth less than what is freed. Else space comes back when something is compacted.
            Err(Error::DiskFull { .. }) => self.pool.shed(),
            Err(error @ Error::Corruption { .. }) => {
                tracing::warn!(%error, "a segment cannot be copied");
                upkeep.unreadable.insert(source.identity.segment);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn copy_segment(&self, upkeep: &mut Upkeep, source: &Info) -> Result<()> {
        let from = source.identity.segment;
        upkeep.colds.forget(&[from]);
        let (wanted, usual) = self.what_lives_in(from);
        let mut copies: [Copies; 2] = Default::default();
        let mut laggards: Vec<Laggard> = Vec::new();
        let frame_bytes = (self.options.segment_bytes / FRAMES_PER_SEGMENT)
            .clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX);
        for Wanted {
            region,
            range,
            entries,
        } in wanted
        {
            let is_lagging = entries > TIMES_USUAL * usual;
            let copies = &mut copies[usize::from(is_lagging)];
            let (mut next, mut copied) = (range.start, 0);
            while next < range.end {
                // What was removed meanwhile needs no copy.
                let found = self.pieces(region, next..range.end, frame_bytes)?;
                let Some(pieces) = found else {
                    break;
                };
                next = pieces.last().map_or(range.end, |piece| piece.window.end);
                let is_here = |piece: &Piece| piece.info.identity.segment == from;
                let here: Vec<Piece> = pieces.into_iter().filter(is_here).collect();
                self.fetch_raw(&here, &mut |piece, bytes| {
                    copied += bytes.len() as u64;
                    copies.add(piece, &bytes);
                    Ok(())
                })?;
                if copies.bytes as u64 >= frame_bytes {
                    self.write_copies(upkeep, from, is_lagging, std::mem::take(copies))?;
                }
            }
            note(&mut laggards, self.first_index(region), region, copied);
        }
        for (is_lagging, copies) in [false, true].into_iter().zip(copies) {
            self.write_copies(upkeep, from, is_lagging, copies)?;
        }
        if let Some(tell) = &self.options.on_laggards
            && !laggards.is_empty()
        {
            tell(&laggards);
        }
        Ok(())
    }

    /// What lives in a segment, and how many entries a region has on average.
    fn what_lives_in(&self, segment: SegmentId) -> (Vec<Wanted>, u64) {
        let (mut wanted, mut all, mut regions) = (Vec::new(), 0, 0u64);
        self.each_region(|tables, region| {
            let Some(log) = tables.index.regions.get(&region) else {
                return;
            };
            let (Some(first), Some(last)) = (log.parts.first(), log.parts.last()) else {
                return;
            };
            let entries = last.end() - first.first;
            all += entries;
            regions += 1;
            wanted.extend(log.parts_in(segment).map(|part| Wanted {
                region,
                range: part.range(),
                entries,
            }));
        });
        (wanted, all / regions.max(1))
    }

    fn first_index(&self, region: RegionId) -> u64 {
        let tables = self.read_tables();
        let parts = tables.index.regions.get(&region).map(|log| &log.parts);
        parts
            .and_then(|parts| parts.first())
            .map_or(0, |part| part.first)
    }

    /// Writes the runs into a cold segment, and once they are durable says so in the log.
    fn write_copies(
        &self,
        upkeep: &mut Upkeep,
        from: SegmentId,
        is_lagging: bool,
        copies: Copies,
    ) -> Result<()> {
        if copies.runs.is_empty() {
            return Ok(());
        }
        let mut writer = DirWriter::default();
        for (run, window) in &copies.runs {
            writer.add(&Op::Copy {
                run: *run,
                window: window.clone(),
            });
        }
        let dir = writer.bytes;
        let mut cold = self.cold_with_room(upkeep.colds.of(is_lagging))?;
        let to = cold.segment.id;
        let is_first = cold.end == HEADER_BYTES;
        let written = self.write_cold_frame(&mut cold, &dir, copies, from);
        if is_first && matches!(written, Err(Error::DiskFull { .. })) {
            self.fs.remove(&cold.segment.path)?;
        }
        let moves = written?;
        if is_first {
            self.pool.sync_names()?;
        }
        let info = Info {
            segment: Arc::clone(&cold.segment),
            identity: cold.identity,
            is_cold: true,
            end: cold.end,
            footer: None,
        };
        *upkeep.colds.of(is_lagging) = Some(cold);
        self.write_tables().segments.insert(to, info);
        self.submit_and_wait(Encoded::of_ops(moves), true)
    }

    fn write_cold_frame(
        &self,
        cold: &mut Cold,
        dir: &[u8],
        copies: Copies,
        from: SegmentId,
    ) -> Result<Vec<Op>> {
        let (identity, seed) = (cold.identity, cold.identity.seed());
        let head = FrameHead::plan(
            FrameKind::Copies,
            cold.end,
            cold.end,
            dir.len(),
            copies.bytes,
        );
        let is_first = cold.end == HEADER_BYTES;
        let start = if is_first { 0 } else { head.offset };
        let mut bytes = Vec::with_capacity((head.end() - start) as usize);
        if is_first {
            let usage = Usage::Cold;
            bytes.extend(Header { identity, usage }.encode());
            bytes.resize(HEADER_BYTES as usize, 0);
        }
        let frame = bytes.len();
        head.encode(&mut bytes);
        bytes.extend_from_slice(dir);
        let mut moves = Vec::with_capacity(copies.runs.len());
        for ((run, window), body) in copies.runs.into_iter().zip(&copies.bodies) {
            let offset = start + bytes.len() as u64;
            let crc = run_crc(crc32c::crc32c(body), run.region, run.first, seed, offset);
            bytes.extend(crc.to_le_bytes());
            bytes.extend_from_slice(body);
            let run = Run {
                offset: offset as u32,
                ..run
            };
            let to = identity.segment;
            moves.push(Op::Move {
                run,
                window,
                from,
                to,
            });
        }
        head.seal(seed, &mut bytes[frame..]);
        cold.segment.file.write_all_at(&bytes, start)?;
        cold.segment.file.sync()?;
        cold.end = head.end();
        self.counters
            .copied_bytes
            .fetch_add(head.data_bytes, Relaxed);
        Ok(moves)
    }

    /// The open one, or a fresh one if it is full.
    fn cold_with_room(&self, open: &mut Option<Cold>) -> Result<Cold> {
        let full = cold_bytes(
            self.read_tables().segment_bytes(),
            self.options.segment_bytes,
        );
        if let Some(cold) = open.take().filter(|cold| cold.end < full) {
            return Ok(cold);
        }
        let segment = Arc::new(self.pool.begin_empty()?);
        let identity = Identity {
            store: self.store,
            segment: segment.id,
            incarnation: self.incarnation(),
        };
        Ok(Cold {
            segment,
            identity,
            end: HEADER_BYTES,
        })
    }
}

/// With how much a cold segment is full.
fn cold_bytes(log_bytes: u64, segment_bytes: u64) -> u64 {
    let part = segment_bytes / COLD_PER_SEGMENT;
    let least = part.max(COLD_BYTES_MIN).min(segment_bytes);
    (log_bytes / COLD_PER_LOG).clamp(least, segment_bytes)
}

/// Adds what was copied for `region`.
fn note(laggards: &mut Vec<Laggard>, first_index: u64, region: RegionId, bytes: u64) {
    match laggards.last_mut().filter(|last| last.region == region) {
        Some(last) => last.bytes += bytes,
        None => laggards.push(Laggard {
            region,
            first_index,
            bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::cold_bytes;

    #[test]
    fn cold_segments_are_small_in_a_small_log_and_few_in_a_large_one() {
        const SEGMENT: u64 = 32 << 20;
        assert_eq!(cold_bytes(0, SEGMENT), 4 << 20);
        assert_eq!(cold_bytes(256 << 20, SEGMENT), 4 << 20);
        assert_eq!(cold_bytes(1 << 30, SEGMENT), 16 << 20);
        assert_eq!(cold_bytes(1 << 40, SEGMENT), SEGMENT);
        // A header's page is a sixteenth of it, or it is as large as it may be.
        assert_eq!(cold_bytes(0, 64 << 10), 64 << 10);
        assert_eq!(cold_bytes(1 << 40, 16 << 10), 16 << 10);
    }
}
