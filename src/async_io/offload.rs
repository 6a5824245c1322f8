//! A value whose work is done on the blocking threads of a runtime, one piece at a time. Uses: error.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::{Error, Result, catch_panic};

/// What the errors call the threads that the work is done on.
const WORKER: &str = "async snapshot";

/// A piece of work on a blocking thread. Dropped before it was begun, it is not done any more; once begun
/// it is finished, and what it gave is dropped.
pub(super) struct Task<R>(JoinHandle<Result<R>>);

impl<R: Send + 'static> Task<R> {
    pub fn spawn(runtime: &Handle, work: impl FnOnce() -> Result<R> + Send + 'static) -> Self {
        Task(runtime.spawn_blocking(move || catch_panic(WORKER, work)))
    }
}

impl<R> Future for Task<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        // It catches its panics, so what is left is a runtime that did not run it any more.
        let gone = |_| Err(Error::WorkerGone { worker: WORKER });
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| joined.unwrap_or_else(gone))
    }
}

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A value that is here, or away at work. Dropping it drops the value on a blocking thread too.
pub(super) struct Offload<T: Send + 'static> {
    runtime: Handle,
    place: Place<T>,
}

/// The value is moved between threads anyway: nothing in it is pinned.
impl<T: Send + 'static> Unpin for Offload<T> {}

enum Place<T> {
    /// The lock is never contended: it is there because the value may be `Send` only, and a stream that is
    /// `Sync` can be held by whoever needs that.
    Here(Mutex<T>),
    Away(Task<T>),
    /// Given away, or lost to a panic or to the end of the runtime. Why.
    Gone(String),
}

impl<T: Send + 'static> Offload<T> {
    pub fn new(runtime: Handle, value: T) -> Self {
        let place = Place::Here(Mutex::new(value));
        Offload { runtime, place }
    }

    /// The value, once the work that was begun is done.
    ///
    /// # Errors
    /// `WorkerPanicked` or `WorkerGone` if that has lost it, and `Poisoned` from then on.
    pub fn poll_here(&mut self, context: &mut Context<'_>) -> Poll<Result<&mut T>> {
        if let Place::Away(task) = &mut self.place {
            match ready!(Pin::new(task).poll(context)) {
                Ok(value) => self.place = Place::Here(Mutex::new(value)),
                Err(error) => {
                    self.place = Place::Gone(error.to_string());
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(match &mut self.place {
            Place::Here(value) => Ok(value.get_mut().unwrap_or_else(PoisonError::into_inner)),
            Place::Gone(cause) => Err(broken(cause)),
            Place::Away(_) => unreachable!("what was away has just come back"),
        })
    }

    /// The value if it is here.
    pub fn here(&mut self) -> Option<&mut T> {
        match &mut self.place {
            Place::Here(value) => Some(value.get_mut().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    /// Begins work on the value, which must be here.
    pub fn start(&mut self, work: impl FnOnce(&mut T) + Send + 'static) {
        let mut value = self.take();
        self.place = Place::Away(Task::spawn(&self.runtime, move || {
            work(&mut value);
            Ok(value)
        }));
    }

    /// Ends with work that uses the value up, which must be here.
    pub fn finish<R: Send + 'static>(
        mut self,
        work: impl FnOnce(T) -> Result<R> + Send + 'static,
    ) -> Task<R> {
        let value = self.take();
        Task::spawn(&self.runtime, move || work(value))
    }

    fn take(&mut self) -> T {
        let gone = Place::Gone("it is finished".into());
        match std::mem::replace(&mut self.place, gone) {
            Place::Here(value) => value.into_inner().unwrap_or_else(PoisonError::into_inner),
            _ => unreachable!("work is begun after the work before it"),
        }
    }
}

impl<T: Send + 'static> Drop for Offload<T> {
    fn drop(&mut self) {
        let gone = Place::Gone(String::new());
        match std::mem::replace(&mut self.place, gone) {
            Place::Gone(_) => {}
            // Giving up a file removes it, and that is not for the thread of the runtime.
            left => drop(self.runtime.spawn_blocking(move || drop(left))),
        }
    }
}

/// What a stream answers after it has failed.
pub(super) fn broken(cause: &str) -> Error {
    Error::Poisoned {
        path: PathBuf::from("(stream)"),
        cause: cause.to_string(),
    }
}
