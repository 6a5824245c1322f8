//! The write worker: the log of every region, one batch and one fsync at a time. Uses: peer_storage,
//! raft_log.
//!
//! While an fsync is under way the next tasks gather; they are written together. So the fsyncs for an
//! entry fall as more regions and proposers are busy, and nobody waits on purpose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::task::{Done, DoneSender, WriteTask};
use crate::mailbox::{Received, Receiver};
use crate::peer_storage::Engines;
use crate::persistence::FlushPolicy;

/// Tasks are gathered up to about this much.
const BATCH_BYTES: usize = 1 << 20;

/// Writes the log.
pub struct WriteWorker {
    engines: Arc<Engines>,
    tasks: Receiver<WriteTask>,
    done: DoneSender,
    // After a failed write nothing is written any more: what comes would stand on what is missing.
    poisoned: bool,
    last_write: Option<Instant>,
}

/// How many entries a group waits for, and until when; nothing if it does not wait. A log that was idle
/// for so long does not either.
pub(super) fn linger_until(
    flush: FlushPolicy,
    last_write: Option<Instant>,
) -> Option<(u64, Instant)> {
    match flush {
        FlushPolicy::Immediate => None,
        FlushPolicy::Batched {
            threshold,
            interval_ms,
        } => Some((threshold, last_write? + Duration::from_millis(interval_ms))),
    }
}

impl WriteWorker {
    /// A worker for `tasks`.
    pub fn new(engines: Arc<Engines>, tasks: Receiver<WriteTask>, done: DoneSender) -> Self {
        WriteWorker {
            engines,
            tasks,
            done,
            poisoned: false,
            last_write: None,
        }
    }

    /// Works until every sender is gone.
    pub fn run(mut self) {
        let mut tasks = Vec::new();
        while self.tasks.receive(&mut tasks, None) == Received::Some {
            self.linger(&mut tasks);
            self.write_all(&mut tasks);
            self.last_write = Some(Instant::now());
        }
    }

    /// Waits for more, where the node's policy says so.
    fn linger(&self, tasks: &mut Vec<WriteTask>) {
        let flush = self.engines.options.flush;
        let Some((threshold, until)) = linger_until(flush, self.last_write) else {
            return;
        };
        let mut entries: u64 = tasks.iter().map(|t| t.batch.entry_count()).sum();
        while entries < threshold {
            let known = tasks.len();
            if self.tasks.receive(tasks, Some(until)) != Received::Some {
                return;
            }
            entries += tasks[known..]
                .iter()
                .map(|t| t.batch.entry_count())
                .sum::<u64>();
        }
    }

    /// Writes what waits; whether there was anything.
    pub fn step(&mut self) -> bool {
        let mut tasks = Vec::new();
        let any = self.tasks.try_receive(&mut tasks);
        self.write_all(&mut tasks);
        any
    }

    fn write_all(&mut self, tasks: &mut Vec<WriteTask>) {
        let mut tasks = tasks.drain(..);
        while let Some(mut task) = tasks.next() {
            while task.bytes < BATCH_BYTES
                && let Some(next) = tasks.next()
            {
                task.batch.merge(next.batch);
                task.bytes += next.bytes;
                task.readies.extend(next.readies);
            }
            self.write(task);
        }
    }

    fn write(&mut self, task: WriteTask) {
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
