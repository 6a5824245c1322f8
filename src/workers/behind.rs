//! The worker that writes the log behind its callers: what they hand in while it writes is the next group.
//! Uses: peer_storage, raft_log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::write::linger_until;
use crate::peer_storage::{BehindTask, WakeUp};
use crate::persistence::FlushPolicy;
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::types::Durability;

/// The writes that were handed in.
pub(super) struct BehindQueue {
    pub tasks: Receiver<BehindTask>,
    pub log: Arc<dyn RaftLogStorage>,
    pub wake: Arc<WakeUp>,
    pub options: BehindOptions,
}

/// How they are written.
#[derive(Clone, Copy, Debug)]
pub struct BehindOptions {
    /// What they have survived when they are said to be durable.
    pub durability: Durability,
    /// How long a group waits for others.
    pub flush: FlushPolicy,
    /// Whether each is a group of its own.
    pub alone: bool,
}

impl BehindQueue {
    /// Works until the last sender is gone, and everything is written.
    pub fn run(&self) {
        let (mut failed, mut last_write) = (None, None);
        while let Ok(first) = self.tasks.recv() {
            let group = self.gather(first, last_write);
            self.write(group, &mut failed);
            last_write = Some(Instant::now());
        }
    }

    /// Writes what waits, as one group. False if nothing does.
    pub fn step(&self, failed: &mut Option<String>) -> bool {
        let group: Vec<_> = self.tasks.try_iter().collect();
        let any = !group.is_empty();
        self.write(group, failed);
        any
    }

    fn gather(&self, first: BehindTask, last_write: Option<Instant>) -> Vec<BehindTask> {
        let mut group = vec![first];
        if self.options.alone {
            return group;
        }
        let until = linger_until(self.options.flush, last_write);
        loop {
            group.extend(self.tasks.try_iter());
            let Some((threshold, until)) = until else {
                return group;
            };
            let entries: u64 = group.iter().map(|task| task.batch.entry_count()).sum();
            let left = until.saturating_duration_since(Instant::now());
            if entries >= threshold || left == Duration::ZERO {
                return group;
            }
            // Closed: nobody comes any more.
            match self.tasks.recv_timeout(left) {
                Ok(task) => group.push(task),
                Err(_) => return group,
            }
        }
    }

    /// After a failure nothing is written any more: what comes would stand on what is missing.
    fn write(&self, mut group: Vec<BehindTask>, failed: &mut Option<String>) {
        let mut batch = LogBatch::default();
        for task in &mut group {
            batch.merge(std::mem::take(&mut task.batch));
        }
        let durability = match self.options.durability {
            Durability::Synced => batch.durability(),
            Durability::Buffered => Durability::Buffered,
        };
        if failed.is_none()
            && let Err(error) = self.log.write(&batch, durability)
        {
            *failed = Some(error.to_string());
        }
        for task in group {
            let region = task.region;
            task.finish(failed.clone().map_or(Ok(()), Err));
            self.wake.wake(region);
        }
    }
}
