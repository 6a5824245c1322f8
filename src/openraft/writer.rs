//! The thread that writes the logs of a node's groups: one batch and one fsync for all that wait.
//! Uses: raft_log, workers.
//!
//! While an fsync is under way the next tasks gather; they are written together, whichever groups they
//! are of. openraft's own threads never wait for the disk here.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result, catch_panic};
use crate::raft_log::{LogBatch, LogOp, RaftLogStorage};
use crate::workers::spawn;

/// Tasks are gathered up to about this much.
const BATCH_BYTES: usize = 1 << 20;

/// Is told what became of a batch, on the writer's thread: it must neither block nor panic.
pub(super) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A batch to be written, with an fsync if it requires one.
pub(super) struct Task {
    pub batch: LogBatch,
    pub done: Done,
}

/// The way to the thread. Dropping it waits until what was handed in is written.
pub(super) struct Writer {
    // None only while it is dropped.
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread that writes to `log`.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(log: Arc<dyn RaftLogStorage>) -> Result<Writer> {
        let (tasks, received) = crossbeam_channel::unbounded();
        let worker = Worker { log, poison: None };
        let thread = spawn("peerstore-openraft", move || worker.run(&received))?;
        Ok(Writer {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Hands `task` in. Tasks are written in the order in which they were handed in.
    pub fn submit(&self, task: Task) {
        let unsent = match &self.tasks {
            Some(tasks) => tasks.send(task).err().map(|error| error.into_inner()),
            None => Some(task),
        };
        if let Some(task) = unsent {
            let worker = "openraft log";
            (task.done)(Err(Error::WorkerGone { worker }));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of openraft's logs had panicked");
        }
    }
}

struct Worker {
    log: Arc<dyn RaftLogStorage>,
    // After a failed write nothing is written any more: what comes would stand on what is missing.
    poison: Option<String>,
}

impl Worker {
    fn run(mut self, tasks: &Receiver<Task>) {
        while let Ok(first) = tasks.recv() {
            let mut bytes = size_of_batch(&first.batch);
            let mut group = vec![first];
            while bytes < BATCH_BYTES
                && let Ok(next) = tasks.try_recv()
            {
                bytes += size_of_batch(&next.batch);
                group.push(next);
            }
            self.write(group);
        }
    }

    fn write(&mut self, group: Vec<Task>) {
        let mut batch = LogBatch::new();
        let mut done = Vec::with_capacity(group.len());
        for task in group {
            batch.merge(task.batch);
            done.push(task.done);
        }
        let mut error = match self.poison {
            Some(_) => None,
            None => catch_panic("openraft log", || {
                self.log.write(&batch, batch.durability())
            })
            .err(),
        };
        if let Some(error) = &error {
            self.poison = Some(error.to_string());
        }
        for done in done {
            let result = match (error.take(), &self.poison) {
                (Some(error), _) => Err(error),
                (None, Some(cause)) => Err(Error::Poisoned {
                    path: Path::new("(log)").into(),
                    cause: cause.clone(),
                }),
                (None, None) => Ok(()),
            };
            done(result);
        }
    }
}

fn size_of_batch(batch: &LogBatch) -> usize {
    let size = |op: &LogOp| match op {
        LogOp::Append { entries, .. } => entries.iter().map(|e| e.data.len() + 64).sum(),
        LogOp::Remove { .. } | LogOp::State { .. } | LogOp::Clear { .. } => 64,
    };
    batch.ops().iter().map(size).sum()
}
