//! Threads for what must not run on a raft thread. Uses: peer_storage, the seams.
//!
//! A worker ends when the last sender of its channel is gone; dropping [`Workers`] waits for that.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

use crate::error::{Error, Result};
use crate::peer_storage::{FetchTask, NeededFiles, SnapshotTask, TaskSenders};
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;

/// The running workers of a node. Drop the [`TaskSenders`] before it.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one worker that reads cold entries and one that builds snapshots.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(
        log: &Arc<dyn RaftLogStorage>,
        snapshots: &Arc<dyn RaftSnapshotStorage>,
    ) -> Result<(TaskSenders, Workers)> {
        let (fetch, fetch_tasks) = crossbeam_channel::unbounded();
        let (snapshot, snapshot_tasks) = crossbeam_channel::unbounded();
        let (log, snapshots) = (Arc::clone(log), Arc::clone(snapshots));
        let needed = Arc::new(NeededFiles::default());
        let senders = TaskSenders {
            fetch,
            snapshot,
            needed: Arc::clone(&needed),
        };
        let threads = vec![
            spawn("peerstore-fetch", move || run_fetches(&fetch_tasks, &*log))?,
            spawn("peerstore-snapshot", move || {
                run_snapshots(&snapshot_tasks, &*snapshots, &needed);
            })?,
        ];
        Ok((senders, Workers { threads }))
    }
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|e| Error::io("start thread", std::path::Path::new(name), e))
}

fn run_fetches(tasks: &Receiver<FetchTask>, log: &dyn RaftLogStorage) {
    for task in tasks {
        task.run(log);
    }
}

/// Works off the tasks. A file that is still being sent is removed after a later task.
fn run_snapshots(
    tasks: &Receiver<SnapshotTask>,
    store: &dyn RaftSnapshotStorage,
    needed: &NeededFiles,
) {
    let mut again: Vec<SnapshotTask> = Vec::new();
    for task in tasks {
        again.push(task);
        again = (again.drain(..))
            .filter_map(|task| task.run(store, needed))
            .collect();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}
