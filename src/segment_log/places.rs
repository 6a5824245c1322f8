//! The places of the entries of sealed segments: dropped beyond a limit of memory, and read back from
//! the segment's index, or its frames. Uses: fs.

use std::collections::BTreeSet;

use super::core::{Core, Tables};
use super::footer::{self, SegmentIndex};
use super::format::SegmentId;
use super::index::Index;
use super::part::Part;
use super::scan::{self, scan_group};
use super::segment::Info;
use super::upkeep::REGIONS_AT_A_TIME;
use crate::error::{Error, Result};
use crate::types::RegionId;

/// What the places take in memory for each byte of a segment's index, at most about.
const MEMORY_PER_FOOTER_BYTE: u64 = 3;

impl Core {
    /// Reads the places of a segment's entries back into memory, and lets others go if they are too
    /// many now. Returns those of `region`: by the time of the next look they may have been dropped
    /// again. Nothing if the segment is not in use any more.
    pub fn load(&self, segment: SegmentId, region: RegionId) -> Result<Option<Vec<Part>>> {
        let info = self.read_tables().segments.get(&segment).cloned();
        let Some(info) = info else {
            return Ok(None);
        };
        let mut found = index_of(&info)?;
        self.fill(segment, &found);
        self.forget_beyond_limit(Some(segment));
        Ok(Some(found.remove(&region).unwrap_or_default()))
    }

    fn fill(&self, segment: SegmentId, found: &SegmentIndex) {
        let regions: Vec<_> = found.iter().collect();
        for some in regions.chunks(REGIONS_AT_A_TIME) {
            let mut tables = self.write_tables();
            for (region, parts) in some {
                tables.index.fill(**region, segment, parts);
            }
        }
    }

    /// Lets sealed segments drop the places of their entries, oldest first, until the rest is within
    /// the limit. The one to `keep` was asked for a moment ago.
    pub fn forget_beyond_limit(&self, keep: Option<SegmentId>) {
        let chosen = self
            .read_tables()
            .beyond(self.options.index_bytes_max, keep);
        if chosen.is_empty() {
            return;
        }
        let regions: Vec<RegionId> = self.read_tables().index.regions.keys().copied().collect();
        for some in regions.chunks(REGIONS_AT_A_TIME) {
            let mut tables = self.write_tables();
            for region in some {
                tables.index.forget(*region, |id| chosen.contains(&id));
            }
        }
    }

    /// Counts the live bytes of segments that were cut while the places of their entries were dropped.
    /// What the freeing of segments goes by is exact then, but for what is cut meanwhile.
    pub fn settle(&self, unreadable: &mut BTreeSet<SegmentId>) -> Result<()> {
        let guessed: Vec<Info> = {
            let tables = self.read_tables();
            let usages = tables.index.usages.each();
            let guessed = usages.filter(|(id, live)| live.guessed > 0 && !unreadable.contains(id));
            guessed
                .filter_map(|(id, _)| tables.segments.get(&id).cloned())
                .collect()
        };
        for info in guessed {
            let id = info.identity.segment;
            let found = match index_of(&info) {
                Ok(found) => found,
                Err(error @ Error::Corruption { .. }) => {
                    tracing::warn!(%error, "what lives in a segment cannot be told");
                    unreadable.insert(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // While there is memory the places stay: then the next cut needs no look.
            let memory = info.footer.map_or(0, |f| f.bytes * MEMORY_PER_FOOTER_BYTE);
            let taken = self.read_tables().index.usages.total().memory;
            if taken + memory <= self.options.index_bytes_max {
                self.fill(id, &found);
                continue;
            }
            let regions: Vec<_> = found.iter().collect();
            for some in regions.chunks(REGIONS_AT_A_TIME) {
                let mut tables = self.write_tables();
                for (region, parts) in some {
                    tables.index.settle(**region, id, parts);
                }
            }
        }
        Ok(())
    }
}

impl Tables {
    fn beyond(&self, limit: u64, keep: Option<SegmentId>) -> BTreeSet<SegmentId> {
        let mut total = self.index.usages.total().memory;
        let mut chosen = BTreeSet::new();
        for (segment, live) in self.index.usages.each() {
            let info = self.segments.get(&segment);
            // Without a footer, which is durable, there is nothing to read them back from but frames.
            let is_sealed = info.is_some_and(|info| info.footer.is_some());
            if total > limit && is_sealed && live.memory > 0 && keep != Some(segment) {
                chosen.insert(segment);
                total -= live.memory;
            }
        }
        chosen
    }
}

/// The index of a segment: the one behind its frames, or made from these.
fn index_of(info: &Info) -> Result<SegmentIndex> {
    match footer::read(info)? {
        Some(found) => Ok(found),
        None => index_of_frames(info),
    }
}

fn index_of_frames(info: &Info) -> Result<SegmentIndex> {
    let bytes = info.segment.read(0, info.end)?;
    let scanned = scan::whole(info, &bytes)?;
    let mut index = Index::default();
    for frame in &scanned {
        for op in scan_group(frame, &bytes)? {
            // What was removed later is not asked for.
            if op.data().is_some() {
                index.apply(info.identity.segment, &op);
            }
        }
    }
    let regions = index.regions.into_iter();
    Ok(regions.map(|(region, log)| (region, log.parts)).collect())
}
