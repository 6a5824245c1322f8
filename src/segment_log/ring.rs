//! The frames that were written last, for followers that are nearly up to date. Never does I/O.

use std::collections::VecDeque;

use bytes::Bytes;

use super::format::SegmentId;

/// Invariant: ascending by segment and offset; segments are used in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Ring {
    frames: VecDeque<(SegmentId, u64, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub fn new(bytes_max: usize) -> Self {
        Ring {
            bytes_max,
            ..Ring::default()
        }
    }

    /// Adds what was written at `offset`, and lets the oldest go.
    pub fn push(&mut self, segment: SegmentId, offset: u64, bytes: Bytes) {
        if bytes.len() > self.bytes_max {
            return;
        }
        self.bytes += bytes.len();
        self.frames.push_back((segment, offset, bytes));
        while self.bytes > self.bytes_max {
            let oldest = self.frames.pop_front();
            self.bytes -= oldest.map_or(0, |(_, _, bytes)| bytes.len());
        }
    }

    /// The bytes at `offset`, if they are still here.
    pub fn find(&self, segment: SegmentId, offset: u64, bytes: u64) -> Option<Bytes> {
        let behind = self
            .frames
            .partition_point(|(s, o, _)| (*s, *o) <= (segment, offset));
        let (found, start, frame) = self.frames.get(behind.checked_sub(1)?)?;
        let within = (offset - start.min(&offset)) as usize;
        let end = within.checked_add(bytes as usize)?;
        (*found == segment && end <= frame.len()).then(|| frame.slice(within..end))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.frames.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_found_and_the_oldest_is_let_go() {
        let mut ring = Ring::new(10);
        ring.push(SegmentId(1), 100, Bytes::from_static(b"abcdef"));
        ring.push(SegmentId(2), 0, Bytes::from_static(b"ghi"));
        assert_eq!(
            ring.find(SegmentId(1), 102, 3).as_deref(),
            Some(&b"cde"[..])
        );
        assert_eq!(ring.find(SegmentId(2), 0, 3).as_deref(), Some(&b"ghi"[..]));
        for (segment, offset, bytes) in [(1, 99, 1), (1, 104, 3), (2, 3, 1), (3, 0, 1), (0, 0, 1)] {
            assert_eq!(ring.find(SegmentId(segment), offset, bytes), None);
        }
        ring.push(SegmentId(2), 3, Bytes::from_static(b"jkl"));
        assert_eq!((ring.len(), ring.find(SegmentId(1), 102, 3)), (2, None));
        ring.push(SegmentId(2), 6, Bytes::from_static(b"more than ten bytes"));
        assert_eq!(ring.len(), 2);
    }
}
