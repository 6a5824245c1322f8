//! The leader's work: one frame, one write, at most one fsync, then the index. Uses: fs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::checkpoint::Position;
use super::core::{Core, add, lock};
use super::format::{
    FRAME_HEAD_MAX, FrameHead, FrameKind, HEADER_BYTES, Header, Identity, PAGE_BYTES, Usage,
};
use super::queue::Request;
use super::segment::{Info, Segment};
use crate::error::Error;

/// Frames are made in memory of so many bytes, one behind the other: the newest stay in it for readers.
const BUFFER_BYTES: usize = 64 << 10;

/// Why a group was not written.
pub(super) enum Refusal {
    /// Before anything of the log was touched: it can be tried again.
    Untouched(Error),
    /// It may be on the medium or not.
    Failed(Error),
}

/// The segment that is written to, and where the log stands.
#[derive(Default)]
pub(super) struct Active {
    open: Option<Open>,
    /// Behind the last frame of the segment before the open one.
    last: Position,
    /// Empty, with room for the next frames.
    buffer: BytesMut,
}

struct Open {
    segment: Arc<Segment>,
    identity: Identity,
    seed: u32,
    usage: Usage,
    /// Where the next frame goes.
    end: u64,
    /// Everything before this is durable.
    synced: u64,
    /// Up to here every page was written whole, so that nothing has to be read to write a part of one.
    touched: u64,
}

impl Active {
    /// Where the log ends as it was found.
    pub fn resume_at(&mut self, position: Position) {
        self.last = position;
    }
}

impl Open {
    fn has_room(&self, bytes: u64) -> bool {
        self.end + bytes <= self.segment.size
    }

    fn sync(&mut self, core: &Core) -> Result<(), Refusal> {
        if self.synced == self.end {
            return Ok(());
        }
        let start = Instant::now();
        self.segment.file.sync().map_err(Refusal::Failed)?;
        core.counters.synced(start.elapsed().as_nanos() as u64);
        self.synced = self.end;
        Ok(())
    }
}

impl Core {
    /// Writes the requests as one frame, syncs if one of them asks for it, and makes them visible.
    pub fn write_group(&self, group: &mut [Request]) -> Result<(), Refusal> {
        let mut active = lock(&self.active);
        let must_sync = group.iter().any(|request| request.sync);
        let dir: usize = group.iter().map(|r| r.encoded.dir().len()).sum();
        let data: usize = group.iter().map(|r| r.encoded.data().len()).sum();
        if dir > 0 {
            let most = (FRAME_HEAD_MAX + dir + data) as u64;
            if !active.open.as_ref().is_some_and(|open| open.has_room(most)) {
                self.rotate(&mut active, most)?;
            }
        }
        let Active { open, buffer, .. } = &mut *active;
        let Some(open) = open else {
            return Ok(());
        };
        let start = open.end;
        let mut written = None;
        if dir > 0 {
            written = Some(self.write_frame(open, buffer, group, (dir, data))?);
        }
        if must_sync {
            open.sync(self)?;
        }
        if let Some((at, bytes)) = written {
            let end = Position {
                segment: open.segment.id,
                offset: open.end,
            };
            let frame = open.end - start;
            self.publish(group, end, (at, bytes));
            self.count(group, frame);
        }
        Ok(())
    }

    /// Writes the frame. Returns the bytes that were written and where they are.
    fn write_frame(
        &self,
        open: &mut Open,
        buffer: &mut BytesMut,
        group: &mut [Request],
        (dir, data): (usize, usize),
    ) -> Result<(u64, Bytes), Refusal> {
        let head = FrameHead::plan(FrameKind::Group, open.end, open.synced, dir, data);
        let is_first = open.end == HEADER_BYTES;
        let start = if is_first { 0 } else { head.offset };
        // The rest of a page that is touched for the first time is written with it.
        let untouched = head.end() > open.touched;
        let mut stop = head.end();
        if untouched {
            stop = stop
                .next_multiple_of(PAGE_BYTES)
                .min(open.segment.size)
                .max(stop);
        }
        let length = (stop - start) as usize;
        if buffer.capacity() < length {
            *buffer = BytesMut::with_capacity(length.max(BUFFER_BYTES));
        }
        if is_first {
            let (identity, usage) = (open.identity, open.usage);
            buffer.extend_from_slice(&Header { identity, usage }.encode());
            buffer.resize(HEADER_BYTES as usize, 0);
        }
        let frame = buffer.len();
        head.encode(buffer);
        for request in group.iter() {
            buffer.extend_from_slice(request.encoded.dir());
        }
        let mut place = head.data_start();
        for request in group.iter_mut() {
            let encoded = &mut request.encoded;
            let at = buffer.len();
            buffer.extend_from_slice(encoded.data());
            encoded.place(open.seed, place, &mut buffer[at..]);
            place += encoded.data().len() as u64;
        }
        head.seal(open.seed, &mut buffer[frame..]);
        buffer.resize(length, 0);
        let written = open.segment.file.write_all_at(buffer, start);
        // Without what fills its page: the next frame lies there.
        buffer.truncate((head.end() - start) as usize);
        let bytes = buffer.split().freeze();
        written.map_err(Refusal::Failed)?;
        open.end = head.end();
        open.touched = open.touched.max(stop);
        Ok((start, bytes))
    }

    /// Goes on in a fresh segment with room for a frame of `bytes`.
    fn rotate(&self, active: &mut Active, bytes: u64) -> Result<(), Refusal> {
        if let Some(open) = &mut active.open {
            // So whoever sees a frame of the next segment knows that this one was durable to its end.
            open.sync(self)?;
            active.last = Position {
                segment: open.segment.id,
                offset: open.end,
            };
        }
        if !self.is_begun.load(Acquire) {
            self.begin().map_err(refuse)?;
        }
        let segment = self.pool.take(HEADER_BYTES + bytes).map_err(refuse)?;
        let identity = Identity {
            store: self.store,
            segment: segment.id,
            incarnation: self.incarnation(),
        };
        let segment = Arc::new(segment);
        let info = Info {
            segment: Arc::clone(&segment),
            identity,
            is_cold: false,
            end: HEADER_BYTES,
            footer: None,
        };
        self.write_tables().segments.insert(segment.id, info);
        active.open = Some(Open {
            seed: identity.seed(),
            usage: Usage::Hot {
                previous: active.last.segment,
                end: active.last.offset,
            },
            segment,
            identity,
            end: HEADER_BYTES,
            synced: HEADER_BYTES,
            touched: HEADER_BYTES,
        });
        add(&self.counters.rotations, 1);
        self.wake_background();
        Ok(())
    }

    fn publish(&self, group: &[Request], end: Position, (at, bytes): (u64, Bytes)) {
        let mut tables = self.write_tables();
        for op in group.iter().flat_map(|request| &request.encoded.ops) {
            tables.index.apply(end.segment, op);
        }
        tables.ring.push(end.segment, at, bytes);
        if let Some(info) = tables.segments.get_mut(&end.segment) {
            info.end = end.offset;
        }
        tables.position = end;
    }

    fn count(&self, group: &[Request], frame: u64) {
        let counters = &self.counters;
        let entries: u64 = group.iter().map(|r| r.encoded.entries).sum();
        let bytes: u64 = group.iter().map(|r| r.encoded.bytes).sum();
        let batches = group.iter().filter(|r| !r.encoded.dir().is_empty()).count();
        add(&counters.writes, batches as u64);
        add(&counters.groups, 1);
        add(&counters.entries, entries);
        add(&counters.bytes, bytes);
        add(&counters.log_bytes, frame);
    }
}

/// A disk that is full is no damage: the write can be tried again. Anything else is.
fn refuse(error: Error) -> Refusal {
    match error {
        Error::DiskFull { .. } => Refusal::Untouched(error),
        other => Refusal::Failed(other),
    }
}
