//! The transport between stores over TCP, with threads and without an async runtime. Uses: transport,
//! snapshot_store, snapshot_data, snapshot_format, proto, types, error.
//!
//! `docs/transport.md` is the grammar of the wire, and what is refused how. All integers are
//! little-endian. One connection and one thread for each store that messages go to, and for each that
//! they come from; a connection of its own for each snapshot's file.

mod download;
mod frame;
mod gate;
mod hello;
mod link;
mod options;
mod queue;
mod rate;
mod reason;
mod serve;
mod shared;
mod socket;
mod stats;
#[cfg(feature = "tls")]
mod tls;
mod upload;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::snapshot_data::RaftSnapshotData;
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotKey};
use crate::transport::{Inbox, PeerMessage, Placement, StoreMessage, Transport, TransportStats};

use gate::{Ends, Ticket};
use link::Link;
use queue::{Queue, Queued};
use shared::{Shared, lock};

pub use options::{TcpOptions, TlsOptions};
pub use reason::Reason;
pub use stats::TcpStats;

/// Carries messages and snapshots between stores over TCP.
///
/// Messages to a store keep their order; what cannot be sent is dropped and reported. A connection is
/// opened when there is something to send, and again, after a pause, when it was lost.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::MemoryData;
/// use peerstore::tcp::{TcpOptions, TcpTransport};
/// use peerstore::{StaticPlacement, Transport as _};
///
/// let placement = StaticPlacement::open(Arc::new(MemoryData::new()), 1, Default::default())?;
/// let options = TcpOptions::new("127.0.0.1:0", 7, 1); // cluster 7, store 1
/// let transport = TcpTransport::bind(options, Arc::new(placement))?;
/// assert_ne!(transport.local_address().port(), 0);
/// transport.stop();
/// # Ok::<(), peerstore::Error>(())
/// ```
pub struct TcpTransport {
    shared: Arc<Shared>,
    address: SocketAddr,
    // Taken by the start.
    listener: Mutex<Option<TcpListener>>,
    // Held while it is stopped: who stops it a second time waits for the first.
    stopping: Mutex<()>,
}

impl TcpTransport {
    /// Listens at the address of `options`. Connections are taken in from [`Transport::start`] on.
    ///
    /// # Errors
    /// `Config` for options that make no sense, or certificates that cannot be used; `Io` if it cannot
    /// listen.
    pub fn bind(options: TcpOptions, placement: Arc<dyn Placement>) -> Result<Arc<TcpTransport>> {
        options.check()?;
        #[cfg(feature = "tls")]
        let tls = options.tls.as_ref().map(tls::Tls::open).transpose()?;
        #[cfg(not(feature = "tls"))]
        if options.tls.is_some() {
            return Err(Error::Config {
                path: None,
                message: "tls is set, and this build is without the feature `tls`".into(),
            });
        }
        let place = Path::new(&options.listen);
        let listener = TcpListener::bind(&options.listen);
        let listener = listener.map_err(|e| Error::io("listen at", place, e))?;
        let address = listener.local_addr();
        let address = address.map_err(|e| Error::io("listen at", place, e))?;
        let shared = Shared::new(
            options,
            placement,
            #[cfg(feature = "tls")]
            tls,
        );
        Ok(Arc::new(TcpTransport {
            shared: Arc::new(shared),
            address,
            listener: Mutex::new(Some(listener)),
            stopping: Mutex::new(()),
        }))
    }

    /// Where it listens, with the port that was taken.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done since it was bound.
    pub fn stats(&self) -> TcpStats {
        self.shared.counters.stats()
    }

    /// The queue of `to`; the first call gives it its thread.
    fn queue(&self, to: u64) -> Arc<Queue> {
        let mut queues = lock(&self.shared.queues);
        let queue = queues.entry(to).or_insert_with(|| {
            let queue = Arc::new(Queue::new(self.shared.options.queue_bytes_max));
            let link = Link::new(&self.shared, &queue, to);
            if !self.shared.spawn("peerstore-link", move || link.run()) {
                drop(queue.stop()); // Nothing is in it: it only says no from now on.
            }
            queue
        });
        Arc::clone(queue)
    }

    fn push(&self, to: u64, queued: Queued) {
        let queue = self.queue(to);
        if let Err(queued) = queue.push(queued) {
            queue.lose(queued, &self.shared.gate, &self.shared.counters);
        }
    }
}

impl Transport for TcpTransport {
    fn start(&self, inbox: Arc<dyn Inbox>, snapshots: Arc<dyn RaftSnapshotStorage>) -> Result<()> {
        let listener = lock(&self.listener).take();
        let listener = listener.ok_or(Error::WorkerGone {
            worker: "transport",
        })?;
        self.shared.gate.open(Ends { inbox, snapshots });
        let shared = Arc::clone(&self.shared);
        if self.shared.spawn("peerstore-listen", move || {
            serve::listen(&shared, &listener)
        }) {
            return Ok(());
        }
        self.shared.gate.close();
        Err(Error::WorkerGone {
            worker: "transport",
        })
    }

    fn send(&self, to: u64, message: StoreMessage) {
        let ticket = match &message {
            StoreMessage::Peer(peer) if download::snapshot_of(peer).is_some() => {
                Some(Ticket::new(&self.shared.gate, peer))
            }
            _ => None,
        };
        self.push(to, Queued::new(message, ticket));
    }

    fn send_snapshot(&self, to: u64, message: PeerMessage, key: SnapshotKey) {
        let ticket = Ticket::new(&self.shared.gate, &message);
        let data = download::snapshot_of(&message)
            .map(|snapshot| RaftSnapshotData::of_snapshot(message.region, snapshot));
        // A message that means no file, or that cannot be understood here, is judged by its receiver.
        let has_file = matches!(data, Some(Ok(Some(data))) if data.needs_transfer());
        let message = StoreMessage::Peer(Box::new(message));
        if has_file {
            let job = upload::Job {
                to,
                message,
                key,
                ticket,
            };
            upload::queue(&self.shared, job);
        } else {
            self.push(to, Queued::new(message, Some(ticket)));
        }
    }

    fn stop(&self) {
        let shared = &self.shared;
        let _stopping = lock(&self.stopping);
        if !shared.begin_stop() {
            return;
        }
        if lock(&self.listener).take().is_none() {
            serve::wake(self.address);
        }
        let queues: Vec<_> = lock(&shared.queues).drain().collect();
        for (_, queue) in queues {
            for queued in queue.stop() {
                queue.lose(queued, &shared.gate, &shared.counters);
            }
        }
        upload::give_up(shared);
        shared.join_threads();
        upload::give_up(shared);
        shared.gate.close();
    }

    fn stats(&self) -> TransportStats {
        let stats = TcpTransport::stats(self);
        TransportStats {
            messages_sent: stats.messages_sent,
            messages_received: stats.messages_received,
            messages_dropped: stats.messages_dropped,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            snapshot_bytes_sent: stats.snapshot_bytes_sent,
            snapshot_bytes_received: stats.snapshot_bytes_received,
            accepted: stats.accepted,
            connected: stats.connected,
            refused: stats.refused.values().sum(),
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}
