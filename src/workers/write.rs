//! The write worker: the log of every region, one batch and one fsync at a time. Uses: peer_storage,
//! raft_log.
//!
//! While an fsync is under way the next tasks gather; they are written together. So the fsyncs for an
//! entry fall as more regions and proposers are busy, and nobody waits on purpose.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::task::{Done, DoneSender, WriteTask};
use crate::peer_storage::Engines;

/// Tasks are gathered up to about this much.
const BATCH_BYTES: usize = 1 << 20;

/// Writes the log.
pub struct WriteWorker {
    engines: Arc<Engines>,
    tasks: Receiver<WriteTask>,
    done: DoneSender,
    // After a failed write nothing is written any more: what comes would stand on what is missing.
    poisoned: bool,
}

impl WriteWorker {
    /// A worker for `tasks`.
    pub fn new(engines: Arc<Engines>, tasks: Receiver<WriteTask>, done: DoneSender) -> Self {
        WriteWorker {
            engines,
            tasks,
            done,
            poisoned: false,
        }
    }

    /// Works until every sender is gone.
    pub fn run(mut self) {
        while let Ok(first) = self.tasks.recv() {
            self.write(first);
        }
    }

    /// Writes what waits, once; whether there was anything.
    pub fn step(&mut self) -> bool {
        match self.tasks.try_recv() {
            Ok(first) => {
                self.write(first);
                true
            }
            Err(_) => false,
        }
    }

    fn write(&mut self, mut task: WriteTask) {
        while task.bytes < BATCH_BYTES
            && let Ok(next) = self.tasks.try_recv()
        {
            task.batch.merge(next.batch);
            task.bytes += next.bytes;
            task.readies.extend(next.readies);
        }
        if self.poisoned {
            return;
        }
        match self.engines.write_log(&task.batch) {
            Ok(()) => (self.done)(Done::Persisted(task.readies)),
            Err(error) => {
                self.poisoned = true;
                (self.done)(Done::Poisoned(error));
            }
        }
    }
}
