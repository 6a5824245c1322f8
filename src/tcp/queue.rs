//! What waits to be sent to one store: bounded, and refused at once while the store is not reached.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::gate::{Gate, Ticket};
use super::stats::Counters;
use crate::transport::StoreMessage;
use crate::types::{PeerId, RegionId};

/// A message that waits.
pub(super) struct Queued {
    pub message: StoreMessage,
    /// Set if it is a snapshot whose outcome is to be reported.
    pub ticket: Option<Ticket>,
    bytes: usize,
}

impl Queued {
    pub fn new(message: StoreMessage, ticket: Option<Ticket>) -> Queued {
        let bytes = message.approximate_bytes();
        Queued {
            message,
            ticket,
            bytes,
        }
    }
}

/// The messages for one store.
pub(super) struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    arrived: Condvar,
}

/// Invariant: `bytes` is the sum over `messages`, at most `bytes_max`.
struct State {
    messages: VecDeque<Queued>,
    bytes: usize,
    open: Open,
    // Whose loss was reported since the store was last reached.
    lost: HashSet<(RegionId, PeerId)>,
}

/// Whether messages are taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Yes,
    /// Not before then: the store was not reached.
    At(Instant),
    /// Never again.
    Stopped,
}

/// What waiting has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Messages,
    Nothing,
    Stopped,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Queue {
        Queue {
            bytes_max,
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                open: Open::Yes,
                lost: HashSet::new(),
            }),
            arrived: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No call of ours panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the message in, or gives it back: there is no room, or the store is not reached.
    pub fn push(&self, queued: Queued) -> Result<(), Queued> {
        let mut state = self.state();
        match state.open {
            Open::Yes => {}
            Open::At(when) if Instant::now() >= when => state.open = Open::Yes,
            Open::At(_) | Open::Stopped => return Err(queued),
        }
        if state.bytes.saturating_add(queued.bytes) > self.bytes_max {
            return Err(queued);
        }
        state.bytes += queued.bytes;
        state.messages.push_back(queued);
        let was_empty = state.messages.len() == 1;
        drop(state);
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until there is a message, or until `until`.
    pub fn wait(&self, until: Option<Instant>) -> Waited {
        let mut state = self.state();
        loop {
            if state.open == Open::Stopped {
                return Waited::Stopped;
            }
            if !state.messages.is_empty() {
                return Waited::Messages;
            }
            let Some(until) = until else {
                state = (self.arrived.wait(state)).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Nothing;
            }
            let waited = self.arrived.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Moves messages of about `bytes` to `batch`, and one at least if there is one.
    pub fn take(&self, bytes: usize, batch: &mut Vec<Queued>) {
        let mut state = self.state();
        let mut taken = 0;
        while taken < bytes {
            let Some(queued) = state.messages.pop_front() else {
                break;
            };
            state.bytes -= queued.bytes;
            taken += queued.bytes;
            batch.push(queued);
        }
    }

    /// Takes nothing in before `when`, and gives back what there is.
    pub fn refuse_until(&self, when: Instant) -> Vec<Queued> {
        self.close(Open::At(when))
    }

    /// Takes nothing in any more, and gives back what there is.
    pub fn stop(&self) -> Vec<Queued> {
        let rest = self.close(Open::Stopped);
        self.arrived.notify_all();
        rest
    }

    fn close(&self, open: Open) -> Vec<Queued> {
        let mut state = self.state();
        if state.open != Open::Stopped {
            state.open = open;
        }
        state.bytes = 0;
        state.messages.drain(..).collect()
    }

    /// The store is reached: what is lost from now on is news.
    pub fn reached(&self) {
        self.state().lost.clear();
    }

    /// Drops `queued`, and tells the inbox: of a peer once until the store is reached again, of a
    /// snapshot always.
    pub fn lose(&self, queued: Queued, gate: &Gate, counters: &Counters) {
        counters.messages_dropped.add(1);
        let (StoreMessage::Peer(message), None) = (&queued.message, &queued.ticket) else {
            return; // The ticket reports by being dropped.
        };
        let (region, peer) = (message.region, PeerId(message.to.id));
        if !self.state().lost.insert((region, peer)) {
            return;
        }
        if let Some(inside) = gate.enter() {
            inside.ends.inbox.unreachable(region, peer);
        }
    }
}
