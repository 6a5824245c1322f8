//! How much the log may take of the disk, and which segment is freed next. Never does I/O.
//!
//! The segments in use and two checkpoints may take twice what lives in them and a segment. The reserve
//! comes on top, and one file that nobody needs for the moment: to remove it and to make it again would
//! cost the writing of its zeroes. Below that, what is nearly dead is copied because it is cheap; above
//! it, whatever is less than three quarters alive, because it must be.

use super::core::{Core, Tables};
use super::index::Live;
use super::options::SegmentLogOptions;
use super::segment::Info;
use super::upkeep::Upkeep;

/// The segments in use may take this many times what lives in them,
const TIMES_LIVE: u64 = 2;
/// and so many segments: the one that is written to.
const SEGMENTS_FREE: u64 = 1;
/// With the reserve, and a file that is kept to be used again, so many more.
const SEGMENTS_KEPT: u64 = 3;
/// Beyond that a segment of which less than so many percent live is copied. With more there would be
/// little to gain, and the copying might not end.
const WORTH_COPYING_PERCENT: u64 = 75;

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

    /// What the files in use should not exceed.
    fn allowed_bytes(&self, options: &SegmentLogOptions) -> u64 {
        let live = self.index.usages.total();
        // Tiny entries take more than their bytes however well they are packed.
        let packed = live.copied_bytes() / WORTH_COPYING_PERCENT * 100;
        (TIMES_LIVE * live.bytes).max(packed) + SEGMENTS_FREE * options.segment_bytes
    }

    /// Whether dead segments are what is too much.
    pub fn is_crowded(&self, options: &SegmentLogOptions) -> bool {
        self.taken_bytes() > self.allowed_bytes(options)
    }

    /// The bytes of files that nobody needs which may be kept, because writing into them again costs
    /// less than making new ones.
    pub fn spare_bytes(&self, options: &SegmentLogOptions) -> u64 {
        let allowed = self.allowed_bytes(options) + SEGMENTS_KEPT * options.segment_bytes;
        allowed.saturating_sub(self.taken_bytes())
    }
}

impl Core {
    /// The sealed segment with the least alive, if it is worth copying.
    pub fn copy_candidate(&self, upkeep: &Upkeep) -> Option<Info> {
        let tables = self.read_tables();
        let copying = upkeep.cold.as_ref().map(|cold| cold.id());
        let percent = |live: Live, info: &Info| live.copied_bytes() * 100 / info.segment.size;
        let mut least: Option<(u64, &Info)> = None;
        // Dead ones need no copying: they go with the next checkpoint.
        let mut taken = 2 * tables.checkpoint_bytes;
        for info in tables.segments.values().filter(|i| !tables.is_dead(i)) {
            taken += info.file_bytes();
            let id = info.identity.segment;
            let is_left = Some(id) == copying || upkeep.unreadable.contains(&id);
            if is_left || !tables.is_done(info) {
                continue;
            }
            let alive = percent(tables.index.usages.of(id), info);
            if least.is_none_or(|(other, _)| alive < other) {
                least = Some((alive, info));
            }
        }
        let limit = match taken > tables.allowed_bytes(&self.options) {
            true => WORTH_COPYING_PERCENT.max(self.options.copy_below_percent),
            false => self.options.copy_below_percent,
        };
        least
            .filter(|(alive, _)| *alive < limit)
            .map(|(_, info)| info.clone())
    }
}
