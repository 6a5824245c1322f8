//! The one file that says which segments are needed, and what every region was at a position of the
//! log; the log from there on is replayed. It is replaced by a rename. Uses: fs.

use std::path::Path;

use crc32c::{crc32c, crc32c_append};

use super::codec::{Input, put_varint};
use super::format::{Identity, SegmentId, VERSION};
use super::index::{RegionLog, State};
use super::part::Part;
use super::segment::{Footer, damaged, newer};
use crate::error::Result;
use crate::fs::FileSystem;
use crate::types::RegionId;

/// The name of the file, and the one it has until it is whole.
pub(super) const NAME: &str = "CHECKPOINT";
pub(super) const NEW_NAME: &str = "CHECKPOINT.new";

const MAGIC: &[u8; 8] = b"PSLOGCKP";
/// Magic, version and checksum.
const FIXED_BYTES: usize = 16;

/// A place in the log. Segment 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub segment: SegmentId,
    pub offset: u64,
}

/// A segment that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub identity: Identity,
    pub is_cold: bool,
    pub end: u64,
    pub footer: Option<Footer>,
}

/// What a checkpoint says, the regions aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The log's own number.
    pub store: u64,
    /// How often the log was opened for writing.
    pub incarnation: u64,
    /// No segment has this number or a larger one that was not made later.
    pub next: SegmentId,
    /// The regions are at least as new as this.
    pub position: Position,
    /// No frame is written into the segment of the position any more.
    pub is_sealed: bool,
    pub segments: Vec<Row>,
}

/// A checkpoint that is being put together.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new(head: &Head) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        let out = &mut bytes;
        for word in [
            head.store,
            head.incarnation,
            head.next.0,
            head.position.segment.0,
            head.position.offset,
        ] {
            out.extend(word.to_le_bytes());
        }
        out.push(u8::from(head.is_sealed));
        put_varint(out, head.segments.len() as u64);
        for row in &head.segments {
            put_varint(out, row.identity.segment.0);
            put_varint(out, row.identity.incarnation);
            put_varint(out, u64::from(row.is_cold));
            put_varint(out, row.end);
            let footer = row.footer.map_or((0, 0), |f| (f.offset, f.bytes));
            put_varint(out, footer.0);
            put_varint(out, footer.1);
        }
        Writer { bytes }
    }

    pub fn region(&mut self, region: RegionId, log: &RegionLog) {
        let out = &mut self.bytes;
        put_varint(out, region.0);
        out.push(u8::from(log.state.is_some()));
        if let Some(state) = &log.state {
            for word in [state.term, state.vote, state.commit, state.last_index] {
                put_varint(out, word);
            }
        }
        put_varint(out, log.parts.len() as u64);
        for part in &log.parts {
            // Zero says that they have to be counted: no run is so small.
            let bytes = if part.is_exact { part.bytes } else { 0 };
            for word in [part.segment.0, part.first, part.count, part.term, bytes] {
                put_varint(out, word);
            }
        }
    }

    /// Writes it in place of the one that is there; it is durable once the names of `dir` are. Returns its
    /// size.
    ///
    /// # Errors
    /// `DiskFull` or `Io`. After one, the old or the new one is there.
    pub fn finish(mut self, fs: &dyn FileSystem, dir: &Path) -> Result<u64> {
        let crc = checksum(&self.bytes);
        self.bytes[12..FIXED_BYTES].copy_from_slice(&crc.to_le_bytes());
        let (new, path) = (dir.join(NEW_NAME), dir.join(NAME));
        if fs.exists(&new)? {
            fs.remove(&new)?;
        }
        let file = fs.create(&new)?;
        file.write_all_at(&self.bytes, 0)?;
        file.sync()?;
        fs.rename(&new, &path)?;
        Ok(self.bytes.len() as u64)
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..12]), &bytes[FIXED_BYTES..])
}

/// Reads the checkpoint of `dir`; each region goes to `visit`. Its size comes with it.
///
/// # Errors
/// `UnsupportedVersion`, `Corruption` or `Io`.
pub(super) fn read(
    fs: &dyn FileSystem,
    dir: &Path,
    mut visit: impl FnMut(RegionId, RegionLog),
) -> Result<(Head, u64)> {
    let path = dir.join(NAME);
    let file = fs.open(&path)?;
    let length = file.length()?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let bad = |detail: String| damaged(&path, detail);
    if bytes.len() < FIXED_BYTES || !bytes.starts_with(MAGIC) {
        return Err(bad(format!(
            "{length} bytes that do not begin as a checkpoint"
        )));
    }
    let half = |at: usize| Input::new(&bytes[at..]).u32().unwrap_or_default();
    if half(8) > VERSION {
        return Err(newer(&path, half(8)));
    }
    let (stored, computed) = (half(12), checksum(&bytes));
    if stored != computed {
        let detail = format!("crc {stored:#010x}, computed {computed:#010x} over {length} bytes");
        return Err(bad(detail));
    }
    let mut input = Input::new(&bytes[FIXED_BYTES..]);
    let parsed = parse(&mut input, &mut visit);
    let at = FIXED_BYTES + input.at();
    let head = parsed.ok_or_else(|| bad(format!("offset {at}: it does not parse")))?;
    Ok((head, length))
}

fn parse(input: &mut Input, visit: &mut impl FnMut(RegionId, RegionLog)) -> Option<Head> {
    let mut head = Head {
        store: input.u64()?,
        incarnation: input.u64()?,
        next: SegmentId(input.u64()?),
        position: Position {
            segment: SegmentId(input.u64()?),
            offset: input.u64()?,
        },
        is_sealed: input.u8()? != 0,
        segments: Vec::new(),
    };
    for _ in 0..input.varint()? {
        head.segments.push(read_row(input, head.store)?);
    }
    while !input.is_empty() {
        let region = RegionId(input.varint()?);
        let mut log = RegionLog::default();
        if input.u8()? != 0 {
            log.state = Some(State {
                term: input.varint()?,
                vote: input.varint()?,
                commit: input.varint()?,
                last_index: input.varint()?,
            });
        }
        for count in (0..input.varint()?).rev() {
            if log.parts.is_empty() {
                log.parts
                    .reserve_exact(usize::try_from(count + 1).ok()?.min(4));
            }
            log.parts.push(read_part(input)?);
        }
        visit(region, log);
    }
    Some(head)
}

fn read_row(input: &mut Input, store: u64) -> Option<Row> {
    let identity = Identity {
        store,
        segment: SegmentId(input.varint()?),
        incarnation: input.varint()?,
    };
    let (is_cold, end) = (input.varint()? != 0, input.varint()?);
    let (offset, bytes) = (input.varint()?, input.varint()?);
    let footer = (bytes > 0).then_some(Footer { offset, bytes });
    Some(Row {
        identity,
        is_cold,
        end,
        footer,
    })
}

fn read_part(input: &mut Input) -> Option<Part> {
    let mut part = Part {
        segment: SegmentId(input.varint()?),
        first: input.varint()?,
        count: input.varint()?,
        term: input.varint()?,
        bytes: input.varint()?,
        is_exact: true,
        runs: None,
    };
    part.is_exact = part.bytes > 0;
    part.first.checked_add(part.count)?;
    (part.count > 0).then_some(part)
}
