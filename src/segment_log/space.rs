//! How much the log may take of the disk, and which segment is freed next. Never does I/O.
//!
//! All files together may take twice what lives, and four segments: the one that is written to, a reserve
//! of two, and one more. What waits dies, so as much of that as possible is left to segments that are
//! dying: all but one spare, and room for the copies that are made meanwhile. Below that bound, what is
//! nearly dead is copied because it is cheap; at it, the segment with the least alive, because one must be.

use super::core::{Core, Tables};
use super::format::HEADER_BYTES;
use super::options::SegmentLogOptions;
use super::segment::Info;
use super::upkeep::Upkeep;

/// The files may take this many times what lives in them,
const TIMES_LIVE: u64 = 2;
/// and, beside the reserve, so many segments,
const SEGMENTS_FREE: u64 = 2;
/// where the reserve counts as so many at least.
const RESERVE_MIN: u64 = 2;
/// Of a segment, so small a part at least is left for copies until what they are of is freed.
const ROOM_DIVISOR: u64 = 4;
/// A segment of which less than so many percent live is copied at the bound. With more there would be
/// little to gain, and the copying might not end.
const WORTH_COPYING_PERCENT: u64 = 75;

impl SegmentLogOptions {
    /// The reserve that the bound has room for.
    fn reserve(&self) -> u64 {
        RESERVE_MIN.max(self.spare_segments as u64)
    }

    /// How many spares there are even at the bound. The last of the reserve is given up there: what dies
    /// in its place need not be copied.
    pub fn spares_at_least(&self) -> usize {
        self.spare_segments.min(self.reserve() as usize - 1)
    }
}

impl Tables {
    /// Whether nothing of a segment is needed once a checkpoint of now is durable. One that copies go
    /// to may be dead for a moment; it has none of the log's own frames.
    pub fn is_dead(&self, info: &Info) -> bool {
        self.is_done(info) && self.index.usages.of(info.identity.segment).parts == 0
    }

    /// Whether a segment holds copies, or the log has gone on behind it.
    fn is_done(&self, info: &Info) -> bool {
        info.is_cold || info.identity.segment < self.position.segment
    }

    /// The bytes of the segments in use.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.values().map(Info::file_bytes).sum()
    }

    /// With the checkpoint, and the one that will replace it.
    fn taken_bytes(&self) -> u64 {
        self.segment_bytes() + 2 * self.checkpoint_bytes
    }

    /// What all files may take.
    fn allowed_bytes(&self, options: &SegmentLogOptions) -> u64 {
        let live = self.index.usages.total();
        // Tiny entries take more than their bytes however well they are packed.
        let packed = live.copied_bytes() / WORTH_COPYING_PERCENT * 100;
        let segments = SEGMENTS_FREE + options.reserve();
        (TIMES_LIVE * live.bytes).max(packed) + segments * options.segment_bytes
    }

    /// Whether segments in use that take so much leave too little for a spare, and for so many bytes of
    /// copies.
    fn is_too_much(&self, bytes: u64, copies: u64, options: &SegmentLogOptions) -> bool {
        let kept = (options.reserve() - 1) * options.segment_bytes;
        let room = copies.max(options.segment_bytes / ROOM_DIVISOR);
        bytes + kept + room > self.allowed_bytes(options)
    }

    /// Whether the whole reserve has no room beside what is in use, dead segments with it.
    pub fn is_crowded(&self, options: &SegmentLogOptions) -> bool {
        options.reserve() * options.segment_bytes > self.spare_bytes(options)
    }

    /// What files that are not in use may take.
    pub fn left_bytes(&self, options: &SegmentLogOptions) -> u64 {
        self.allowed_bytes(options)
            .saturating_sub(self.taken_bytes())
    }

    /// What the reserve, and files that nobody needs for the moment, may take: to write into those again
    /// costs less than to make new ones. The rest is for copies.
    pub fn spare_bytes(&self, options: &SegmentLogOptions) -> u64 {
        let room = options.segment_bytes / ROOM_DIVISOR;
        self.left_bytes(options).saturating_sub(room)
    }

    /// What a copy of all that lives in a segment takes, about.
    pub fn bytes_to_copy(&self, info: &Info) -> u64 {
        self.index.usages.of(info.identity.segment).copied_bytes()
    }
}

impl Core {
    /// The sealed segment with the least alive, if it is worth copying.
    pub fn copy_candidate(&self, upkeep: &Upkeep) -> Option<Info> {
        let tables = self.read_tables();
        let mut least: Option<(u64, &Info)> = None;
        // Dead ones need no copying: they go with the next checkpoint.
        let mut taken = 2 * tables.checkpoint_bytes;
        for info in tables.segments.values().filter(|i| !tables.is_dead(i)) {
            taken += info.file_bytes();
            let id = info.identity.segment;
            if upkeep.unreadable.contains(&id) || !tables.is_done(info) {
                continue;
            }
            // Of one that copies still go to, what is not written is no loss.
            let bytes = match upkeep.colds.has(id) {
                true => info.end - HEADER_BYTES,
                false => info.frame_bytes(),
            };
            let alive = tables.bytes_to_copy(info) * 100 / bytes.max(1);
            if least.is_none_or(|(other, _)| alive < other) {
                least = Some((alive, info));
            }
        }
        let (alive, info) = least?;
        let copies = tables.bytes_to_copy(info);
        let limit = match tables.is_too_much(taken, copies, &self.options) {
            true => WORTH_COPYING_PERCENT.max(self.options.copy_below_percent),
            false => self.options.copy_below_percent,
        };
        (alive < limit).then(|| info.clone())
    }
}
