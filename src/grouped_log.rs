//! A log whose fsyncs are grouped as a config says, over any other log. Uses: raft_log, persistence. I/O
//! through the log below only.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft::eraftpb::Entry;

use crate::error::{Error, Result};
use crate::persistence::{FlushPolicy, SyncPolicy};
use crate::proto::RaftLocalState;
use crate::raft_log::{LogBatch, LogStats, LogUsage, RaftLogStorage};
use crate::types::{Durability, RegionId};

/// A [`RaftLogStorage`] that decides which durable writes of another share an fsync.
///
/// A log that is not wrapped groups by itself: whoever waits while an fsync is under way is in the next
/// one. This one can give each write its own ([`SyncPolicy::Always`]), or let a group wait for more
/// entries ([`FlushPolicy::Batched`]). Buffered writes are passed on as they are.
pub struct GroupedLog {
    inner: Arc<dyn RaftLogStorage>,
    grouping: Grouping,
    group: Mutex<Group>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug)]
enum Grouping {
    Alone,
    Batched { threshold: u64, interval: Duration },
}

#[derive(Debug, Default)]
struct Group {
    // The writes that are in the log, and those of them that are durable, counted from 1.
    written: u64,
    durable: u64,
    // Invariant: the entries of the writes behind `durable` that no sync under way covers.
    waiting_entries: u64,
    is_led: bool,
    last_sync: Option<Instant>,
    failed: Option<String>,
}

impl GroupedLog {
    /// `inner` with its fsyncs grouped; `inner` itself where it does that already.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use peerstore::memory::MemoryLog;
    /// use peerstore::{Durability, FlushPolicy, GroupedLog, LogBatch, RaftLocalState, SyncPolicy};
    /// let log = GroupedLog::wrap(Arc::new(MemoryLog::new()), SyncPolicy::Always, FlushPolicy::Immediate);
    /// let mut batch = LogBatch::default();
    /// batch.state(1.into(), RaftLocalState::default());
    /// log.write(&batch, Durability::Synced)?;
    /// assert_eq!(log.stats().syncs, 1);
    /// # Ok::<(), peerstore::Error>(())
    /// ```
    pub fn wrap(
        inner: Arc<dyn RaftLogStorage>,
        sync: SyncPolicy,
        flush: FlushPolicy,
    ) -> Arc<dyn RaftLogStorage> {
        let grouping = match (sync, flush) {
            (SyncPolicy::Always, _) => Grouping::Alone,
            (
                SyncPolicy::Batch,
                FlushPolicy::Batched {
                    threshold,
                    interval_ms: ms @ 1..,
                },
            ) => Grouping::Batched {
                threshold,
                interval: Duration::from_millis(ms),
            },
            (SyncPolicy::Batch | SyncPolicy::Os, _) => return inner,
        };
        Arc::new(GroupedLog {
            inner,
            grouping,
            group: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    // What is changed under the lock is changed by single assignments: a panic leaves it whole.
    fn lock(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was written is durable; leads the group if nobody does.
    fn wait(&self, entries: u64, threshold: u64, interval: Duration) -> Result<()> {
        let mut group = self.lock();
        group.written += 1;
        group.waiting_entries += entries;
        let number = group.written;
        if group.waiting_entries >= threshold {
            self.changed.notify_all();
        }
        loop {
            if group.durable >= number {
                return Ok(());
            }
            if let Some(cause) = &group.failed {
                return Err(Error::Poisoned {
                    path: PathBuf::from("the log"),
                    cause: cause.clone(),
                });
            }
            if !group.is_led {
                return self.lead(group, threshold, interval);
            }
            group = (self.changed.wait(group)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the group to gather, and syncs it.
    fn lead(
        &self,
        mut group: MutexGuard<'_, Group>,
        threshold: u64,
        interval: Duration,
    ) -> Result<()> {
        group.is_led = true;
        // A log that was idle for so long does not wait.
        let until = group.last_sync.map(|last| last + interval);
        while group.waiting_entries < threshold
            && let Some(until) = until
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(group, left);
            group = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let covered = group.written;
        group.waiting_entries = 0;
        drop(group);
        let synced = self.inner.sync();
        let mut group = self.lock();
        group.is_led = false;
        group.last_sync = Some(Instant::now());
        match &synced {
            Ok(()) => group.durable = covered,
            Err(error) => group.failed = Some(error.to_string()),
        }
        drop(group);
        self.changed.notify_all();
        synced
    }
}

impl RaftLogStorage for GroupedLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if durability == Durability::Buffered || batch.is_empty() {
            return self.inner.write(batch, durability);
        }
        match self.grouping {
            Grouping::Alone => {
                // Held through the fsync, so that nobody shares it.
                let _alone = self.lock();
                self.inner.write(batch, durability)
            }
            Grouping::Batched {
                threshold,
                interval,
            } => {
                self.inner.write(batch, Durability::Buffered)?;
                self.wait(batch.entry_count(), threshold, interval)
            }
        }
    }

    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        self.inner.read_entries(region, range, bytes_max)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.inner.read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.inner.read_state(region)
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        self.inner.regions()
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.inner.approximate_bytes(region, range)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }

    fn usage(&self) -> LogUsage {
        self.inner.usage()
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemFs, MemoryLog, WriteFault};
    use crate::segment_log::{SegmentLog, SegmentLogOptions};

    /// A batch with the entry 6 of `region`.
    fn batch(region: u64) -> LogBatch {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (6, 5);
        let mut batch = LogBatch::default();
        batch.append(region.into(), vec![entry]);
        batch
    }

    fn write_at_once(log: &Arc<dyn RaftLogStorage>, regions: Range<u64>) -> Vec<Result<()>> {
        std::thread::scope(|scope| {
            let write = |region| scope.spawn(move || log.write(&batch(region), Durability::Synced));
            let writers: Vec<_> = regions.map(write).collect();
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        })
    }

    fn backends() -> Vec<Arc<dyn RaftLogStorage>> {
        let segments = SegmentLog::open(
            Arc::new(MemFs::new()),
            "log",
            SegmentLogOptions {
                segment_bytes: 64 << 10,
                background: false,
                ..Default::default()
            },
        );
        vec![Arc::new(MemoryLog::new()), Arc::new(segments.unwrap())]
    }

    #[test]
    fn always_gives_each_write_its_own_fsync() {
        for inner in backends() {
            let log = GroupedLog::wrap(inner, SyncPolicy::Always, FlushPolicy::Immediate);
            let before = log.stats().syncs;
            assert!(write_at_once(&log, 1..9).iter().all(Result::is_ok));
            assert_eq!(log.stats().syncs - before, 8);
        }
    }

    #[test]
    fn a_group_goes_when_enough_entries_wait() {
        let flush = FlushPolicy::Batched {
            threshold: 4,
            interval_ms: 3_600_000,
        };
        for inner in backends() {
            let log = GroupedLog::wrap(inner, SyncPolicy::Batch, flush);
            // A log that was idle syncs at once; from then on an hour would have to pass.
            log.write(&batch(1), Durability::Synced).unwrap();
            let before = log.stats().syncs;
            assert!(write_at_once(&log, 2..6).iter().all(Result::is_ok));
            assert_eq!(log.stats().syncs - before, 1);
        }
    }

    #[test]
    fn a_group_goes_when_its_time_has_come() {
        let flush = FlushPolicy::Batched {
            threshold: u64::MAX,
            interval_ms: 1,
        };
        let log = GroupedLog::wrap(Arc::new(MemoryLog::new()), SyncPolicy::Batch, flush);
        for region in 1..4 {
            log.write(&batch(region), Durability::Synced).unwrap();
            assert_eq!(log.stats().syncs, region);
        }
    }

    #[test]
    fn a_failed_fsync_fails_everybody_who_waited_for_it_and_all_who_come() {
        let flush = FlushPolicy::Batched {
            threshold: 3,
            interval_ms: 3_600_000,
        };
        let inner = Arc::new(MemoryLog::new());
        let log = GroupedLog::wrap(inner.clone(), SyncPolicy::Batch, flush);
        log.write(&batch(1), Durability::Synced).unwrap();
        inner.fail_next_write(WriteFault::SyncFailed);
        assert!(write_at_once(&log, 2..5).iter().all(Result::is_err));
        let late = log.write(&batch(9), Durability::Synced);
        assert!(matches!(late, Err(Error::Poisoned { .. })), "{late:?}");
        assert_eq!(inner.crash_copy(0).regions().unwrap(), [1.into()]);
    }

    #[test]
    fn what_groups_by_itself_is_not_wrapped() {
        let inner: Arc<dyn RaftLogStorage> = Arc::new(MemoryLog::new());
        for sync in [SyncPolicy::Batch, SyncPolicy::Os] {
            let log = GroupedLog::wrap(Arc::clone(&inner), sync, FlushPolicy::Immediate);
            assert!(Arc::ptr_eq(&log, &inner));
        }
    }
}
