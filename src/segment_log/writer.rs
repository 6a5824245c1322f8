//! A thread that writes the batches of tickets that are awaited, not waited for: a poll must not block.
//! Uses: error. Never does I/O itself.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::core::{Core, lock};

/// The thread, from the first ticket that is awaited to the end of the log.
pub(super) struct Writer {
    wake: Sender<()>,
    thread: JoinHandle<()>,
}

impl Core {
    /// Starts the writer, if the log has threads of its own.
    pub fn start_writer(self: &Arc<Self>) {
        let mut writer = lock(&self.writer);
        if self.options.background && !self.is_stopped() && writer.is_none() {
            *writer = start(Arc::downgrade(self));
        }
    }

    /// Lets the writer write what waits. Says whether there is one that will.
    pub fn wake_writer(&self) -> bool {
        if self.is_stopped() || self.is_poisoned() {
            return false;
        }
        let writer = lock(&self.writer);
        let Some(writer) = &*writer else {
            return false;
        };
        // A full channel has a wake-up in it already.
        writer.wake.try_send(()).ok();
        true
    }

    /// Ends the writer.
    pub fn stop_writer(&self) {
        let writer = lock(&self.writer).take();
        if let Some(Writer { wake, thread }) = writer {
            drop(wake);
            // A panic of it was reported when it happened.
            thread.join().ok();
        }
    }
}

fn start(core: Weak<Core>) -> Option<Writer> {
    let (wake, woken) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new().name("peerstore-log-writer".into());
    let started = thread.spawn(move || run(&core, &woken));
    match started {
        Ok(thread) => Some(Writer { wake, thread }),
        Err(error) => {
            tracing::warn!(%error, "whoever awaits a ticket has to write it");
            None
        }
    }
}

fn run(core: &Weak<Core>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let Some(core) = core.upgrade() else {
            return;
        };
        core.write_awaited();
    }
}
