//! From the bytes of a segment to its frames, and whether a bad one is torn or damaged. Never does I/O.

use std::ops::Range;

use super::batch::check_run;
use super::format::{COMPRESSED, FRAME_HEAD_MAX, FrameHead, HEADER_BYTES, read_dir};
use super::index::{Op, Run};
use super::segment::Info;
use crate::error::{Error, Result};
use crate::types::RegionId;

/// How much of the start of a bad frame is searched for one flipped bit, to say what it held.
const REPAIR_BYTES_MAX: usize = 4 << 10;

/// A frame whose head and directory are right.
pub(super) struct Frame {
    pub head: FrameHead,
    /// The runs whose bytes are not what was written.
    pub bad: Vec<(Run, String)>,
}

/// Entries of a region that are damaged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Damage {
    pub region: RegionId,
    /// What of it, for the error.
    pub what: String,
    /// Where, and how it shows.
    pub detail: String,
}

impl Damage {
    pub fn error(&self) -> Error {
        Error::corruption(Some(self.region), &self.what, &self.detail)
    }
}

/// The end of a segment, and what was found damaged before it.
pub(super) struct Scanned {
    pub frames: Vec<Frame>,
    pub damages: Vec<Damage>,
    pub end: u64,
    /// Up to here it is known to be durable.
    pub durable: u64,
}

/// The operations of a frame, their runs at their places in the segment.
///
/// # Errors
/// `Corruption` if the directory does not parse although its checksum is right.
pub(super) fn scan_group(frame: &Frame, bytes: &[u8]) -> Result<Vec<Op>> {
    let head = &frame.head;
    let dir = &bytes[head.dir_start() as usize..head.data_start() as usize];
    let ops = read_dir(dir, head.data_bytes);
    let mut ops = ops.ok_or_else(|| {
        let what = format!("the frame at offset {}", head.offset);
        Error::corruption(
            None,
            what,
            "its directory has the right crc and does not parse",
        )
    })?;
    for op in &mut ops {
        if let Some(run) = op.data_mut() {
            run.offset += head.data_start() as u32;
        }
    }
    Ok(ops)
}

/// Scans from `start` to the first place where no frame begins.
///
/// `must_reach` is how far the segment is known to be durable; frames say more. What is bad before it
/// is damage, what is bad behind it was never acknowledged, and is cut.
///
/// # Errors
/// `Corruption` if the head of a frame is damaged, so that what follows it cannot be told.
pub(super) fn tail(info: &Info, bytes: &[u8], start: u64, must_reach: u64) -> Result<Scanned> {
    let seed = info.identity.seed();
    let mut scanned = Scanned {
        frames: Vec::new(),
        damages: Vec::new(),
        end: start,
        durable: must_reach,
    };
    while let Some(head) = frame_at(seed, bytes, scanned.end) {
        let mut frame = Frame {
            head,
            bad: Vec::new(),
        };
        for op in scan_group(&frame, bytes)? {
            if let Some(run) = op.data()
                && let Err((stored, computed)) = check_run(run, seed, stored_bytes(bytes, run))
            {
                let detail = format!("crc {stored:#010x}, computed {computed:#010x}");
                frame.bad.push((*run, detail));
            }
        }
        scanned.end = head.end();
        scanned.frames.push(frame);
    }
    let durable = durable_end(seed, bytes, &scanned, must_reach);
    if durable > scanned.end {
        return Err(lost_frame(info, bytes, &scanned, durable));
    }
    scanned.durable = durable;
    // A bad run is damage if its frame was durable. If not, its frame was torn: it and what follows
    // never happened.
    let torn = |frame: &Frame| !frame.bad.is_empty() && frame.head.end() > durable;
    if let Some(at) = scanned.frames.iter().position(torn) {
        scanned.end = scanned.frames[at].head.offset;
        scanned.frames.truncate(at);
    }
    for frame in &scanned.frames {
        for (run, detail) in &frame.bad {
            let Range { start, end } = run.range();
            scanned.damages.push(Damage {
                region: run.region,
                what: format!("entries [{start}, {end})"),
                detail: format!(
                    "segment {} offset {}: {detail}",
                    info.identity.segment, run.offset
                ),
            });
        }
    }
    Ok(scanned)
}

/// The frames of a segment that is known to be whole up to its end.
///
/// # Errors
/// `Corruption` if a head is damaged. Damaged runs are left to whoever reads them.
pub(super) fn whole(info: &Info, bytes: &[u8]) -> Result<Vec<Frame>> {
    let seed = info.identity.seed();
    let mut frames = Vec::new();
    let mut end = HEADER_BYTES;
    while end < info.end {
        let Some(head) = frame_at(seed, bytes, end) else {
            let scanned = Scanned {
                frames,
                damages: Vec::new(),
                end,
                durable: info.end,
            };
            return Err(lost_frame(info, bytes, &scanned, info.end));
        };
        end = head.end();
        frames.push(Frame {
            head,
            bad: Vec::new(),
        });
    }
    Ok(frames)
}

fn stored_bytes<'a>(bytes: &'a [u8], run: &Run) -> &'a [u8] {
    let start = run.offset as usize;
    &bytes[start..start + (run.stored & !COMPRESSED) as usize]
}

fn frame_at(seed: u32, bytes: &[u8], offset: u64) -> Option<FrameHead> {
    FrameHead::parse(seed, offset, bytes.get(offset as usize..)?)
}

/// How far the segment was durable at least: as far as is known already, or as any frame of it says
/// that was written later, also one behind a bad one.
fn durable_end(seed: u32, bytes: &[u8], scanned: &Scanned, must_reach: u64) -> u64 {
    let said = scanned.frames.iter().map(|frame| frame.head.synced);
    let mut durable = said.fold(must_reach, u64::max);
    let mut at = scanned.end as usize + 1;
    while at + 5 < bytes.len() {
        // The kind of a frame is never 0, and most of what is behind the end is zeroes.
        if bytes[at + 4] == 0 {
            at += 1;
            continue;
        }
        match FrameHead::parse(seed, at as u64, &bytes[at..]) {
            Some(head) => {
                durable = durable.max(head.synced);
                at = head.end() as usize;
            }
            None => at += 1,
        }
    }
    durable
}

/// The error for a frame that must be there and whose head is bad.
fn lost_frame(info: &Info, bytes: &[u8], scanned: &Scanned, durable: u64) -> Error {
    let (segment, offset) = (info.identity.segment, scanned.end);
    let place = format!("segment {segment} offset {offset}");
    let known = format!("the segment was durable up to {durable}");
    let found = repaired(info.identity.seed(), bytes, offset);
    let Some((first, rest)) = found.split_first() else {
        let what = format!("the frame at {place}");
        let detail = format!("no frame begins here, and {known}; its entries cannot be told");
        return Error::corruption(None, what, detail);
    };
    let others: String = rest
        .iter()
        .map(|(region, what)| format!(", region {region} {what}"))
        .collect();
    let detail = format!("{place}: a bit of its frame is wrong, and {known}{others}");
    Error::corruption(Some(first.0), &first.1, detail)
}

/// What the frame at `offset` held, if one bit that is turned back makes it right.
fn repaired(seed: u32, bytes: &[u8], offset: u64) -> Vec<(RegionId, String)> {
    let Some(damaged) = bytes.get(offset as usize..) else {
        return Vec::new();
    };
    let mut copy = damaged.to_vec();
    for bit in 0..copy.len().min(REPAIR_BYTES_MAX) * 8 {
        // Bits of the head change the lengths; what lies behind a frame that parsed is not covered.
        copy[bit / 8] ^= 1 << (bit % 8);
        if let Some(head) = FrameHead::parse(seed, offset, &copy) {
            let dir = &copy[head.head_bytes as usize..(head.head_bytes + head.dir_bytes) as usize];
            return describe(read_dir(dir, head.data_bytes).unwrap_or_default());
        }
        copy[bit / 8] ^= 1 << (bit % 8);
        if bit >= FRAME_HEAD_MAX * 8 && bit / 8 > copy.len() {
            break;
        }
    }
    Vec::new()
}

fn describe(ops: Vec<Op>) -> Vec<(RegionId, String)> {
    let what = |op: &Op| match op {
        Op::Run(run) => format!("entries [{}, {})", run.first, run.range().end),
        Op::Copy { window, .. } | Op::Move { window, .. } => {
            format!("a copy of [{}, {})", window.start, window.end)
        }
        Op::State { state, .. } => format!("state with last index {}", state.last_index),
        Op::Remove { range, .. } => format!("removal of [{}, {})", range.start, range.end),
        Op::Clear { .. } => "removal of everything".to_string(),
    };
    ops.iter().map(|op| (op.region(), what(op))).collect()
}
