//! A store's end of the network: what may be called, and until when. Uses: transport, snapshot_store.
//! Never does I/O of its own.

use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::snapshot_store::{RaftSnapshotStorage, SnapshotKey};
use crate::transport::Inbox;

/// One connection of one store.
pub(super) struct Endpoint {
    pub store: u64,
    line: Mutex<Line>,
    quiet: Condvar,
}

struct Line {
    state: LineState,
    /// The calls that have begun and not ended.
    calls: usize,
}

enum LineState {
    New,
    Open(Wiring),
    Closed,
}

#[derive(Clone)]
struct Wiring {
    inbox: Arc<dyn Inbox>,
    snapshots: Arc<dyn RaftSnapshotStorage>,
}

impl Endpoint {
    pub fn new(store: u64) -> Self {
        let line = Line {
            state: LineState::New,
            calls: 0,
        };
        Endpoint {
            store,
            line: Mutex::new(line),
            quiet: Condvar::new(),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing of a caller's runs under it, and each change of it is whole.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins; does nothing if it was closed already.
    pub fn open(&self, inbox: Arc<dyn Inbox>, snapshots: Arc<dyn RaftSnapshotStorage>) {
        let mut line = self.line();
        match line.state {
            LineState::New => line.state = LineState::Open(Wiring { inbox, snapshots }),
            LineState::Open(_) => panic!("the transport of store {} starts twice", self.store),
            LineState::Closed => (),
        }
    }

    /// Ends: nobody comes in any more, and who is inside has left when it returns.
    pub fn close(&self) {
        let mut line = self.line();
        let last = std::mem::replace(&mut line.state, LineState::Closed);
        while line.calls > 0 {
            let waited = self.quiet.wait(line);
            line = waited.unwrap_or_else(PoisonError::into_inner);
        }
        drop(line);
        drop(last); // the last hold on the store may be in it, so not under the lock
    }

    /// The right to call the inbox, unless it is not open.
    pub fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut line = self.line();
        let LineState::Open(wiring) = &line.state else {
            return None;
        };
        let wiring = wiring.clone();
        line.calls += 1;
        Some(Entered {
            wiring: Some(wiring),
            endpoint: Arc::clone(self),
        })
    }

    fn is_open(&self) -> bool {
        matches!(self.line().state, LineState::Open(_))
    }
}

/// Keeps an [`Endpoint`] from being closed for as long as it lives.
pub(super) struct Entered {
    // Invariant: it is there until the drop, which gives it up before it says that the call has ended.
    wiring: Option<Wiring>,
    endpoint: Arc<Endpoint>,
}

impl Entered {
    fn wiring(&self) -> &Wiring {
        let wiring = self.wiring.as_ref();
        wiring.expect("it is taken by the drop only")
    }

    pub fn inbox(&self) -> &dyn Inbox {
        &*self.wiring().inbox
    }

    pub fn store(&self) -> u64 {
        self.endpoint.store
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.wiring = None;
        self.endpoint.line().calls -= 1;
        self.endpoint.quiet.notify_all();
    }
}

/// Copies the file of `key`, durable at the receiver on return. Gives up if either is being closed.
pub(super) fn copy_snapshot(
    sender: &Entered,
    receiver: &Entered,
    key: &SnapshotKey,
) -> io::Result<()> {
    const CHUNK_BYTES: usize = 16 << 10;
    let mut file = (sender.wiring().snapshots.send(key)).map_err(io::Error::other)?;
    let mut taken = (receiver.wiring().snapshots.receive()).map_err(io::Error::other)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        for end in [sender, receiver] {
            if !end.endpoint.is_open() {
                let detail = format!("store {} is being stopped", end.store());
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, detail));
            }
        }
        match file.read(&mut chunk)? {
            0 => break,
            length => taken.write_all(&chunk[..length])?,
        }
    }
    taken.commit().map(drop).map_err(io::Error::other)
}
