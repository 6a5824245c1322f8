//! What happens behind the writers' backs: footers, checkpoints, the freeing of dead segments, the
//! reserve. Uses: fs.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::batch::Encoded;
use super::checkpoint::{Head, Position, Row, Writer};
use super::copy::Colds;
use super::core::{Core, Tables, lock};
use super::footer;
use super::format::SegmentId;
use super::part::Part;
use super::pool::For;
use super::segment::Info;
use crate::error::{Error, Result};
use crate::types::RegionId;

/// So many regions are looked at while the readers' lock is held.
pub(super) const REGIONS_AT_A_TIME: usize = 256;
/// A checkpoint is written once the log has grown by so many times its size.
const GROWTH_PER_CHECKPOINT: u64 = 20;
/// How many segments are copied before the rest is left for the next time.
const COPIED_MAX: usize = 64;

/// What the background remembers.
#[derive(Default)]
pub(super) struct Upkeep {
    /// The segments that copies go to.
    pub colds: Colds,
    /// Segments with a live run that cannot be read: they are left as they are.
    pub unreadable: BTreeSet<SegmentId>,
    /// How far the log was at the last checkpoint.
    logged_bytes: u64,
    checkpointed: Option<Position>,
}

impl Core {
    /// Writes the first checkpoint of an incarnation: what was recovered, with nothing behind it. From
    /// then on segments of this incarnation count.
    ///
    /// # Errors
    /// `DiskFull`, which leaves everything as it was, or `Io`.
    pub fn begin(&self) -> Result<()> {
        let dead = self.checkpoint(true)?;
        self.retire(&dead)?;
        self.is_begun.store(true, Release);
        Ok(())
    }

    /// Does what there is to do.
    ///
    /// # Errors
    /// `DiskFull`, after which it goes on once there is space; any other poisons the log.
    pub fn maintain(&self) -> Result<()> {
        let mut upkeep = lock(&self.upkeep);
        if self.is_poisoned() || !self.is_begun.load(Acquire) {
            return Ok(());
        }
        let done = self.maintain_all(&mut upkeep);
        if let Err(error) = &done
            && !matches!(error, Error::DiskFull { .. } | Error::Poisoned { .. })
        {
            self.fail(error);
        }
        done
    }

    fn maintain_all(&self, upkeep: &mut Upkeep) -> Result<()> {
        self.be_ready_for_a_writer()?;
        self.seal(upkeep, false)?;
        self.settle(&mut upkeep.unreadable)?;
        self.forget_beyond_limit(None);
        for _ in 0..COPIED_MAX {
            let Some(source) = self.copy_candidate(upkeep) else {
                break;
            };
            // Several go with one checkpoint, which names every region, if there is room for it.
            if self.has_dead() && !self.has_room_to_copy(&source)? {
                self.free_dead(upkeep)?;
                self.be_ready_for_a_writer()?;
            }
            if !self.copy_what_is_nearly_dead(upkeep, &source)? {
                break;
            }
        }
        self.checkpoint_if_due(upkeep)?;
        let options = &self.options;
        let spare_bytes = self.read_tables().spare_bytes(options);
        self.fill_reserve(options.spare_segments, spare_bytes)?;
        let at_least = options.spares_at_least();
        self.fill_reserve(at_least, u64::MAX)?;
        self.pool.drain(at_least, spare_bytes)
    }

    /// A writer may be about to need a segment. At the bound one has to be freed for it first.
    fn be_ready_for_a_writer(&self) -> Result<()> {
        let spare_bytes = self.read_tables().spare_bytes(&self.options);
        let filled = self.fill_reserve(self.options.spare_segments.min(1), spare_bytes);
        // What follows may make room.
        unless_full(filled)
    }

    /// Whether what lives in `source` may be there twice for a while.
    fn has_room_to_copy(&self, source: &Info) -> Result<bool> {
        let reserve = self.pool.bytes()?;
        let tables = self.read_tables();
        let bytes = reserve + tables.bytes_to_copy(source);
        Ok(bytes <= tables.left_bytes(&self.options))
    }

    /// Has a segment ready before there are writers. Else the first would be one whose space is only set
    /// aside, and every frame in it dearer.
    pub fn be_ready(&self) -> Result<()> {
        let one = self.options.spare_segments.min(1);
        unless_full(self.pool.fill(one, u64::MAX, For::Nobody))
    }

    /// Writes zeroes while there is nothing better to do: once a writer has begun another segment, the one
    /// before is to be sealed, and soon a checkpoint due, or the next open would read all that is behind.
    fn fill_reserve(&self, count: usize, bytes_max: u64) -> Result<()> {
        let rotations = || self.counters.rotations.load(Relaxed);
        let begun = rotations();
        let is_urgent = || {
            let is_overtaken = self.pool.ready() == 0 && self.is_half_full();
            self.is_stopped() || rotations() != begun || is_overtaken
        };
        self.pool.fill(count, bytes_max, For::Reserve(&is_urgent))
    }

    /// Whether the segment that is written to is. Who has come so far may need the next one before it could
    /// be written with zeroes.
    fn is_half_full(&self) -> bool {
        self.read_tables().position.offset > self.options.segment_bytes / 2
    }

    /// Makes the next open short: everything durable, indexed and in the checkpoint. Nothing is
    /// written afterwards.
    ///
    /// # Errors
    /// As `maintain`. The log is whole in any case.
    pub fn close(&self) -> Result<()> {
        let mut upkeep = lock(&self.upkeep);
        if self.is_poisoned() {
            return Ok(());
        }
        self.flush()?;
        let is_as_opened = self.counters.groups.load(Relaxed) == 0;
        if is_as_opened || !self.is_begun.load(Acquire) {
            return Ok(());
        }
        self.seal(&mut upkeep, true)?;
        self.checkpoint(true).map(drop)
    }

    /// Calls `look` with every region, a few at a time, so that no writer waits for long. A region that
    /// comes meanwhile may be left out.
    pub fn each_region(&self, mut look: impl FnMut(&Tables, RegionId)) {
        let mut regions: Vec<RegionId> = self.read_tables().index.regions.keys().copied().collect();
        regions.sort_unstable();
        for some in regions.chunks(REGIONS_AT_A_TIME) {
            let tables = self.read_tables();
            some.iter().for_each(|region| look(&tables, *region));
        }
    }

    /// Writes the index of segments that get no more frames.
    fn seal(&self, upkeep: &mut Upkeep, with_last: bool) -> Result<()> {
        let open: Vec<Info> = {
            let tables = self.read_tables();
            let position = tables.position.segment;
            let is_open = |info: &Info| {
                let id = info.identity.segment;
                let is_written_to =
                    !info.is_cold && id >= position && !(with_last && id == position);
                is_written_to || (upkeep.colds.has(id) && !with_last)
            };
            let infos = tables
                .segments
                .values()
                .filter(|i| i.footer.is_none() && !is_open(i));
            let live = infos.filter(|i| tables.index.usages.of(i.identity.segment).parts > 0);
            live.cloned().collect()
        };
        for info in open {
            let id = info.identity.segment;
            if upkeep.unreadable.contains(&id) {
                continue;
            }
            match self.seal_one(&info) {
                // Without a footer the places stay in memory, or are read from the frames.
                Ok(()) | Err(Error::DiskFull { .. }) => {}
                Err(error @ Error::Corruption { .. }) => {
                    tracing::warn!(%error, "a segment is not indexed");
                    upkeep.unreadable.insert(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn seal_one(&self, info: &Info) -> Result<()> {
        let id = info.identity.segment;
        let regions = self.regions_in(id);
        let footer = match self.footer_of(id, &regions) {
            Some(footer) => footer,
            None => {
                // Without a footer nothing of it is dropped before it has one.
                self.load(id, RegionId(0))?;
                let footer = self.footer_of(id, &regions);
                footer.ok_or_else(|| {
                    let what = format!("segment {id}");
                    Error::corruption(None, what, "its frames do not hold all of its entries")
                })?
            }
        };
        let footer = footer.finish(info)?;
        if let Some(info) = self.write_tables().segments.get_mut(&id) {
            info.footer = Some(footer);
        }
        for some in regions.chunks(REGIONS_AT_A_TIME) {
            let mut tables = self.write_tables();
            for region in some {
                tables.index.tighten(*region, id);
            }
        }
        Ok(())
    }

    /// The regions with entries in a segment.
    fn regions_in(&self, id: SegmentId) -> Vec<RegionId> {
        let mut regions = Vec::new();
        self.each_region(|tables, region| {
            let log = tables.index.regions.get(&region);
            if log.is_some_and(|log| log.parts_in(id).next().is_some()) {
                regions.push(region);
            }
        });
        regions
    }

    /// What a segment that gets no more frames has of these regions; nothing if a part in it has dropped
    /// its runs. One region's places at a time are copied, and written down without the readers' lock.
    fn footer_of(&self, id: SegmentId, regions: &[RegionId]) -> Option<footer::Writer> {
        let mut footer = footer::Writer::new();
        for region in regions {
            let parts: Vec<Part> = {
                let tables = self.read_tables();
                let log = tables.index.regions.get(region);
                log.map_or_else(Vec::new, |log| log.parts_in(id).cloned().collect())
            };
            if parts.iter().any(|part| part.runs.is_none()) {
                return None;
            }
            if !parts.is_empty() {
                footer.region(*region, &parts);
            }
        }
        Some(footer)
    }

    fn checkpoint_if_due(&self, upkeep: &mut Upkeep) -> Result<()> {
        let logged = self.counters.log_bytes.load(Relaxed);
        let grown = logged - upkeep.logged_bytes;
        let (position, checkpoint_bytes) = {
            let tables = self.read_tables();
            (tables.position, tables.checkpoint_bytes)
        };
        let is_worth_it = grown >= GROWTH_PER_CHECKPOINT * checkpoint_bytes;
        let is_long = grown >= self.options.segment_bytes || self.has_dead();
        // Space comes before the bytes that a checkpoint takes.
        let is_due = is_worth_it && is_long || self.is_full_of_dead();
        if upkeep.checkpointed == Some(position) || !is_due {
            return Ok(());
        }
        self.free_dead(upkeep)
    }

    /// Writes a checkpoint, and gives up the segments that it does without.
    fn free_dead(&self, upkeep: &mut Upkeep) -> Result<()> {
        let logged = self.counters.log_bytes.load(Relaxed);
        let position = self.read_tables().position;
        let dead = self.checkpoint(false)?;
        upkeep.logged_bytes = logged;
        upkeep.checkpointed = Some(position);
        upkeep.colds.forget(&dead);
        self.retire(&dead)
    }

    fn is_full_of_dead(&self) -> bool {
        self.has_dead() && self.read_tables().is_crowded(&self.options)
    }

    fn has_dead(&self) -> bool {
        let tables = self.read_tables();
        tables.segments.values().any(|info| tables.is_dead(info))
    }

    /// Writes a checkpoint of the log as it is now. Returns the segments that it does without. With
    /// `is_sealed` nothing is being written.
    fn checkpoint(&self, is_sealed: bool) -> Result<Vec<SegmentId>> {
        let (head, dead) = self.read_tables().summary(self, is_sealed);
        let write = || {
            let mut writer = Writer::new(&head);
            self.each_region(|tables, region| {
                if let Some(log) = tables.index.regions.get(&region) {
                    writer.region(region, log);
                }
            });
            if !is_sealed {
                // It may have caught batches that are not durable yet.
                self.submit_and_wait(Encoded::default(), true)?;
            }
            let bytes = writer.finish(&*self.fs, &self.dir)?;
            self.pool.sync_names()?;
            Ok(bytes)
        };
        let mut written = write();
        // A spare is worth less than a checkpoint, which frees others.
        while matches!(written, Err(Error::DiskFull { .. })) && self.pool.shed()? {
            written = write();
        }
        let bytes = written?;
        self.write_tables().checkpoint_bytes = bytes;
        self.counters.checkpoints.fetch_add(1, Relaxed);
        Ok(dead)
    }

    /// Gives up segments that the durable checkpoint does not name. The files of copies are as long as
    /// these were, no segments to write to.
    fn retire(&self, dead: &[SegmentId]) -> Result<()> {
        for id in dead {
            let info = self.write_tables().segments.remove(id);
            match info {
                Some(info) if info.is_cold => self.fs.remove(&info.segment.path)?,
                Some(info) => self.pool.recycle(info.segment),
                None => {}
            }
        }
        Ok(())
    }
}

/// A disk that is full leaves it for later.
fn unless_full(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::DiskFull { .. }) => Ok(()),
        done => done,
    }
}

impl Tables {
    fn summary(&self, core: &Core, is_sealed: bool) -> (Head, Vec<SegmentId>) {
        let (mut segments, mut dead) = (Vec::new(), Vec::new());
        for info in self.segments.values() {
            let id = info.identity.segment;
            if self.is_dead(info) {
                dead.push(id);
            } else if info.is_cold || id <= self.position.segment {
                segments.push(Row {
                    identity: info.identity,
                    is_cold: info.is_cold,
                    end: info.end,
                    footer: info.footer,
                });
            }
        }
        let head = Head {
            store: core.store,
            incarnation: core.incarnation(),
            next: core.pool.next(),
            position: self.position,
            is_sealed,
            segments,
        };
        (head, dead)
    }
}
