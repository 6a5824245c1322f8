//! The workers without threads: a task when the caller says so. Uses: peer_storage, the seams.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::behind::{BehindOptions, BehindQueue};
use super::queue::{FetchQueue, SnapshotQueue, queues};
use crate::peer_storage::{Clock, TaskSenders, WakeUp};
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;

/// The workers of a node that was put together with
/// [`CompositeStorage::from_parts_stepped`](crate::CompositeStorage::from_parts_stepped): they work on
/// the caller's thread, one task a call, and the node's clock moves when the caller moves it. So a
/// simulation decides when things happen, and the same decisions always lead to the same end.
///
/// `PeerStorage::wait_snapshot` and `wait_fetched` would wait in vain on the thread that is to step:
/// ask, step, and ask again. Dropped, it is a node whose workers are gone.
pub struct SteppedWorkers {
    fetches: FetchQueue,
    builds: SnapshotQueue,
    writes: BehindQueue,
    write_failed: RefCell<Option<String>>,
    clock: Clock,
}

impl SteppedWorkers {
    /// The workers, the way to them, and nothing that moves by itself.
    pub(crate) fn new(
        log: &Arc<dyn RaftLogStorage>,
        snapshots: &Arc<dyn RaftSnapshotStorage>,
        wake: &Arc<WakeUp>,
        behind: BehindOptions,
    ) -> (TaskSenders, Self) {
        let (senders, fetches, builds, writes) = queues(log, snapshots, wake);
        let stepped = SteppedWorkers {
            fetches,
            builds,
            writes: writes(behind),
            write_failed: RefCell::default(),
            clock: Clock::manual(),
        };
        (senders, stepped)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Reads the entries that were asked for first, and answers. False if nobody has asked.
    pub fn step_fetch(&self) -> bool {
        self.fetches.step()
    }

    /// Builds or removes one snapshot file, the first that was asked for. False if nobody has asked.
    pub fn step_snapshot(&self) -> bool {
        self.builds.step()
    }

    /// Writes what was handed in to be written behind its callers, as one group. False if nothing was.
    pub fn step_write(&self) -> bool {
        self.writes.step(&mut self.write_failed.borrow_mut())
    }

    /// Moves the node's clock forward, for the pause behind a snapshot that could not be built.
    pub fn advance_clock(&self, by: Duration) {
        self.clock.advance(by);
    }
}

impl std::fmt::Debug for SteppedWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteppedWorkers")
            .field("clock", &self.clock.now())
            .finish_non_exhaustive()
    }
}
