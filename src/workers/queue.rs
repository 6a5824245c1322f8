//! What each worker does, a task at a time, on whichever thread. Uses: peer_storage, the seams.

use std::cell::RefCell;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::behind::{BehindOptions, BehindQueue};
use crate::error::catch_panic;
use crate::peer_storage::{FetchTask, NeededFiles, SnapshotTask, TaskSenders, WakeUp};
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;

/// The reads of cold entries that were asked for.
pub(super) struct FetchQueue {
    tasks: Receiver<FetchTask>,
    log: Arc<dyn RaftLogStorage>,
    wake: Arc<WakeUp>,
}

/// The snapshot files to be built and removed.
pub(super) struct SnapshotQueue {
    tasks: Receiver<SnapshotTask>,
    // A file that is still being sent is removed after a later task.
    again: RefCell<Vec<SnapshotTask>>,
    store: Arc<dyn RaftSnapshotStorage>,
    needed: Arc<NeededFiles>,
    wake: Arc<WakeUp>,
}

/// The way to the workers, and what they work off.
pub(super) fn queues(
    log: &Arc<dyn RaftLogStorage>,
    snapshots: &Arc<dyn RaftSnapshotStorage>,
    wake: &Arc<WakeUp>,
) -> (
    TaskSenders,
    FetchQueue,
    SnapshotQueue,
    impl FnOnce(BehindOptions) -> BehindQueue + use<>,
) {
    let (behind, behind_tasks) = crossbeam_channel::unbounded();
    let (fetch, fetch_tasks) = crossbeam_channel::unbounded();
    let (snapshot, snapshot_tasks) = crossbeam_channel::unbounded();
    let needed = Arc::new(NeededFiles::default());
    let fetches = FetchQueue {
        tasks: fetch_tasks,
        log: Arc::clone(log),
        wake: Arc::clone(wake),
    };
    let builds = SnapshotQueue {
        tasks: snapshot_tasks,
        again: RefCell::default(),
        store: Arc::clone(snapshots),
        needed: Arc::clone(&needed),
        wake: Arc::clone(wake),
    };
    let senders = TaskSenders {
        fetch,
        snapshot,
        behind,
        needed,
    };
    let (log, wake) = (Arc::clone(log), Arc::clone(wake));
    let writes = move |options| BehindQueue {
        tasks: behind_tasks,
        log,
        wake,
        options,
    };
    (senders, fetches, builds, writes)
}

impl FetchQueue {
    /// Works until the last sender is gone.
    pub fn run(&self) {
        self.tasks.iter().for_each(|task| self.work(task));
    }

    /// Does one task. False if there is none.
    pub fn step(&self) -> bool {
        let task = self.tasks.try_recv().ok();
        task.map(|task| self.work(task)).is_some()
    }

    fn work(&self, task: FetchTask) {
        // What panics in the task itself is answered there; this one is for who is woken.
        let _ = catch_panic("fetch", || {
            let region = task.region();
            task.run(&*self.log);
            self.wake.wake(region);
            Ok(())
        });
    }
}

impl SnapshotQueue {
    /// Works until the last sender is gone.
    pub fn run(&self) {
        self.tasks.iter().for_each(|task| self.work(task));
    }

    /// Does one task. False if there is none.
    pub fn step(&self) -> bool {
        let task = self.tasks.try_recv().ok();
        task.map(|task| self.work(task)).is_some()
    }

    fn work(&self, task: SnapshotTask) {
        let mut tasks = self.again.take();
        tasks.push(task);
        let left = tasks.into_iter().filter_map(|task| self.try_once(task));
        let left = left.collect();
        self.again.replace(left);
    }

    /// Hands back what has to be tried again later.
    fn try_once(&self, task: SnapshotTask) -> Option<SnapshotTask> {
        let left = catch_panic("snapshot", || {
            let asker = task.asker();
            let left = task.run(&*self.store, &self.needed);
            if let Some(region) = asker {
                self.wake.wake(region);
            }
            Ok(left)
        });
        left.ok().flatten()
    }
}
