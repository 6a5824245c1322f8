//! How a log is opened. Never does I/O.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::RegionId;

/// When a synced write is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// With the next group: at once, if nobody else is writing.
    #[default]
    EachGroup,
    /// With a group that is written at most every so often: fewer fsyncs, and longer waits. Buffered
    /// writes are synced as often, if there is a background thread.
    Interval(Duration),
}

/// A region whose old entries keep a segment from being used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// The region.
    pub region: RegionId,
    /// The first index that its log has. Compacting further frees the space.
    pub first_index: u64,
    /// The bytes that were copied out of the segment for it.
    pub bytes: u64,
}

/// Called with the regions whose entries had to be copied, from the thread that did it. Must not
/// block for long, and not write to the log.
pub type LaggardCallback = Arc<dyn Fn(&[Laggard]) + Send + Sync>;

/// How a [`SegmentLog`](super::SegmentLog) is opened.
#[derive(Clone)]
pub struct SegmentLogOptions {
    /// Whether a missing or empty directory becomes a new log.
    pub create_if_missing: bool,
    /// The size of a segment file, a multiple of 4 KiB and at least 16 KiB.
    pub segment_bytes: u64,
    /// How many segments are kept in reserve: one less, of two or more, while the log takes as much of
    /// the disk as it may. They are written with zeroes while there is time, at no more
    /// than half of the disk's; for a writer that is ahead of that their space is only set aside, and its syncs
    /// cost about twice as much in such a segment. With none, each rotation waits until a segment is made.
    pub spare_segments: usize,
    /// When synced writes reach the medium.
    pub sync: SyncPolicy,
    /// The most bytes of one group; a single larger batch is a group of its own.
    pub group_bytes_max: usize,
    /// The memory for the newest frames.
    pub ring_bytes: usize,
    /// The memory for the places of entries. Beyond it sealed segments drop theirs, oldest first, and
    /// read them back when they are asked for; each reader then has those of one segment on top.
    pub index_bytes_max: u64,
    /// Whether runs that shrink by an eighth or more are stored compressed by LZ4.
    pub compress: bool,
    /// A sealed segment with less alive than this share of its bytes, in percent, is copied and freed.
    /// Others wait, because what waits dies: they are copied only so that all files take no more than
    /// twice what lives in them and four segments (two and the reserve, if that is larger than two), the
    /// ones with the least alive first.
    pub copy_below_percent: u64,
    /// Whether a thread prepares, seals and frees segments. Without it
    /// [`SegmentLog::maintain`](super::SegmentLog::maintain) does, when it is called.
    pub background: bool,
    /// Regions that may be damaged: what is damaged of them at open is dropped, the whole log of the
    /// region with it, instead of refusing to open. Their replicas have to be replaced.
    pub quarantine: BTreeSet<RegionId>,
    /// Told about regions that keep old segments alive.
    pub on_laggards: Option<LaggardCallback>,
    /// The number of a new log, which is part of every checksum; 0 chooses one. For tests that compare
    /// bytes.
    pub store_id: u64,
}

impl Default for SegmentLogOptions {
    fn default() -> Self {
        SegmentLogOptions {
            create_if_missing: true,
            segment_bytes: 32 << 20,
            spare_segments: 2,
            sync: SyncPolicy::EachGroup,
            group_bytes_max: 4 << 20,
            ring_bytes: 4 << 20,
            index_bytes_max: 256 << 20,
            compress: true,
            copy_below_percent: 10,
            background: true,
            quarantine: BTreeSet::new(),
            on_laggards: None,
            store_id: 0,
        }
    }
}

impl fmt::Debug for SegmentLogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("spare_segments", &self.spare_segments)
            .field("sync", &self.sync)
            .field("index_bytes_max", &self.index_bytes_max)
            .field("background", &self.background)
            .field("quarantine", &self.quarantine)
            .finish_non_exhaustive()
    }
}
