//! Who waits for a write, and who does it: whoever comes while nobody writes leads, and takes
//! everybody that waits with it. Never does I/O itself.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::batch::Encoded;
use super::cohort::Cohort;
use super::core::{Core, lock};
use super::group::Refusal;
use super::options::SyncPolicy;
use super::pace::Pace;
use crate::error::Result;
use crate::ticket::{Pending, Ticket};

/// A batch that waits for its group.
pub(super) struct Request {
    pub encoded: Encoded,
    pub sync: bool,
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// The memory of small batches that were written.
    spares: Mutex<Vec<Encoded>>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    /// Those that wait for them.
    cohort: Arc<Cohort>,
    /// The number of the next request. Those in `requests` have the ones before it.
    next: u64,
    /// How many of them are to be synced.
    syncs: usize,
    is_led: bool,
    /// The request whose thread looks again by itself while a group is held for others.
    watch: Option<u64>,
    pace: Pace,
    last_sync: Option<Instant>,
    /// The memory of the last group.
    spare: Vec<Request>,
}

/// Where a request stands.
struct Place {
    cohort: Arc<Cohort>,
    number: u64,
}

impl Place {
    fn answer(&self) -> Option<Result<()>> {
        self.cohort.answer_to(self.number)
    }
}

/// The requests that a leader took.
struct Group {
    requests: Vec<Request>,
    cohort: Arc<Cohort>,
    first: u64,
}

impl Waiting {
    fn enqueue(&mut self, request: Request) -> Place {
        self.pace.arrived();
        self.syncs += usize::from(request.sync);
        self.requests.push(request);
        self.next += 1;
        Place {
            cohort: Arc::clone(&self.cohort),
            number: self.next - 1,
        }
    }

    /// Takes the next group: everything, unless that is too much.
    fn take(&mut self, bytes_max: usize) -> Group {
        let mut bytes = 0;
        let fits = |request: &Request| {
            bytes += request.encoded.dir().len() + request.encoded.data().len();
            bytes <= bytes_max
        };
        let fitting = self.requests.iter().map(fits).take_while(|fits| *fits);
        let count = fitting.count().max(1).min(self.requests.len());
        let first = self.next - self.requests.len() as u64;
        let spare = std::mem::take(&mut self.spare);
        let mut requests = std::mem::replace(&mut self.requests, spare);
        self.requests.extend(requests.drain(count..));
        let cohort = match self.requests.is_empty() {
            true => std::mem::take(&mut self.cohort),
            false => Arc::clone(&self.cohort),
        };
        self.begin(&requests);
        Group {
            requests,
            cohort,
            first,
        }
    }

    /// Notes that `group` is being written.
    fn begin(&mut self, group: &[Request]) {
        self.is_led = true;
        self.watch = None;
        self.syncs = self.requests.iter().filter(|request| request.sync).count();
        if group.iter().any(|request| request.sync) {
            self.last_sync = Some(Instant::now());
        }
    }
}

/// How many batches' memory is kept.
const SPARES_MAX: usize = 128;

impl Queue {
    /// Memory for a batch. Whoever would have to wait for it makes its own.
    pub fn spare(&self) -> Encoded {
        let spares = self.spares.try_lock().ok();
        spares
            .and_then(|mut spares| spares.pop())
            .unwrap_or_default()
    }

    fn keep(&self, written: impl Iterator<Item = Request>) {
        let kept = written
            .map(|request| request.encoded)
            .filter(Encoded::is_kept);
        let mut spares = lock(&self.spares);
        let room = SPARES_MAX.saturating_sub(spares.len());
        spares.extend(kept.take(room));
    }
}

impl Core {
    /// Writes `encoded` with whoever waits too.
    pub fn submit_and_wait(&self, encoded: Encoded, sync: bool) -> Result<()> {
        self.check()?;
        let request = Request { encoded, sync };
        let mut waiting = lock(&self.queue.waiting);
        let is_alone = !waiting.is_led && waiting.requests.is_empty();
        if is_alone && (!sync || self.hold(&waiting, 1).is_none()) {
            return self.write_alone(waiting, request);
        }
        let place = waiting.enqueue(request);
        let answer = self.wait(waiting, &place, None);
        answer.unwrap_or(Ok(()))
    }

    /// Puts a request into the queue for whoever waits for its ticket, or for anything, to write.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn submit(self: &Arc<Self>, encoded: Encoded, sync: bool) -> Result<Ticket<()>> {
        self.check()?;
        let mut waiting = lock(&self.queue.waiting);
        let place = waiting.enqueue(Request { encoded, sync });
        // It may be the one that the others were waiting for.
        let is_due = waiting.watch.is_some() && self.held(&waiting).is_none();
        drop(waiting);
        if is_due {
            place.cohort.wake_one();
        }
        Ok(Ticket::pending(Handle {
            core: Arc::clone(self),
            place,
            is_taken: false,
        }))
    }

    /// Waits for the answer, and leads while nobody does. Nothing if it has not come by the deadline.
    fn wait<'a>(
        &'a self,
        mut waiting: MutexGuard<'a, Waiting>,
        place: &Place,
        deadline: Option<Instant>,
    ) -> Option<Result<()>> {
        loop {
            if let Some(answer) = place.answer() {
                return Some(answer);
            }
            let mut limit = None;
            if !waiting.is_led {
                let Some(left) = self.held(&waiting) else {
                    waiting = self.lead(waiting);
                    continue;
                };
                if waiting.watch.is_none() {
                    waiting.watch = Some(place.number);
                    limit = Some(left);
                }
            }
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.forget(waiting, place);
                    return None;
                }
                limit = Some(limit.map_or(left, |limit| left.min(limit)));
            }
            waiting = place.cohort.block(waiting, limit);
            if waiting.watch == Some(place.number) {
                waiting.watch = None;
            }
        }
    }

    /// Goes without an answer: what this thread was to do is left to another.
    fn forget(&self, mut waiting: MutexGuard<Waiting>, place: &Place) {
        if waiting.watch == Some(place.number) {
            waiting.watch = None;
        }
        if !waiting.is_led && waiting.watch.is_none() {
            self.pass_on(waiting);
        }
    }

    /// Writes one request that finds the queue empty, without putting it there.
    fn write_alone(&self, mut waiting: MutexGuard<Waiting>, mut request: Request) -> Result<()> {
        let group = std::slice::from_mut(&mut request);
        waiting.pace.arrived();
        waiting.begin(group);
        drop(waiting);
        let outcome = self.write_requests(group);
        let mut waiting = lock(&self.queue.waiting);
        waiting.is_led = false;
        let others = waiting.requests.len();
        waiting.pace.answered(1, others);
        self.pass_on(waiting);
        self.queue.keep(std::iter::once(request));
        outcome
    }

    /// Writes one group.
    fn lead<'a>(&'a self, mut waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        let Group {
            mut requests,
            cohort,
            first,
        } = waiting.take(self.options.group_bytes_max);
        drop(waiting);
        let outcome = self.write_requests(&mut requests);
        let mut waiting = lock(&self.queue.waiting);
        waiting.is_led = false;
        let (count, others) = (requests.len(), waiting.requests.len());
        waiting.pace.answered(count, others);
        cohort.answer(first..first + count as u64, outcome);
        let is_blocked_on = cohort.is_blocked_on();
        // First of all, because the disk is idle until somebody leads again.
        self.pass_on(waiting);
        if is_blocked_on {
            cohort.wake_all();
        }
        let answered = first + count as u64;
        cohort
            .take_wakers(answered)
            .into_iter()
            .for_each(Waker::wake);
        self.queue.keep(requests.drain(..));
        let mut waiting = lock(&self.queue.waiting);
        waiting.spare = requests;
        waiting
    }

    fn write_requests(&self, group: &mut [Request]) -> Result<()> {
        self.check()?;
        match self.write_group(group) {
            Ok(()) => Ok(()),
            Err(Refusal::Untouched(error)) => Err(error),
            Err(Refusal::Failed(error)) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// Lets somebody lead who waits, if there is one.
    fn pass_on(&self, waiting: MutexGuard<Waiting>) {
        if waiting.requests.is_empty() {
            return;
        }
        let cohort = Arc::clone(&waiting.cohort);
        let is_blocked_on = cohort.is_blocked_on();
        drop(waiting);
        if is_blocked_on {
            cohort.wake_one();
        } else if cohort.is_awaited() && !self.wake_writer() {
            // Whoever awaits writes when it polls.
            cohort
                .take_wakers(u64::MAX)
                .into_iter()
                .for_each(Waker::wake);
        }
    }

    /// For how long what waits is to be held for others; not at all is nothing.
    fn held(&self, waiting: &Waiting) -> Option<Duration> {
        match waiting.syncs {
            0 => None,
            _ => self.hold(waiting, waiting.requests.len()),
        }
    }

    /// The same for `count` requests of which one is to be synced.
    fn hold(&self, waiting: &Waiting, count: usize) -> Option<Duration> {
        if self.is_poisoned() {
            return None;
        }
        match self.options.sync {
            SyncPolicy::Interval(interval) => {
                let left = interval.checked_sub(waiting.last_sync?.elapsed())?;
                (!left.is_zero()).then_some(left)
            }
            SyncPolicy::EachGroup => {
                let sync_ns = self.counters.sync_ns.load(Relaxed);
                waiting.pace.hold(count, sync_ns)
            }
        }
    }

    /// Writes what waits for nobody's thread.
    pub fn write_awaited(&self) {
        let mut waiting = lock(&self.queue.waiting);
        while !waiting.is_led && !waiting.requests.is_empty() {
            waiting = self.lead(waiting);
        }
    }

    /// Writes what is left in the queue. For closing: nobody else is left to do it.
    pub fn flush(&self) -> Result<()> {
        self.submit_and_wait(Encoded::default(), true)
    }
}

/// What a ticket of the log holds.
struct Handle {
    core: Arc<Core>,
    place: Place,
    is_taken: bool,
}

impl Pending<()> for Handle {
    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<()>> {
        let waiting = lock(&self.core.queue.waiting);
        self.core.wait(waiting, &self.place, deadline)
    }

    fn try_take(&mut self) -> Option<Result<()>> {
        let answer = self.place.answer().filter(|_| !self.is_taken);
        self.is_taken |= answer.is_some();
        answer
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(answer) = self.try_take() {
            return Poll::Ready(answer);
        }
        let waiting = lock(&self.core.queue.waiting);
        let cohort = &self.place.cohort;
        cohort.await_by(self.place.number, context.waker());
        // A thread that is blocked leads by itself.
        let is_nobodys = !waiting.is_led && !cohort.is_blocked_on();
        drop(waiting);
        self.core.start_writer();
        if is_nobodys && !self.core.wake_writer() {
            self.core.write_awaited();
        }
        // It may have been answered before it was noted who awaits it.
        match self.try_take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}
