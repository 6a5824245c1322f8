//! What the threads of a transport share: connections, threads, the end of it all.

use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::TcpOptions;
use super::frame::{FrameReader, HANDSHAKE_BYTES_MAX, Kind, frame};
use super::gate::Gate;
use super::hello::{Hello, Ids, Purpose, Welcome, decode_answer};
use super::queue::Queue;
use super::rate::Rate;
use super::reason::{Reason, Refusal};
use super::socket::{Duplex, Socket};
use super::stats::Counters;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::upload::Job;
use crate::transport::Placement;

/// What the threads of a transport share.
pub(super) struct Shared {
    pub options: TcpOptions,
    pub placement: Arc<dyn Placement>,
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    pub gate: Arc<Gate>,
    pub counters: Counters,
    pub queues: Mutex<HashMap<u64, Arc<Queue>>>,
    pub uploads: Mutex<Uploads>,
    pub downloads: Slots,
    pub connections: Slots,
    pub handshakes: Slots,
    pub rate: Mutex<Rate>,
    /// The connection that brings the messages of each store.
    pub incoming: Mutex<HashMap<u64, u64>>,
    sockets: Mutex<HashMap<u64, TcpStream>>,
    next_socket: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopped: AtomicBool,
    stopping: (Mutex<()>, Condvar),
}

/// Snapshots that are to be sent.
#[derive(Default)]
pub(super) struct Uploads {
    pub waiting: VecDeque<Job>,
    pub running: usize,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under a lock of ours is one call that does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of places that can be taken.
pub(super) struct Slots(Arc<AtomicUsize>, usize);

/// A place, free again when it is dropped.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slots {
    pub fn new(count: usize) -> Slots {
        Slots(Arc::default(), count)
    }

    pub fn take(&self, what: &str) -> Result<Slot, Refusal> {
        let add = |taken: usize| (taken < self.1).then_some(taken + 1);
        match (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Slot(Arc::clone(&self.0))),
            Err(_) => {
                let detail = format!("{} {what} already", self.1);
                Err(Refusal::new(Reason::Busy, detail))
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(
        options: TcpOptions,
        placement: Arc<dyn Placement>,
        #[cfg(feature = "tls")] tls: Option<Tls>,
    ) -> Shared {
        Shared {
            placement,
            #[cfg(feature = "tls")]
            tls,
            gate: Arc::default(),
            counters: Counters::default(),
            queues: Mutex::default(),
            uploads: Mutex::default(),
            downloads: Slots::new(options.snapshots_received_at_once),
            connections: Slots::new(options.connections_max),
            handshakes: Slots::new(options.handshakes_max),
            rate: Mutex::new(Rate::new(options.snapshot_bytes_per_second)),
            incoming: Mutex::default(),
            sockets: Mutex::default(),
            next_socket: AtomicU64::new(0),
            threads: Mutex::default(),
            stopped: AtomicBool::new(false),
            stopping: (Mutex::new(()), Condvar::new()),
            options,
        }
    }

    pub fn own(&self) -> Ids {
        Ids {
            cluster_id: self.options.cluster_id,
            store_id: self.options.store_id,
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits for `time`; cut short when the transport is stopped, and then true.
    pub fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut guard = lock(&self.stopping.0);
        while !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.stopping.1.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Runs `work` on a thread of its own, unless the transport is stopped or there is no thread.
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
        let mut threads = lock(&self.threads);
        if self.is_stopped() {
            return false;
        }
        threads.retain(|thread| !thread.is_finished());
        match std::thread::Builder::new().name(name.into()).spawn(work) {
            Ok(thread) => {
                threads.push(thread);
                true
            }
            Err(error) => {
                tracing::error!(%error, name, "no thread");
                false
            }
        }
    }

    /// Remembers the connection, so that stopping ends it.
    pub fn register(self: &Arc<Self>, tcp: &TcpStream) -> Result<Registered, Refusal> {
        let tcp = tcp.try_clone()?;
        let id = self.next_socket.fetch_add(1, Ordering::Relaxed);
        let mut sockets = lock(&self.sockets);
        if self.is_stopped() {
            return Err(Refusal::new(Reason::Stopped, "the transport was stopped"));
        }
        sockets.insert(id, tcp);
        Ok(Registered {
            shared: Arc::clone(self),
            id,
        })
    }

    /// Ends a connection that is registered.
    pub fn end_connection(&self, id: u64) {
        if let Some(tcp) = lock(&self.sockets).get(&id) {
            let _ = tcp.shutdown(Shutdown::Both); // It may have ended by itself.
        }
    }

    /// Says to every thread that it is over, and ends every connection. False if it was over before.
    pub fn begin_stop(&self) -> bool {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return false;
        }
        drop(lock(&self.stopping.0)); // Nobody is between looking and waiting.
        self.stopping.1.notify_all();
        for tcp in lock(&self.sockets).values() {
            let _ = tcp.shutdown(Shutdown::Both);
        }
        true
    }

    /// Waits for the threads, except for the one that it is called on.
    pub fn join_threads(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        let own = std::thread::current().id();
        for thread in threads.into_iter().filter(|t| t.thread().id() != own) {
            if thread.join().is_err() {
                tracing::error!("a thread of the transport had panicked");
            }
        }
    }

    /// Opens a connection to `store` that is welcomed there.
    pub fn dial(self: &Arc<Self>, store: u64, purpose: Purpose) -> Result<Connection, Refusal> {
        let tcp = self.connect(store)?;
        let registered = self.register(&tcp)?;
        let deadline = Instant::now() + self.options.handshake_timeout;
        let socket = Socket::new(tcp, deadline)?;
        let stream = self.secure(socket, store)?;
        let mut connection = Connection::new(stream, registered);
        let to = Ids {
            store_id: store,
            ..self.own()
        };
        let hello = Hello {
            purpose,
            from: self.own(),
            to: store,
        };
        connection.write(&hello.encode())?;
        let answer = connection.handshake_frame()?;
        connection.limits = decode_answer(answer, to)?;
        self.counters.connected.add(1);
        Ok(connection)
    }

    fn connect(&self, store: u64) -> Result<TcpStream, Refusal> {
        let unreachable = |detail: String| Refusal::new(Reason::Unreachable, detail);
        let address = (self.placement.address(store))
            .ok_or_else(|| unreachable(format!("no address of store {store} is known")))?;
        let resolved = address.to_socket_addrs();
        let resolved = resolved.map_err(|e| unreachable(format!("{address}: {e}")))?;
        let mut last = unreachable(format!("{address} is no address"));
        for candidate in resolved {
            match TcpStream::connect_timeout(&candidate, self.options.connect_timeout) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = unreachable(format!("{candidate}: {error}")),
            }
            if self.is_stopped() {
                break;
            }
        }
        Err(last)
    }

    #[cfg(feature = "tls")]
    fn secure(&self, socket: Socket, store: u64) -> Result<Box<dyn Duplex>, Refusal> {
        match &self.tls {
            Some(tls) => tls.connect(socket, self.options.cluster_id, store),
            None => Ok(Box::new(socket)),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, socket: Socket, _store: u64) -> Result<Box<dyn Duplex>, Refusal> {
        Ok(Box::new(socket))
    }
}

/// A connection that ends when the transport does. Dropping it forgets it.
pub(super) struct Registered {
    shared: Arc<Shared>,
    pub id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.shared.sockets).remove(&self.id);
    }
}

/// How much is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// A connection as frames.
pub(super) struct Connection {
    // Declared before the registration, so that the socket is closed before it is forgotten.
    stream: BufReader<Box<dyn Duplex>>,
    reader: FrameReader,
    pub registered: Registered,
    /// What the other side takes.
    pub limits: Welcome,
}

impl Connection {
    pub fn new(stream: Box<dyn Duplex>, registered: Registered) -> Connection {
        Connection {
            stream: BufReader::with_capacity(READ_BYTES, stream),
            reader: FrameReader::default(),
            registered,
            limits: Welcome {
                frame_bytes_max: HANDSHAKE_BYTES_MAX,
                idle_ms: 0,
            },
        }
    }

    /// Checks who is at the other end, where that was proved.
    pub fn check_identity(&self, ids: Ids) -> Result<(), Refusal> {
        self.stream
            .get_ref()
            .check_identity(ids.cluster_id, ids.store_id)
    }

    /// From now on, what is read or written has to come to its end within `time`.
    pub fn allow(&mut self, time: Duration) {
        self.stream.get_mut().socket().allow(time);
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()?;
        Ok(())
    }

    pub fn write_frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Refusal> {
        self.write(&frame(kind, payload))
    }

    /// The payload of the frame that is to come within the time that is allowed.
    pub fn read(&mut self, limit: u32) -> Result<&[u8], Refusal> {
        match self.reader.read(&mut self.stream, limit)? {
            Some(payload) => Ok(payload),
            None => Err(Refusal::new(Reason::Closed, "the other side closed it")),
        }
    }

    /// As [`Connection::read`], for the first frame, which a stranger may have sent.
    pub fn handshake_frame(&mut self) -> Result<&[u8], Refusal> {
        let read = self.reader.read(&mut self.stream, HANDSHAKE_BYTES_MAX);
        let refusal = match read.map(|payload| payload.is_some()) {
            Ok(true) => return Ok(self.reader.payload()),
            Ok(false) => return Err(Refusal::new(Reason::Closed, "closed before the handshake")),
            Err(refusal) => refusal,
        };
        let head = self.reader.head();
        Err(match refusal.reason {
            // The types of TLS records, and their version.
            _ if head.len() > 1 && matches!(head[0], 0x15 | 0x16) && head[1] == 3 => {
                Refusal::new(Reason::Tls, "it speaks TLS, this store does not")
            }
            Reason::TooLong | Reason::Checksum => {
                let detail = format!("it begins \"{}\"", head.escape_ascii());
                Refusal::new(Reason::Stranger, detail)
            }
            _ => refusal,
        })
    }

    /// The payload of a frame that has come already, if there is one.
    pub fn poll(&mut self, limit: u32) -> Result<Option<&[u8]>, Refusal> {
        self.stream.get_mut().socket().set_nonblocking(true)?;
        let read = self.reader.read(&mut self.stream, limit);
        let read = read.map(|payload| payload.is_some());
        self.stream.get_mut().socket().set_nonblocking(false)?;
        match read {
            Ok(true) => Ok(Some(self.reader.payload())),
            Ok(false) => Err(Refusal::new(Reason::Closed, "the other side closed it")),
            Err(refusal) if refusal.reason == Reason::Slow => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Tells the other side why it is refused, and gives it the time to read that: bytes of its own
    /// that are still on their way would otherwise take the answer away.
    pub fn refuse(mut self, frame: &[u8], time: Duration) {
        self.allow(time);
        if self.write(frame).is_err() {
            return;
        }
        self.stream.get_mut().socket().finish_writing();
        let mut rest = [0; 4096];
        let mut left: usize = 4 << 20;
        while let Ok(count @ 1..) = self.stream.read(&mut rest) {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    }
}
