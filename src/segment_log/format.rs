//! The bytes of a segment: its header, its frames and the operations of a frame's directory. What
//! they mean is in `docs/log-format.md`. Never does I/O.

use bytes::BufMut;
use crc32c::{crc32c, crc32c_append};

use super::codec::{Input, put_varint, varint_bytes};
use super::index::{Op, Run, State};
use crate::types::RegionId;

/// The version that this build writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;
/// Where the first frame of a segment begins. The header alone is on its page.
pub(super) const HEADER_BYTES: u64 = 4096;
/// What a disk and the page cache deal in.
pub(super) const PAGE_BYTES: u64 = 4096;
/// The bytes of the header that say something.
pub(super) const HEADER_USED: usize = 60;
const MAGIC: &[u8; 8] = b"PSSEGLOG";

/// The most bytes that the head of a frame takes.
pub(super) const FRAME_HEAD_MAX: usize = 4 + 1 + 3 * 10;
/// The checksum that a run begins with.
pub(super) const RUN_CRC_BYTES: usize = 4;
/// The most entries of a run.
pub(super) const RUN_ENTRIES_MAX: u32 = 1 << 20;
/// Of a stored length: the run is compressed.
pub(super) const COMPRESSED: u32 = 1 << 31;

/// The number of a segment; one is never given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentId(pub u64);

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose segment it is. Part of every checksum in it, so that the bytes of another segment, or of the
/// same file before it was recycled, never pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// The log's own number.
    pub store: u64,
    /// The segment.
    pub segment: SegmentId,
    /// How often the log had been opened for writing.
    pub incarnation: u64,
}

impl Identity {
    pub fn seed(&self) -> u32 {
        let mut crc = crc32c(&self.store.to_le_bytes());
        crc = crc32c_append(crc, &self.segment.0.to_le_bytes());
        crc32c_append(crc, &self.incarnation.to_le_bytes())
    }
}

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// For nothing yet.
    Spare,
    /// It goes on where `previous` ended; nothing was in use before the first, which says 0 and 0.
    Hot { previous: SegmentId, end: u64 },
    /// It holds copies of old runs.
    Cold,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub identity: Identity,
    pub usage: Usage,
}

/// What the first bytes of a file turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFound {
    Valid(Header),
    /// Zeroes: the file was never made a segment.
    Blank,
    /// Of a newer version.
    Newer(u32),
    /// Neither: the checksum there, and the one computed.
    Damaged(u32, u32),
}

impl Header {
    /// The used bytes; the rest of the page is zeroes.
    pub fn encode(&self) -> [u8; HEADER_USED] {
        let (usage, previous, end) = match self.usage {
            Usage::Spare => (0u32, 0, 0),
            Usage::Hot { previous, end } => (1, previous.0, end),
            Usage::Cold => (2, 0, 0),
        };
        let mut out = Vec::with_capacity(HEADER_USED);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(usage.to_le_bytes());
        let identity = &self.identity;
        for word in [
            identity.store,
            identity.segment.0,
            identity.incarnation,
            previous,
            end,
        ] {
            out.extend(word.to_le_bytes());
        }
        out.extend(crc32c(&out).to_le_bytes());
        out.try_into().expect("the fields add up to its size")
    }

    pub fn decode(bytes: &[u8; HEADER_USED]) -> HeaderFound {
        if bytes.iter().all(|b| *b == 0) {
            return HeaderFound::Blank;
        }
        let word = |at: usize| Input::new(&bytes[at..]).u64().unwrap_or_default();
        let half = |at: usize| Input::new(&bytes[at..]).u32().unwrap_or_default();
        let (stored, computed) = (half(HEADER_USED - 4), crc32c(&bytes[..HEADER_USED - 4]));
        let is_ours = bytes.starts_with(MAGIC);
        if is_ours && half(8) > VERSION {
            return HeaderFound::Newer(half(8));
        }
        let usage = match half(12) {
            0 => Some(Usage::Spare),
            1 => Some(Usage::Hot {
                previous: SegmentId(word(40)),
                end: word(48),
            }),
            2 => Some(Usage::Cold),
            _ => None,
        };
        match usage {
            Some(usage) if is_ours && stored == computed => HeaderFound::Valid(Header {
                identity: Identity {
                    store: word(16),
                    segment: SegmentId(word(24)),
                    incarnation: word(32),
                },
                usage,
            }),
            _ => HeaderFound::Damaged(stored, computed),
        }
    }
}

/// What a frame is for. Never 0, so that zeroes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A group of batches.
    Group = 1,
    /// Copies of runs, in a cold segment.
    Copies = 2,
}

/// The head of a frame, checked against its checksum together with its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub kind: FrameKind,
    /// Where it begins in its segment.
    pub offset: u64,
    /// Everything of the segment before this was durable when it was written.
    pub synced: u64,
    pub head_bytes: u64,
    pub dir_bytes: u64,
    pub data_bytes: u64,
}

impl FrameHead {
    pub fn dir_start(&self) -> u64 {
        self.offset + self.head_bytes
    }

    pub fn data_start(&self) -> u64 {
        self.dir_start() + self.dir_bytes
    }

    pub fn end(&self) -> u64 {
        self.data_start() + self.data_bytes
    }

    /// The head of a frame at `offset` with so many bytes in its parts.
    pub fn plan(kind: FrameKind, offset: u64, synced: u64, dir: usize, data: usize) -> Self {
        let (dir_bytes, data_bytes) = (dir as u64, data as u64);
        let varints = [offset - synced, dir_bytes, data_bytes];
        let head_bytes = 5 + varints.map(varint_bytes).iter().sum::<usize>() as u64;
        FrameHead {
            kind,
            offset,
            synced,
            head_bytes,
            dir_bytes,
            data_bytes,
        }
    }

    /// Puts the head in front of its directory; the checksum follows with [`FrameHead::seal`].
    pub fn encode(&self, out: &mut impl BufMut) {
        let mut bytes = [0; FRAME_HEAD_MAX];
        let mut rest = &mut bytes[4..];
        rest.put_u8(self.kind as u8);
        for word in [self.offset - self.synced, self.dir_bytes, self.data_bytes] {
            put_varint(&mut rest, word);
        }
        out.put_slice(&bytes[..self.head_bytes as usize]);
    }

    /// Puts the checksum into `frame`, which holds head and directory at least.
    pub fn seal(&self, seed: u32, frame: &mut [u8]) {
        let covered = (self.head_bytes + self.dir_bytes) as usize;
        let crc = frame_crc(seed, self.offset, &frame[4..covered]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The frame that begins with `bytes`, the rest of a segment from `offset` on. Nothing if there is
    /// none: its lengths do not fit, or head and directory fail their checksum.
    pub fn parse(seed: u32, offset: u64, bytes: &[u8]) -> Option<FrameHead> {
        let mut input = Input::new(bytes);
        let stored = input.u32()?;
        let kind = match input.u8()? {
            1 => FrameKind::Group,
            2 => FrameKind::Copies,
            _ => return None,
        };
        let synced = offset.checked_sub(input.varint()?)?;
        let (dir_bytes, data_bytes) = (input.varint()?, input.varint()?);
        let head_bytes = input.at() as u64;
        let covered = head_bytes.checked_add(dir_bytes)?;
        if dir_bytes == 0 || covered.checked_add(data_bytes)? > bytes.len() as u64 {
            return None;
        }
        let crc = frame_crc(seed, offset, &bytes[4..covered as usize]);
        (crc == stored).then_some(FrameHead {
            kind,
            offset,
            synced,
            head_bytes,
            dir_bytes,
            data_bytes,
        })
    }
}

fn frame_crc(seed: u32, offset: u64, covered: &[u8]) -> u32 {
    let crc = crc32c_append(seed, &offset.to_le_bytes());
    crc32c_append(crc, covered)
}

/// The checksum of a run, from that of its bytes alone: where it is and what it is come after.
pub(super) fn run_crc(body: u32, region: RegionId, first: u64, seed: u32, offset: u64) -> u32 {
    let mut place = [0; 28];
    place[..8].copy_from_slice(&region.0.to_le_bytes());
    place[8..16].copy_from_slice(&first.to_le_bytes());
    place[16..20].copy_from_slice(&seed.to_le_bytes());
    place[20..].copy_from_slice(&offset.to_le_bytes());
    crc32c_append(body, &place)
}

// The tag of an operation: three bits say which, the others what is left out.
const TAG_RUN: u8 = 1;
const TAG_STATE: u8 = 2;
const TAG_REMOVE: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TAG_MOVE: u8 = 5;
const TAG_COPY: u8 = 6;
const TAG_BITS: u8 = 7;
/// The region is that of the operation before, and left out.
const SAME_REGION: u8 = 1 << 3;
/// One entry; the count is left out.
const SINGLE: u8 = 1 << 4;
/// The run is compressed.
const PACKED: u8 = 1 << 5;
/// The first index follows the last of the run before, of the same region and term; both are left out.
const FOLLOWS: u8 = 1 << 6;

/// Not all of the run is meant: which entries are follows.
const PARTIAL: u8 = 1 << 7;

/// Writes operations, leaving out what the one before says already.
#[derive(Default)]
pub(super) struct DirWriter {
    pub bytes: Vec<u8>,
    region: Option<RegionId>,
    /// The index behind the last run, and its term.
    behind: Option<(u64, u64)>,
}

impl DirWriter {
    /// One that writes behind what `bytes` holds.
    pub fn behind(bytes: Vec<u8>) -> DirWriter {
        DirWriter {
            bytes,
            ..DirWriter::default()
        }
    }

    /// Adds `op`. The offset of a run is not written: runs lie one behind the other.
    pub fn add(&mut self, op: &Op) {
        let (mut tag, region) = match op {
            Op::Run(run) => (TAG_RUN, run.region),
            Op::State { region, .. } => (TAG_STATE, *region),
            Op::Remove { region, .. } => (TAG_REMOVE, *region),
            Op::Clear { region } => (TAG_CLEAR, *region),
            Op::Move { run, .. } => (TAG_MOVE, run.region),
            Op::Copy { run, .. } => (TAG_COPY, run.region),
        };
        let same = self.region == Some(region);
        if !same {
            self.behind = None;
        }
        let run = match op {
            Op::Run(run) | Op::Copy { run, .. } | Op::Move { run, .. } => Some(run),
            _ => None,
        };
        let partial = match op {
            Op::Copy { run, window } | Op::Move { run, window, .. } => {
                Some((run, window)).filter(|_| *window != run.range())
            }
            _ => None,
        };
        let follows = run.is_some_and(|run| self.behind == Some((run.first, run.term)));
        for (bit, is_set) in [
            (SAME_REGION, same),
            (SINGLE, run.is_some_and(|run| run.count == 1)),
            (PACKED, run.is_some_and(|run| run.stored & COMPRESSED != 0)),
            (FOLLOWS, follows),
            (PARTIAL, partial.is_some()),
        ] {
            tag |= if is_set { bit } else { 0 };
        }
        self.region = Some(region);
        let out = &mut self.bytes;
        out.push(tag);
        if !same {
            put_varint(out, region.0);
        }
        if let Some(run) = run {
            put_run(out, run, follows);
            self.behind = Some((run.first.wrapping_add(u64::from(run.count)), run.term));
        }
        if let Some((run, window)) = partial {
            put_varint(out, window.start - run.first);
            put_varint(out, window.end - window.start);
        }
        match op {
            Op::Run(_) | Op::Copy { .. } | Op::Clear { .. } => {}
            Op::State { state, .. } => {
                for word in [state.term, state.vote, state.commit, state.last_index] {
                    put_varint(out, word);
                }
            }
            Op::Remove { range, .. } => {
                put_varint(out, range.start);
                put_varint(out, range.end);
            }
            Op::Move { run, from, to, .. } => {
                put_varint(out, from.0);
                put_varint(out, to.0);
                put_varint(out, u64::from(run.offset));
            }
        }
    }
}

fn put_run(out: &mut Vec<u8>, run: &Run, follows: bool) {
    if !follows {
        put_varint(out, run.first);
        put_varint(out, run.term);
    }
    if run.count != 1 {
        put_varint(out, u64::from(run.count));
    }
    put_varint(out, u64::from(run.stored & !COMPRESSED));
}

/// The operations of a directory whose checksum was right. Nothing if they do not parse, or their runs
/// are not exactly the `data_bytes` that follow, which no writer of ours leaves. Offsets are within
/// the data.
pub(super) fn read_dir(dir: &[u8], data_bytes: u64) -> Option<Vec<Op>> {
    let mut input = Input::new(dir);
    let mut reader = DirReader::default();
    let mut ops = Vec::new();
    while !input.is_empty() {
        ops.push(reader.read(&mut input)?);
    }
    (u64::from(reader.offset) == data_bytes).then_some(ops)
}

fn read_window(input: &mut Input, run: &Run, tag: u8) -> Option<std::ops::Range<u64>> {
    if tag & PARTIAL == 0 {
        return Some(run.range());
    }
    let start = run.first.checked_add(input.varint()?)?;
    let end = start.checked_add(input.varint()?)?;
    (start < end && end <= run.range().end).then_some(start..end)
}

#[derive(Default)]
struct DirReader {
    region: Option<RegionId>,
    behind: Option<(u64, u64)>,
    offset: u32,
}

impl DirReader {
    fn read(&mut self, input: &mut Input) -> Option<Op> {
        let tag = input.u8()?;
        let region = if tag & SAME_REGION != 0 {
            self.region?
        } else {
            self.behind = None;
            RegionId(input.varint()?)
        };
        self.region = Some(region);
        Some(match tag & TAG_BITS {
            TAG_RUN => Op::Run(self.read_data(input, region, tag)?),
            TAG_COPY => {
                let run = self.read_data(input, region, tag)?;
                let window = read_window(input, &run, tag)?;
                Op::Copy { run, window }
            }
            TAG_STATE => Op::State {
                region,
                state: State {
                    term: input.varint()?,
                    vote: input.varint()?,
                    commit: input.varint()?,
                    last_index: input.varint()?,
                },
            },
            TAG_REMOVE => Op::Remove {
                region,
                range: input.varint()?..input.varint()?,
            },
            TAG_CLEAR => Op::Clear { region },
            TAG_MOVE => {
                let run = self.read_run(input, region, tag)?;
                let window = read_window(input, &run, tag)?;
                let (from, to) = (SegmentId(input.varint()?), SegmentId(input.varint()?));
                let offset = input.varint32()?;
                let run = Run { offset, ..run };
                Op::Move {
                    run,
                    window,
                    from,
                    to,
                }
            }
            _ => return None,
        })
    }

    /// A run whose bytes follow those of the one before.
    fn read_data(&mut self, input: &mut Input, region: RegionId, tag: u8) -> Option<Run> {
        let mut run = self.read_run(input, region, tag)?;
        run.offset = self.offset;
        self.offset = self.offset.checked_add(run.stored & !COMPRESSED)?;
        Some(run)
    }

    fn read_run(&mut self, input: &mut Input, region: RegionId, tag: u8) -> Option<Run> {
        let (first, term) = match tag & FOLLOWS {
            0 => (input.varint()?, input.varint()?),
            _ => self.behind?,
        };
        let count = match tag & SINGLE {
            0 => input.varint32()?,
            _ => 1,
        };
        let stored = input.varint32()?;
        let is_counted = (1..=RUN_ENTRIES_MAX).contains(&count);
        let is_whole = stored & COMPRESSED == 0 && stored as usize > RUN_CRC_BYTES;
        let behind = first.checked_add(u64::from(count))?;
        if !is_counted || !is_whole {
            return None;
        }
        self.behind = Some((behind, term));
        let packed = if tag & PACKED != 0 { COMPRESSED } else { 0 };
        Some(Run {
            region,
            first,
            count,
            term,
            stored: stored | packed,
            offset: 0,
        })
    }
}

#[cfg(test)]
mod tests;
