//! How far the state machine has durably come, and the purges of the log that wait for it. Uses:
//! app_store, ticket. Syncs the data store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::log::LogCore;
use crate::app_store::ApplicationDataStorage;
use crate::error::{Error, Result};
use crate::ticket::{Completer, Ticket};

/// Between a state machine and its log.
pub(super) struct Gate {
    app: Arc<dyn ApplicationDataStorage>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    // Half-open. Invariant: durable <= written.
    written: u64,
    durable: u64,
    is_broken: bool,
    log: Weak<LogCore>,
    waiting: Vec<(u64, Completer<()>)>,
}

impl Gate {
    /// For a state machine that has durably applied the entries below `end`.
    pub fn new(app: Arc<dyn ApplicationDataStorage>, end: u64) -> Arc<Gate> {
        let state = State {
            written: end,
            durable: end,
            ..State::default()
        };
        Arc::new(Gate {
            app,
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log whose purges wait here.
    pub fn serve(&self, log: &Arc<LogCore>) {
        self.lock().log = Arc::downgrade(log);
    }

    /// The entries below `end` were applied, durable or not.
    pub fn note_written(&self, end: u64) {
        let mut state = self.lock();
        state.written = state.written.max(end);
    }

    /// Everything that was written is made durable, so that the log is free to drop it.
    ///
    /// # Errors
    /// Those of the data store's sync.
    pub fn sync(&self) -> Result<()> {
        let end = self.lock().written;
        self.app.sync()?;
        self.note_durable(end);
        Ok(())
    }

    /// The entries below `end` were applied, and that is durable. Lets go of what waits for it.
    pub fn note_durable(&self, end: u64) {
        let mut state = self.lock();
        state.written = state.written.max(end);
        state.durable = state.durable.max(end);
        let durable = state.durable;
        let log = state.log.upgrade();
        drop(state);
        if let Some(log) = log {
            log.carry_out_purge(durable);
        }
        // Behind the purge: what waits for it is written behind it.
        let mut state = self.lock();
        let (free, waiting) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(upto, _)| *upto < durable);
        state.waiting = waiting;
        drop(state);
        let free: Vec<(u64, Completer<()>)> = free;
        free.into_iter().for_each(|(_, done)| done.answer(Ok(())));
    }

    /// An install has failed: nobody will come this far any more.
    pub fn break_down(&self) {
        let mut state = self.lock();
        state.is_broken = true;
        // Dropped without an answer, which says that the store is stopped.
        state.waiting.clear();
    }

    /// Whether the entries up to `upto`, inclusive, are durably applied. Syncs the data if that makes it
    /// so.
    ///
    /// # Errors
    /// Those of the data store's sync.
    pub fn is_past(&self, upto: u64) -> Result<bool> {
        let state = self.lock();
        let (durable, written) = (state.durable, state.written);
        drop(state);
        if upto >= durable && upto < written {
            self.sync()?;
        }
        Ok(upto < written)
    }

    /// The entries below this index are durably applied.
    pub fn durable(&self) -> u64 {
        self.lock().durable
    }

    /// Is answered when the entries up to `upto`, inclusive, are durably applied and the purge that waits
    /// for it was handed in.
    pub fn wait_for(&self, upto: u64) -> Ticket<()> {
        let mut state = self.lock();
        if upto < state.durable {
            return Ticket::answered(Ok(()));
        }
        if state.is_broken {
            return Ticket::answered(Err(Error::StoreStopped));
        }
        let (ticket, done) = Ticket::new();
        state.waiting.push((upto, done));
        ticket
    }
}
