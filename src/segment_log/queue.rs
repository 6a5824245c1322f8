//! Who waits for a write, and who does it: the first that comes while nobody writes leads, and takes
//! everybody that waits with it. Never does I/O itself.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::batch::Encoded;
use super::core::{Core, lock};
use super::group::Refusal;
use super::options::SyncPolicy;
use crate::error::{Error, Result};

/// A leader waits for others at most this share of what an fsync takes.
const LINGER_SHARE: u64 = 2;
/// And never longer than this.
const LINGER_MAX: Duration = Duration::from_millis(2);

/// A batch that waits for its group.
pub(super) struct Request {
    pub encoded: Encoded,
    pub sync: bool,
    slot: Arc<Slot>,
}

/// Where a request stands.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    /// In the queue; somebody blocks on it, or not yet.
    Queued { is_awaited: bool },
    /// Its waiter is to lead the next group.
    Leads,
    /// Written, or failed. The answer is taken by the one who asks.
    Done(Option<Result<()>>),
}

impl Default for State {
    fn default() -> Self {
        State::Queued { is_awaited: false }
    }
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    is_led: bool,
    /// How many requests the leader waits for before it goes.
    wanted: usize,
    /// How many writers there seem to be: those of the last group and those that came meanwhile.
    expected: usize,
    last_sync: Option<Instant>,
}

/// A batch that was handed in: wait for it with [`Ticket::wait`].
///
/// Batches of tickets are written in the order in which they were handed in. One that nobody waits for
/// is written with the next group, or when the log is closed.
#[must_use = "a batch may stay unwritten until somebody waits for it"]
pub struct Ticket {
    core: Arc<Core>,
    slot: Arc<Slot>,
}

impl Ticket {
    /// Waits until the batch is written, as durable as was asked for. May write it, and others, on
    /// this thread.
    ///
    /// # Errors
    /// Those of [`RaftLogStorage::write`](crate::RaftLogStorage::write).
    pub fn wait(self) -> Result<()> {
        self.core.wait(&self.slot)
    }

    /// Whether [`Ticket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        matches!(*lock(&self.slot.state), State::Done(_))
    }
}

impl Core {
    /// Puts a request into the queue.
    ///
    /// # Errors
    /// `Poisoned`.
    fn enqueue(&self, encoded: Encoded, sync: bool) -> Result<Arc<Slot>> {
        self.check()?;
        let slot = Arc::new(Slot::default());
        let request = Request {
            encoded,
            sync,
            slot: Arc::clone(&slot),
        };
        let mut waiting = lock(&self.queue.waiting);
        waiting.requests.push_back(request);
        if waiting.wanted > 0 && waiting.requests.len() >= waiting.wanted {
            self.queue.arrived.notify_one();
        }
        Ok(slot)
    }

    /// Writes `encoded` with whoever waits too.
    pub fn submit_and_wait(&self, encoded: Encoded, sync: bool) -> Result<()> {
        let slot = self.enqueue(encoded, sync)?;
        self.wait(&slot)
    }

    pub fn submit(self: &Arc<Self>, encoded: Encoded, sync: bool) -> Result<Ticket> {
        Ok(Ticket {
            slot: self.enqueue(encoded, sync)?,
            core: Arc::clone(self),
        })
    }

    fn wait(&self, slot: &Slot) -> Result<()> {
        loop {
            if let Some(answer) = self.block(slot) {
                return answer;
            }
            self.lead();
        }
    }

    /// Waits for the answer, or until this thread is to lead: then there is none.
    fn block(&self, slot: &Slot) -> Option<Result<()>> {
        let mut waiting = lock(&self.queue.waiting);
        let mut state = lock(&slot.state);
        if let State::Queued { is_awaited } = &mut *state {
            *is_awaited = true;
            if !waiting.is_led {
                waiting.is_led = true;
                return None;
            }
        }
        drop(waiting);
        loop {
            match &mut *state {
                State::Done(answer) => return Some(answer.take().unwrap_or(Ok(()))),
                State::Leads => {
                    *state = State::Queued { is_awaited: true };
                    return None;
                }
                State::Queued { .. } => {
                    let changed = slot.changed.wait(state);
                    state = changed.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Writes one group and hands the lead on.
    fn lead(&self) {
        let mut group = self.gather();
        let count = group.len();
        let outcome = match self.check() {
            Ok(()) => self.write_group(&mut group),
            Err(error) => Err(Refusal::Untouched(error)),
        };
        let mut outcome = match outcome {
            Err(Refusal::Failed(error)) => {
                self.fail(&error);
                Err(error)
            }
            Err(Refusal::Untouched(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        let last = group.len().saturating_sub(1);
        for (at, request) in group.into_iter().enumerate() {
            let answer = match &outcome {
                Ok(()) => Ok(()),
                Err(_) if at == last => std::mem::replace(&mut outcome, Ok(())),
                Err(error) => Err(again(error)),
            };
            *lock(&request.slot.state) = State::Done(Some(answer));
            request.slot.changed.notify_one();
        }
        self.pass_on(count);
    }

    /// Lets somebody lead who waits, if there is one.
    fn pass_on(&self, written: usize) {
        let mut waiting = lock(&self.queue.waiting);
        waiting.expected = written + waiting.requests.len();
        for request in &waiting.requests {
            let mut state = lock(&request.slot.state);
            if matches!(*state, State::Queued { is_awaited: true }) {
                *state = State::Leads;
                request.slot.changed.notify_one();
                return;
            }
        }
        waiting.is_led = false;
    }

    /// Takes the next group out of the queue, after a moment's wait for writers that are on their way.
    fn gather(&self) -> Vec<Request> {
        let mut waiting = lock(&self.queue.waiting);
        if let Some((wanted, until)) = self.linger(&waiting) {
            waiting.wanted = wanted;
            while waiting.requests.len() < wanted && !self.is_poisoned() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let woken = self.queue.arrived.wait_timeout(waiting, left);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            waiting.wanted = 0;
        }
        let mut group: Vec<Request> = Vec::with_capacity(waiting.requests.len());
        let mut bytes = 0;
        while let Some(request) = waiting.requests.front() {
            bytes += request.encoded.dir.len() + request.encoded.data.len();
            if bytes > self.options.group_bytes_max && !group.is_empty() {
                break;
            }
            group.extend(waiting.requests.pop_front());
        }
        if group.iter().any(|request| request.sync) {
            waiting.last_sync = Some(Instant::now());
        }
        group
    }

    /// How many requests are worth waiting for, and until when.
    fn linger(&self, waiting: &Waiting) -> Option<(usize, Instant)> {
        if !waiting.requests.iter().any(|request| request.sync) {
            return None;
        }
        match self.options.sync {
            SyncPolicy::Interval(interval) => {
                let until = waiting.last_sync? + interval;
                Some((usize::MAX, until))
            }
            SyncPolicy::EachGroup if waiting.expected > waiting.requests.len() => {
                let share = self.counters.sync_ns.load(Relaxed) / LINGER_SHARE;
                let limit = Duration::from_nanos(share).min(LINGER_MAX);
                Some((waiting.expected, Instant::now() + limit))
            }
            SyncPolicy::EachGroup => None,
        }
    }

    /// Writes what is left in the queue. For closing: nobody else is left to do it.
    pub fn flush(&self) -> Result<()> {
        self.submit_and_wait(Encoded::default(), true)
    }
}

/// The same error for another waiter.
fn again(error: &Error) -> Error {
    match error {
        Error::DiskFull { op, path } => Error::DiskFull {
            op,
            path: path.clone(),
        },
        Error::Io { op, path, source } => Error::Io {
            op,
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        Error::Poisoned { path, cause } => Error::Poisoned {
            path: path.clone(),
            cause: cause.clone(),
        },
        other => Error::Engine {
            op: "write",
            path: Default::default(),
            message: other.to_string(),
        },
    }
}
