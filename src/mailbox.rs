//! A queue that is emptied at once: many send, one receives everything that waits. Uses: nothing of ours.
//!
//! What a thread of the store does for one message it does as cheaply for all that wait, and a thread that
//! is woken once for many costs less than one that is woken for each. So there is no way to take one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// How often others are let go before a receiver sleeps.
const YIELDS: usize = 8;

/// The sending end. The queue is closed when the last one is dropped.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end. When it is dropped, what is sent is dropped too.
pub struct Receiver<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    filled: Condvar,
    senders: AtomicUsize,
}

struct Queue<T> {
    waiting: Vec<T>,
    // Whether somebody sleeps until something comes.
    is_awaited: bool,
    is_closed: bool,
    is_deaf: bool,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Something.
    Some,
    /// Nothing until the deadline.
    Nothing,
    /// Nothing, and nothing will: every sender is gone.
    Closed,
}

/// A queue.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue {
            waiting: Vec::new(),
            is_awaited: false,
            is_closed: false,
            is_deaf: false,
        }),
        filled: Condvar::new(),
        senders: AtomicUsize::new(1),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing of a caller's runs under it, and each change of it is whole.
        self.queue.lock().unwrap_or_else(|p| p.into_inner())
    }
}

impl<T> Sender<T> {
    /// Queues `message`; it is dropped if nobody will receive it.
    pub fn send(&self, message: T) {
        self.add(|waiting| waiting.push(message));
    }

    /// The same for all of `messages`, which come at once.
    pub fn send_all(&self, messages: Vec<T>) {
        if !messages.is_empty() {
            self.add(|waiting| waiting.extend(messages));
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    fn add(&self, put: impl FnOnce(&mut Vec<T>)) {
        let mut queue = self.0.lock();
        if queue.is_deaf {
            // What was to be put is dropped with the closure, without the lock.
            drop(queue);
            return;
        }
        put(&mut queue.waiting);
        let wake = std::mem::replace(&mut queue.is_awaited, false);
        drop(queue);
        if wake {
            self.0.filled.notify_one();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.lock().is_closed = true;
            self.0.filled.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// Adds everything that waits to `into`, in the order of the sends; waits for something until
    /// `deadline`, or for ever.
    pub fn receive(&self, into: &mut Vec<T>, deadline: Option<Instant>) -> Received {
        // Whoever is about to send is let go first: then nobody has to be woken, and more comes at once.
        for _ in 0..YIELDS {
            if self.try_receive(into) {
                return Received::Some;
            }
            std::thread::yield_now();
        }
        let mut queue = self.0.lock();
        loop {
            if take(&mut queue.waiting, into) {
                return Received::Some;
            }
            if queue.is_closed {
                return Received::Closed;
            }
            queue.is_awaited = true;
            let Some(deadline) = deadline else {
                queue = self.0.filled.wait(queue).unwrap_or_else(|p| p.into_inner());
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                queue.is_awaited = false;
                return Received::Nothing;
            }
            let waited = self.0.filled.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(|p| p.into_inner()).0;
        }
    }

    /// The same without waiting; whether there was anything.
    pub fn try_receive(&self, into: &mut Vec<T>) -> bool {
        take(&mut self.0.lock().waiting, into)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_deaf = true;
        let unread = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(unread);
    }
}

fn take<T>(waiting: &mut Vec<T>, into: &mut Vec<T>) -> bool {
    if waiting.is_empty() {
        return false;
    }
    match into.is_empty() {
        // The two trade their memory.
        true => std::mem::swap(waiting, into),
        false => into.append(waiting),
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_that_waits_comes_at_once_and_in_order() {
        let (sender, receiver) = mailbox();
        let mut got = Vec::new();
        assert!(!receiver.try_receive(&mut got));
        (0..3).for_each(|i| sender.send(i));
        assert_eq!(receiver.receive(&mut got, None), Received::Some);
        sender.clone().send(3);
        assert!(receiver.try_receive(&mut got));
        assert_eq!(got, [0, 1, 2, 3]);
    }

    #[test]
    fn whoever_sleeps_is_woken_by_a_message_and_by_the_end() {
        let (sender, receiver) = mailbox();
        let receiving = std::thread::spawn(move || {
            let mut got = Vec::new();
            while receiver.receive(&mut got, None) == Received::Some {}
            got
        });
        let senders: Vec<_> = (0..4).map(|_| sender.clone()).collect();
        drop(sender);
        let threads = senders
            .into_iter()
            .map(|sender| std::thread::spawn(move || (0..1000).for_each(|i| sender.send(i))));
        threads.for_each(|thread| assert!(thread.join().is_ok()));
        assert_eq!(receiving.join().map(|got| got.len()).ok(), Some(4000));
    }

    #[test]
    fn nothing_comes_until_the_deadline_and_nothing_is_kept_for_the_deaf() {
        let (sender, receiver) = mailbox::<Arc<()>>();
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(
            receiver.receive(&mut Vec::new(), Some(soon)),
            Received::Nothing
        );
        let message = Arc::new(());
        sender.send(Arc::clone(&message));
        drop(receiver);
        sender.send(Arc::clone(&message));
        assert_eq!(Arc::strong_count(&message), 1);
    }
}
