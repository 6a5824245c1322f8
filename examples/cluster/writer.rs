//! The thread that writes a store's log, so that raft goes on while the disk works.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use peerstore::{CompositeStorage, LogBatch};

/// Writes the batches in their order and tells the driver, which may be asleep.
pub struct Writer {
    // None while it is dropped.
    tasks: Option<Sender<LogBatch>>,
    results: Receiver<peerstore::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start(node: Arc<CompositeStorage>) -> std::io::Result<Writer> {
        let (tasks, receiver) = channel();
        let (sender, results) = channel();
        let driver = thread::current();
        let work = move || {
            for batch in receiver {
                // One fsync for every region that has something in the batch.
                let result = node.write_log(&batch);
                if sender.send(result).is_err() {
                    break;
                }
                driver.unpark();
            }
        };
        let thread = thread::Builder::new()
            .name("log-writer".into())
            .spawn(work)?;
        Ok(Writer {
            tasks: Some(tasks),
            results,
            thread: Some(thread),
        })
    }

    pub fn write(&self, batch: LogBatch) {
        if let Some(tasks) = &self.tasks {
            // If the thread is gone, its result never comes, and the demo reports that it stands still.
            let _ = tasks.send(batch);
        }
    }

    /// The result of a batch, if one is there.
    pub fn written(&self) -> Option<peerstore::Result<()>> {
        self.results.try_recv().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
