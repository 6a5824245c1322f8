//! The way to the inbox, which is open between start and stop.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::snapshot_store::RaftSnapshotStorage;
use crate::transport::{Inbox, PeerMessage};
use crate::types::{PeerId, RegionId};

/// Lets calls through to the inbox until it is closed. Closing waits for those that are inside.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

/// Invariant: nobody new gets inside once `ends` is gone.
#[derive(Default)]
struct State {
    ends: Option<Ends>,
    inside: usize,
}

/// What is behind the gate.
#[derive(Clone)]
pub(super) struct Ends {
    pub inbox: Arc<dyn Inbox>,
    pub snapshots: Arc<dyn RaftSnapshotStorage>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing but a count and an option, which a panic elsewhere leaves whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it. It was never open before.
    pub fn open(&self, ends: Ends) {
        self.state().ends = Some(ends);
    }

    /// A way in, held open until it is dropped; nothing if the gate is not open.
    pub fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state();
        let ends = state.ends.clone()?;
        state.inside += 1;
        Some(Inside { gate: self, ends })
    }

    /// Closes it for ever; on return nobody is inside, and nothing behind it is held.
    pub fn close(&self) {
        let mut state = self.state();
        let ends = state.ends.take();
        while state.inside > 0 {
            state = (self.left.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        drop(ends);
    }
}

/// A call that is inside.
pub(super) struct Inside<'a> {
    gate: &'a Gate,
    pub ends: Ends,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.state().inside -= 1;
        self.gate.left.notify_all();
    }
}

/// The one report that a snapshot gets: [`Ticket::finish`], or `false` when it is dropped.
pub(super) struct Ticket {
    gate: Arc<Gate>,
    region: RegionId,
    peer: PeerId,
    arrived: bool,
}

impl Ticket {
    pub fn new(gate: &Arc<Gate>, message: &PeerMessage) -> Ticket {
        Ticket {
            gate: Arc::clone(gate),
            region: message.region,
            peer: PeerId(message.to.id),
            arrived: false,
        }
    }

    /// It has arrived.
    pub fn finish(mut self) {
        self.arrived = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(inside) = self.gate.enter() {
            let inbox = &inside.ends.inbox;
            inbox.snapshot_sent(self.region, self.peer, self.arrived);
        }
    }
}
