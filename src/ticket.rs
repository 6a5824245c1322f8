//! An answer that comes later: waited for, polled, or awaited. Uses: error.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The answer to a request of the [`Store`](crate::Store) or of a
/// [`SegmentLog`](crate::segment_log::SegmentLog), when it comes. Dropping it does not take the request
/// back.
///
/// It is a [`Future`] of its result for whoever has a runtime, of any kind, and it can be waited for by
/// whoever has a thread. It holds nothing of the store, and waits for nothing when dropped.
///
/// ```
/// async fn put(store: &peerstore::Store, command: Vec<u8>) -> peerstore::Result<Vec<u8>> {
///     store.propose(1, command).await // on tokio, or whatever polls
/// }
/// ```
#[must_use = "the answer says whether it was done"]
pub struct Ticket<T>(Source<T>);

enum Source<T> {
    Completer(Arc<Shared<T>>),
    Pending(Box<dyn Pending<T>>),
}

/// An answer that whoever waits for it may have to bring about.
pub(crate) trait Pending<T>: Send + Sync {
    /// The answer, waited for. Nothing if it has not come by the deadline.
    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>>;

    /// As [`Ticket::try_take`].
    fn try_take(&mut self) -> Option<Result<T>>;

    /// As [`Future::poll`].
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>>;
}

/// The other end of a [`Ticket`]: answers it, once. Dropped without an answer it says that the store was
/// shut down.
pub(crate) struct Completer<T>(Option<Arc<Shared<T>>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    answered: Condvar,
}

enum State<T> {
    Waiting(Option<Waker>),
    Answered(Result<T>),
    Taken,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    fn wait(&self, deadline: Option<Instant>) -> Option<Result<T>> {
        let mut state = self.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Answered(result) => return Some(result),
                waiting => *state = waiting,
            }
            let left = match deadline {
                None => Duration::MAX,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return None;
            }
            let waited = self.answered.wait_timeout(state, left);
            state = waited.unwrap_or_else(|p| p.into_inner()).0;
        }
    }

    fn try_take(&self) -> Option<Result<T>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Answered(result) => Some(result),
            waiting => {
                *state = waiting;
                None
            }
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Answered(result) => Poll::Ready(result),
            State::Waiting(_) => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Taken => Poll::Pending,
        }
    }
}

impl<T> Ticket<T> {
    /// A ticket and what answers it.
    pub(crate) fn new() -> (Ticket<T>, Completer<T>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Waiting(None)),
            answered: Condvar::new(),
        });
        let ticket = Ticket(Source::Completer(Arc::clone(&shared)));
        (ticket, Completer(Some(shared)))
    }

    /// A ticket that is answered already.
    pub(crate) fn answered(result: Result<T>) -> Ticket<T> {
        let (ticket, completer) = Ticket::new();
        completer.answer(result);
        ticket
    }

    /// A ticket that has its answer from `pending`.
    pub(crate) fn pending(pending: impl Pending<T> + 'static) -> Ticket<T> {
        Ticket(Source::Pending(Box::new(pending)))
    }

    /// The answer, waited for.
    ///
    /// # Errors
    /// `Timeout` if it has not come in time: what was asked may still happen. Else the answer's own.
    pub fn wait(mut self, timeout: Duration) -> Result<T> {
        // Of many that are waited for in turn most are answered by then: those need no clock.
        if let Some(answer) = self.try_take() {
            return answer;
        }
        let deadline = Instant::now().checked_add(timeout);
        let answer = match self.0 {
            Source::Completer(shared) => shared.wait(deadline),
            Source::Pending(mut pending) => pending.wait(deadline),
        };
        answer.unwrap_or_else(|| {
            let limit_ms = timeout.as_millis() as u64;
            let what = "the answer";
            Err(Error::Timeout { what, limit_ms })
        })
    }

    /// The answer if it is there. Given out once.
    pub fn try_take(&mut self) -> Option<Result<T>> {
        match &mut self.0 {
            Source::Completer(shared) => shared.try_take(),
            Source::Pending(pending) => pending.try_take(),
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            Source::Completer(shared) => shared.poll(context),
            Source::Pending(pending) => pending.poll(context),
        }
    }
}

impl<T> Completer<T> {
    /// Answers the ticket.
    pub fn answer(mut self, result: Result<T>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<T>) {
        let Some(shared) = self.0.take() else {
            return;
        };
        let before = std::mem::replace(&mut *shared.lock(), State::Answered(result));
        shared.answered.notify_all();
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.finish(Err(Error::StoreStopped));
    }
}

impl<T> std::fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket")
    }
}

impl<T> std::fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Completer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn the_answer_reaches_whoever_waits_and_whoever_awaits() -> Result<()> {
        let (ticket, completer) = Ticket::new();
        let waiting = std::thread::spawn(move || ticket.wait(Duration::from_secs(60)));
        completer.answer(Ok(7));
        assert_eq!(waiting.join().map_err(|_| Error::StoreStopped)??, 7);

        let (mut ticket, completer) = Ticket::<u8>::new();
        let woken = Arc::new(Counting(0.into()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
        completer.answer(Ok(8));
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 1);
        let polled = Pin::new(&mut ticket).poll(&mut context);
        assert!(matches!(polled, Poll::Ready(Ok(8))));
        Ok(())
    }

    #[test]
    fn whoever_polled_last_is_woken() {
        let wakers = [(); 3].map(|()| Arc::new(Counting(0.into())));
        let (mut ticket, completer) = Ticket::<u8>::new();
        for woken in &wakers {
            let waker = Waker::from(Arc::clone(woken));
            let mut context = Context::from_waker(&waker);
            assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
        }
        completer.answer(Ok(9));
        let counts = wakers.map(|woken| woken.0.load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(counts, [0, 0, 1], "a future owes nothing to earlier wakers");
        assert!(matches!(ticket.try_take(), Some(Ok(9))));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_dropped_with_the_ticket() {
        let (value, other) = (Arc::new(()), Arc::new(()));
        let (ticket, completer) = Ticket::new();
        drop(ticket);
        completer.answer(Ok(Arc::clone(&value)));
        assert_eq!(Arc::strong_count(&value), 1);
        drop(Ticket::answered(Ok(Arc::clone(&other))));
        assert_eq!(Arc::strong_count(&other), 1);
    }

    #[test]
    fn a_ticket_moves_between_tasks_and_runtimes() -> Result<()> {
        let build = tokio::runtime::Builder::new_current_thread;
        let runtimes = [build().build(), build().build()];
        let [first, second] = runtimes.map(|runtime| runtime.expect("a runtime of one thread"));
        let (mut ticket, completer) = Ticket::new();
        // Polled here, given up, and awaited there; answered from a thread of no runtime.
        first.block_on(async {
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
        });
        let answering = std::thread::spawn(move || completer.answer(Ok(7)));
        assert_eq!(second.block_on(ticket)?, 7);
        answering.join().map_err(|_| Error::StoreStopped)
    }

    #[test]
    fn a_ticket_that_nobody_will_answer_says_so() {
        let (mut ticket, completer) = Ticket::<u8>::new();
        assert!(ticket.try_take().is_none());
        drop(completer);
        assert!(matches!(ticket.try_take(), Some(Err(Error::StoreStopped))));
    }

    #[test]
    fn waiting_ends_at_the_timeout() {
        let (ticket, _completer) = Ticket::<u8>::new();
        let error = ticket.wait(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, Error::Timeout { limit_ms: 1, .. }));
    }
}
