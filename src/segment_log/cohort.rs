//! Those that wait for one group, and what they are told. Uses: error. Never does I/O.

use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::core::lock;
use crate::error::{Error, Result};

/// The requests that were collected while one group was written. Nearly always they are the next
/// group; of a huge one only the first are, and the others stay for the one behind.
///
/// Everything is changed under the lock of the queue, `queue` below, and only read without it.
#[derive(Default)]
pub(super) struct Cohort {
    /// Something was answered, or one of those that wait has to lead.
    changed: Condvar,
    /// How many threads wait for that.
    blocked: AtomicUsize,
    /// The requests with a lower number are answered.
    answered: AtomicU64,
    has_failed: AtomicBool,
    failures: Mutex<Vec<(Range<u64>, Error)>>,
    /// Who is told of the answer to a request that nobody blocks on.
    wakers: Mutex<Vec<(u64, Waker)>>,
}

impl Cohort {
    /// The answer to the request of this number, once there is one.
    pub fn answer_to(&self, number: u64) -> Option<Result<()>> {
        if number >= self.answered.load(Acquire) {
            return None;
        }
        if !self.has_failed.load(Relaxed) {
            return Some(Ok(()));
        }
        let failures = lock(&self.failures);
        let failed = failures
            .iter()
            .find(|(numbers, _)| numbers.contains(&number));
        Some(failed.map_or(Ok(()), |(_, error)| Err(again(error))))
    }

    /// Answers the requests of `numbers`, the first that had no answer.
    pub fn answer(&self, numbers: Range<u64>, outcome: Result<()>) {
        let end = numbers.end;
        if let Err(error) = outcome {
            lock(&self.failures).push((numbers, error));
            self.has_failed.store(true, Relaxed);
        }
        self.answered.store(end, Release);
    }

    /// Lets go of the queue until something changed, or for so long.
    pub fn block<'a, T>(
        &self,
        queue: MutexGuard<'a, T>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        self.blocked.fetch_add(1, Relaxed);
        let queue = match limit {
            Some(limit) => {
                let waited = self.changed.wait_timeout(queue, limit);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.changed.wait(queue);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        self.blocked.fetch_sub(1, Relaxed);
        queue
    }

    /// Whether a thread waits.
    pub fn is_blocked_on(&self) -> bool {
        self.blocked.load(Relaxed) > 0
    }

    /// Lets one thread look again.
    pub fn wake_one(&self) {
        self.changed.notify_one();
    }

    /// Lets all threads look again.
    pub fn wake_all(&self) {
        self.changed.notify_all();
    }

    /// Has `waker` called once the request of this number is answered.
    pub fn await_by(&self, number: u64, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        match wakers.iter_mut().find(|(other, _)| *other == number) {
            Some((_, known)) => known.clone_from(waker),
            None => wakers.push((number, waker.clone())),
        }
    }

    /// Whether somebody awaits an answer.
    pub fn is_awaited(&self) -> bool {
        !lock(&self.wakers).is_empty()
    }

    /// Takes those that are to be called for requests with a lower number.
    pub fn take_wakers(&self, end: u64) -> Vec<Waker> {
        let mut wakers = lock(&self.wakers);
        if wakers.is_empty() {
            return Vec::new();
        }
        let all = std::mem::take(&mut *wakers);
        let (done, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|(number, _)| *number < end);
        *wakers = left;
        done.into_iter().map(|(_, waker)| waker).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_told_its_own_answer() {
        let cohort = Cohort::default();
        assert!(cohort.answer_to(7).is_none());
        cohort.answer(7..9, Ok(()));
        cohort.answer(9..10, Err(Error::StoreStopped));
        cohort.answer(10..12, Ok(()));
        for number in [7, 8, 10, 11] {
            assert!(matches!(cohort.answer_to(number), Some(Ok(()))), "{number}");
        }
        assert!(matches!(cohort.answer_to(9), Some(Err(_))));
        assert!(cohort.answer_to(12).is_none());
    }

    #[test]
    fn only_what_is_answered_is_called_for() {
        let cohort = Cohort::default();
        for number in [3, 4, 4, 5] {
            cohort.await_by(number, Waker::noop());
        }
        assert_eq!(cohort.take_wakers(5).len(), 2);
        assert!(cohort.is_awaited());
        assert_eq!(cohort.take_wakers(6).len(), 1);
        assert!(!cohort.is_awaited());
    }
}
