//! Threads for what must not run on a raft thread. Uses: peer_storage, the seams.
//!
//! A worker ends when the last sender of its channel is gone; dropping [`Workers`] waits for that. The
//! same work can be done a task at a time, on the caller's thread ([`SteppedWorkers`]).

mod apply;
mod behind;
mod queue;
mod slow;
mod stepped;
mod task;
mod write;

use std::sync::Arc;
use std::thread::JoinHandle;

pub use apply::ApplyWorker;
pub use behind::BehindOptions;
pub use slow::SlowWorker;
pub use stepped::SteppedWorkers;
pub use task::{
    AdminWork, Applied, Applier, ApplyTask, ApplyWork, Done, DoneSender, ExpiryLook, NewPeer,
    PeerKey, Permit, Proposal, SlowTask, SplitCheck, WriteTask,
};
pub use write::WriteWorker;

use crate::error::{Error, Result};
use crate::peer_storage::{TaskSenders, WakeUp};
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;

/// The running workers of a node. Drop the [`TaskSenders`] before it.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one worker that reads cold entries, one that builds snapshots, and, if it is told how, one that
    /// writes the log behind its callers. Each calls `wake` after it has answered a region.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(
        log: &Arc<dyn RaftLogStorage>,
        snapshots: &Arc<dyn RaftSnapshotStorage>,
        wake: &Arc<WakeUp>,
        behind: Option<BehindOptions>,
    ) -> Result<(TaskSenders, Workers)> {
        let (senders, fetches, builds, writes) = queue::queues(log, snapshots, wake);
        let mut threads = vec![
            spawn("peerstore-fetch", move || fetches.run())?,
            spawn("peerstore-snapshot", move || builds.run())?,
        ];
        if let Some(options) = behind {
            let writes = writes(options);
            threads.push(spawn("peerstore-behind", move || writes.run())?);
        }
        Ok((senders, Workers { threads }))
    }
}

/// A named thread.
///
/// # Errors
/// `Io` if the system gives none.
pub fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|e| Error::io("start thread", std::path::Path::new(name), e))
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

#[cfg(test)]
mod tests;
