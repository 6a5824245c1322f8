//! Copies what lives in a nearly dead segment into a cold one, so that the space of the rest can be
//! used again. Uses: fs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::batch::Encoded;
use super::core::Core;
use super::format::{
    DirWriter, FRAME_HEAD_MAX, FrameHead, FrameKind, HEADER_BYTES, Header, Identity, RUN_CRC_BYTES,
    SegmentId, Usage, run_crc,
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

/// The segment that copies are written to.
pub(super) struct Cold {
    segment: Arc<Segment>,
    identity: Identity,
    end: u64,
}

impl Cold {
    pub fn id(&self) -> SegmentId {
        self.segment.id
    }
}

/// Runs on their way, of one source.
#[derive(Default)]
struct Copies {
    runs: Vec<(Run, Range<u64>)>,
    bodies: Vec<Bytes>,
    bytes: usize,
}

impl Core {
    /// Copies what lives in one segment, if there is one that is worth it. Says whether it has.
    pub fn copy_what_is_nearly_dead(&self, upkeep: &mut Upkeep) -> Result<bool> {
        let Some(source) = self.copy_candidate(upkeep) else {
            return Ok(false);
        };
        match self.copy_segment(upkeep, &source) {
            Ok(()) => Ok(true),
            // Space comes back when something is compacted.
            Err(Error::DiskFull { .. }) => Ok(false),
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
        let mut wanted: Vec<(RegionId, Range<u64>)> = Vec::new();
        self.each_region(|tables, region| {
            let log = tables.index.regions.get(&region);
            let parts = log.into_iter().flat_map(|log| &log.parts);
            let here = parts.filter(|part| part.segment == from);
            wanted.extend(here.map(|part| (region, part.range())));
        });
        let mut copies = Copies::default();
        let mut laggards: Vec<Laggard> = Vec::new();
        let frame_bytes = (self.options.segment_bytes / FRAMES_PER_SEGMENT)
            .clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX);
        for (region, range) in wanted {
            let mut next = range.start;
            let before = copies.bytes as u64 + self.counters.copied_bytes.load(Relaxed);
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
                    copies.bytes += bytes.len();
                    copies.runs.push((piece.run, piece.window.clone()));
                    copies.bodies.push(bytes.slice(RUN_CRC_BYTES..));
                    Ok(())
                })?;
                if copies.bytes as u64 >= frame_bytes {
                    self.write_copies(upkeep, from, std::mem::take(&mut copies))?;
                }
            }
            let copied = copies.bytes as u64 + self.counters.copied_bytes.load(Relaxed) - before;
            note(&mut laggards, self.first_index(region), region, copied);
        }
        self.write_copies(upkeep, from, copies)?;
        if let Some(tell) = &self.options.on_laggards
            && !laggards.is_empty()
        {
            tell(&laggards);
        }
        Ok(())
    }

    fn first_index(&self, region: RegionId) -> u64 {
        let tables = self.read_tables();
        let parts = tables.index.regions.get(&region).map(|log| &log.parts);
        parts
            .and_then(|parts| parts.first())
            .map_or(0, |part| part.first)
    }

    /// Writes the runs into the cold segment, and once they are durable says so in the log.
    fn write_copies(&self, upkeep: &mut Upkeep, from: SegmentId, copies: Copies) -> Result<()> {
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
        let bytes = (FRAME_HEAD_MAX + dir.len() + copies.bytes) as u64;
        let mut cold = self.cold_with_room(upkeep, bytes)?;
        let to = cold.id();
        let moves = self.write_cold_frame(&mut cold, &dir, copies, from)?;
        let info = Info {
            segment: Arc::clone(&cold.segment),
            identity: cold.identity,
            is_cold: true,
            end: cold.end,
            footer: None,
        };
        upkeep.cold = Some(cold);
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

    /// The cold segment, or a fresh one if it is full.
    fn cold_with_room(&self, upkeep: &mut Upkeep, bytes: u64) -> Result<Cold> {
        let has_room = |cold: &Cold| cold.end + bytes <= cold.segment.size;
        if let Some(cold) = upkeep.cold.take().filter(has_room) {
            return Ok(cold);
        }
        let segment = Arc::new(self.pool.take(HEADER_BYTES + bytes)?);
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
