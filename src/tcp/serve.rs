//! What other stores open here: the listener, the handshake, and the messages that come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::download;
use super::frame::{Kind, frame};
use super::hello::{Hello, Purpose, Welcome, encode_answer};
use super::reason::{Reason, Refusal};
use super::shared::{Connection, Shared, Slot, lock};
#[cfg(feature = "tls")]
use super::socket::Duplex;
use super::socket::Socket;
use crate::transport::{PeerMessage, StoreMessage};

/// The pause after the system refused a connection: there are no file handles left, perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a store that is refused may take to read why.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Takes connections until the transport is stopped.
pub(super) fn listen(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopped() {
            return;
        }
        match accepted {
            Ok((tcp, peer)) => admit(shared, tcp, peer),
            Err(error) => {
                shared.counters.refuse("the listener", &error.into());
                if shared.pause(ACCEPT_PAUSE) {
                    return;
                }
            }
        }
    }
}

/// Wakes [`listen`], after the transport was stopped.
pub(super) fn wake(address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1)); // It may be gone already.
}

/// Gives the connection a thread, if there is room for a stranger.
fn admit(shared: &Arc<Shared>, tcp: TcpStream, peer: SocketAddr) {
    let peer = peer.ip().to_string();
    let places = (shared.connections.take("connections"))
        .and_then(|place| Ok((place, shared.handshakes.take("handshakes")?)));
    match places {
        Ok((connection, handshake)) => {
            let guest = Guest {
                shared: Arc::clone(shared),
                peer,
                _place: connection,
            };
            shared.spawn("peerstore-serve", move || guest.run(tcp, handshake));
        }
        Err(refusal) => shared.counters.refuse(&peer, &refusal),
    }
}

/// Whoever has opened a connection.
struct Guest {
    shared: Arc<Shared>,
    peer: String,
    _place: Slot,
}

impl Guest {
    fn run(mut self, tcp: TcpStream, handshake: Slot) {
        if let Err(refusal) = self.serve(tcp, handshake)
            && !self.shared.is_stopped()
        {
            self.shared.counters.refuse(&self.peer, &refusal);
        }
    }

    fn serve(&mut self, tcp: TcpStream, handshake: Slot) -> Result<(), Refusal> {
        let shared = Arc::clone(&self.shared);
        let registered = shared.register(&tcp)?;
        let deadline = Instant::now() + shared.options.handshake_timeout;
        let socket = Socket::new(tcp, deadline)?;
        #[cfg(feature = "tls")]
        let stream: Box<dyn Duplex> = match &shared.tls {
            Some(tls) => tls.accept(socket)?,
            None => Box::new(socket),
        };
        #[cfg(not(feature = "tls"))]
        let stream = Box::new(socket);
        let mut connection = Connection::new(stream, registered);
        let payload = connection.handshake_frame()?;
        let hello = Hello::decode(payload, shared.own());
        let hello = hello.and_then(|hello| connection.check_identity(hello.from).map(|()| hello));
        let limits = Welcome {
            frame_bytes_max: shared.options.frame_bytes_max,
            idle_ms: u32::try_from(shared.options.idle_timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(refusal) => {
                let answer = encode_answer(shared.own(), limits, Some(&refusal));
                connection.refuse(&answer, LINGER.min(shared.options.handshake_timeout));
                return Err(refusal);
            }
        };
        connection.write(&encode_answer(shared.own(), limits, None))?;
        drop(handshake);
        shared.counters.accepted.add(1);
        self.peer = format!("store {} at {}", hello.from.store_id, self.peer);
        match hello.purpose {
            Purpose::Messages => self.take_messages(connection, hello.from.store_id),
            Purpose::Snapshot => download::receive(&shared, connection, hello.from.store_id),
        }
    }

    /// Hands over messages until the connection ends. A store has one such connection: its last.
    fn take_messages(&self, mut connection: Connection, from: u64) -> Result<(), Refusal> {
        let (shared, id) = (&self.shared, connection.registered.id);
        if let Some(earlier) = lock(&shared.incoming).insert(from, id) {
            shared.end_connection(earlier);
        }
        let start = Instant::now();
        let refusal = loop {
            match self.take_frame(&mut connection, from) {
                Ok(()) => {}
                Err(refusal) => break refusal,
            }
        };
        let mut incoming = lock(&shared.incoming);
        if incoming.get(&from) == Some(&id) {
            incoming.remove(&from);
        }
        drop(incoming);
        if start.elapsed() >= shared.options.backoff_max {
            shared.counters.forget(&self.peer);
        }
        match refusal.reason {
            // The end of a connection is no refusal.
            Reason::Closed => Ok(()),
            _ => Err(refusal),
        }
    }

    fn take_frame(&self, connection: &mut Connection, from: u64) -> Result<(), Refusal> {
        let (options, counters) = (&self.shared.options, &self.shared.counters);
        connection.allow(options.idle_timeout);
        let payload = connection.read(options.frame_bytes_max)?;
        match payload.split_first() {
            Some((&kind, messages)) if kind == Kind::Messages as u8 => {
                counters.frames_received.add(1);
                let head = super::frame::HEAD_BYTES as u64;
                counters.bytes_received.add(head + payload.len() as u64);
                self.take_batch(messages, from)
            }
            Some((&kind, [])) if kind == Kind::Ping as u8 => {
                connection.allow(options.io_timeout);
                connection.write(&frame(Kind::Pong, &[]))
            }
            other => {
                let kind = other.map(|(kind, _)| *kind).unwrap_or_default();
                let detail = format!("a frame of kind {kind} among messages");
                Err(Refusal::new(Reason::Protocol, detail))
            }
        }
    }

    /// Hands over the messages of a frame. One that cannot be understood is left out: the frame was
    /// intact, so the next ones can.
    fn take_batch(&self, mut messages: &[u8], from: u64) -> Result<(), Refusal> {
        let (shared, own) = (&self.shared, self.shared.options.store_id);
        let stopped = || Refusal::new(Reason::Stopped, "the transport was stopped");
        let inside = shared.gate.enter().ok_or_else(stopped)?;
        while !messages.is_empty() {
            let (message, rest) = split_message(messages)?;
            messages = rest;
            let checked = match StoreMessage::decode(message) {
                Err(error) => Err(Refusal::new(Reason::Message, error.to_string())),
                Ok(StoreMessage::Peer(peer)) => {
                    check_stores(&peer, from, own).map(|()| StoreMessage::Peer(peer))
                }
                Ok(alive) => Ok(alive),
            };
            match checked {
                Ok(message) => {
                    shared.counters.messages_received.add(1);
                    inside.ends.inbox.message(from, message);
                }
                Err(refusal) => shared.counters.refuse(&self.peer, &refusal),
            }
        }
        Ok(())
    }
}

/// The first message of a batch, and the others.
fn split_message(messages: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let split = messages
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
    split.ok_or_else(|| {
        let detail = "a message is longer than its frame";
        Refusal::new(Reason::Protocol, detail)
    })
}

/// Checks that a message is between peers of the two stores: nobody speaks for another store.
pub(super) fn check_stores(message: &PeerMessage, from: u64, to: u64) -> Result<(), Refusal> {
    let got = (message.from.store_id, message.to.store_id);
    if got == (from, to) {
        return Ok(());
    }
    let detail = format!(
        "region {}: from store {} to store {}, expected from {from} to {to}",
        message.region, got.0, got.1
    );
    Err(Refusal::new(Reason::Misaddressed, detail))
}
