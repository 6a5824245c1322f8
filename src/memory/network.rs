//! The network between stores, in memory, with the faults that a test asks for. Uses: transport, types,
//! memory::network::{endpoint, options, state}. Never touches a socket.

mod endpoint;
mod options;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotKey};
use crate::transport::{Inbox, PeerMessage, StoreMessage, Transport};

use endpoint::{Endpoint, Entered, copy_snapshot};
use state::{Became, Cargo, Flight, Route, Sent, State, addressee};

pub use options::{MessageKind, NetworkOptions, Traffic};

/// A network of stores in one process, for tests and simulation: the [`Transport`] of each comes from
/// [`MemoryNetwork::transport`]. Clones are the same network.
///
/// It has two ways. [`MemoryNetwork::new`] is stepped: nothing arrives but what
/// [`MemoryNetwork::deliver_next`] delivers on the caller's thread, and time is
/// [`MemoryNetwork::tick`]. The same seed and the same calls give the same deliveries in the same
/// order. [`MemoryNetwork::immediate`] is for threads: a message is in the inbox of its receiver when
/// `send` returns.
///
/// Messages that are lost, by chance or because the network is cut, are lost without a word, as on the
/// wire. Those to a store that is not there are reported to their sender. A snapshot is reported
/// once, whatever becomes of it, unless its sender itself is gone.
///
/// A store that has a transport and is not stopped is held by the network:
/// [`MemoryNetwork::disconnect`] it, or [`Transport::stop`].
///
/// ```
/// use peerstore::memory::{MemoryNetwork, MemorySnapshots, MessageKind, NetworkOptions};
/// use peerstore::{Inbox, PeerId, PeerMessage, RegionId, Result, StoreMessage};
/// use std::sync::{Arc, Mutex};
///
/// #[derive(Default)]
/// struct Heard(Mutex<Vec<(u64, StoreMessage)>>);
/// impl Inbox for Heard {
///     fn message(&self, from: u64, message: StoreMessage) {
///         self.0.lock().unwrap().push((from, message));
///     }
///     fn unreachable(&self, _: RegionId, _: PeerId) {}
///     fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}
///     fn accepts_snapshot(&self, _: u64, _: &PeerMessage) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let options = NetworkOptions { delay_ticks: 2..=2, ..NetworkOptions::default() };
/// let network = MemoryNetwork::new(7, options);
/// let heard = Arc::new(Heard::default());
/// let (one, two) = (network.transport(1), network.transport(2));
/// one.start(Arc::new(Heard::default()), Arc::new(MemorySnapshots::new()))?;
/// two.start(heard.clone(), Arc::new(MemorySnapshots::new()))?;
/// one.send(2, StoreMessage::Alive { max_id: 9 });
/// network.tick();
/// assert!(!network.deliver_next(), "it is on its way");
/// network.tick();
/// assert!(network.deliver_next());
/// assert_eq!(*heard.0.lock().unwrap(), [(1, StoreMessage::Alive { max_id: 9 })]);
/// assert_eq!(network.traffic(MessageKind::Alive).delivered, 1);
/// network.disconnect(1);
/// network.disconnect(2);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    is_immediate: bool,
    state: Mutex<State>,
}

impl MemoryNetwork {
    /// A stepped network; `seed` decides every chance.
    pub fn new(seed: u64, options: NetworkOptions) -> Self {
        MemoryNetwork::of(false, seed, options)
    }

    /// A network that delivers at once, on the sender's thread; a snapshot on a thread of its own. It
    /// has no faults until [`MemoryNetwork::set_options`] gives some, and never delays.
    pub fn immediate() -> Self {
        MemoryNetwork::of(true, 0, NetworkOptions::default())
    }

    fn of(is_immediate: bool, seed: u64, options: NetworkOptions) -> Self {
        let state = Mutex::new(State::new(seed, options));
        MemoryNetwork {
            shared: Arc::new(Shared {
                is_immediate,
                state,
            }),
        }
    }

    /// Connects the store `store`, and disconnects who was connected as it before. What it sends and
    /// gets goes through here until it is stopped or disconnected.
    pub fn transport(&self, store: u64) -> Arc<dyn Transport> {
        self.disconnect(store);
        let endpoint = Arc::new(Endpoint::new(store));
        let own = Arc::clone(&endpoint);
        self.shared.state().endpoints.insert(store, own);
        Arc::new(MemoryTransport {
            shared: Arc::clone(&self.shared),
            endpoint,
        })
    }

    /// Takes `store` off the network, as its death does: what is on its way to it is reported to the
    /// senders as unreachable, what it has sent still arrives, except snapshots. Waits for the calls of
    /// its inbox that have begun, so it must not come from one of them nor from the thread that
    /// [`Inbox::accepts_snapshot`] waits for; nothing goes there after the return.
    pub fn disconnect(&self, store: u64) {
        let endpoint = self.shared.state().endpoints.get(&store).cloned();
        if let Some(endpoint) = endpoint {
            self.shared.disconnect(&endpoint);
        }
    }

    /// Changes the chances and delays of what is sent from now on.
    pub fn set_options(&self, options: NetworkOptions) {
        self.shared.state().options = options;
    }

    /// Lets every message pass through `filter`, with its sender and receiver, when it is delivered:
    /// to lose it (`None`), or to send it through the codec of another transport.
    pub fn set_filter(
        &self,
        filter: impl Fn(u64, u64, StoreMessage) -> Option<StoreMessage> + Send + Sync + 'static,
    ) {
        self.shared.state().filter = Some(Arc::new(filter));
    }

    /// Cuts the way from `from` to `to`, not the way back. What is on it is lost too.
    pub fn cut(&self, from: u64, to: u64) {
        self.shared.state().cut.insert(Route { from, to });
    }

    /// Cuts the ways between `a` and `b`.
    pub fn cut_both(&self, a: u64, b: u64) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Cuts every way from and to `store`, also those to stores that are not connected yet.
    pub fn isolate(&self, store: u64) {
        self.shared.state().isolated.insert(store);
    }

    /// Undoes every cut and isolation.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.cut.clear();
        state.isolated.clear();
    }

    /// Lets a tick of time go by.
    pub fn tick(&self) {
        self.shared.state().now += 1;
    }

    /// How many ticks have gone by.
    pub fn now(&self) -> u64 {
        self.shared.state().now
    }

    /// Delivers a message that is due, on this thread; whether there was one. What its receiver sends
    /// at once without a delay is due at once too.
    pub fn deliver_next(&self) -> bool {
        let Some(flight) = self.shared.state().take_due() else {
            return false;
        };
        self.shared.carry(flight);
        true
    }

    /// How many messages are on their way.
    pub fn in_flight(&self) -> usize {
        self.shared.state().queue.len()
    }

    /// What became of the messages of one kind.
    pub fn traffic(&self, kind: MessageKind) -> Traffic {
        let state = self.shared.state();
        state.traffic.get(&kind).copied().unwrap_or_default()
    }

    /// What became of all messages.
    pub fn total(&self) -> Traffic {
        self.shared.state().traffic.values().copied().sum()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing of a caller's runs under it, and each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(self: &Arc<Self>, sender: &Arc<Endpoint>, to: u64, cargo: Cargo) {
        let Some(entered) = sender.enter() else {
            return; // stopped: nobody is there to be told
        };
        let addressee = addressee(&cargo);
        let mut state = self.state();
        match state.send(sender, to, cargo) {
            Sent::Nothing => (),
            Sent::Unreached => {
                drop(state);
                if let Some((region, peer)) = addressee {
                    entered.inbox().unreachable(region, peer);
                }
            }
            Sent::Flights(flight, copy) if self.is_immediate => {
                drop(state);
                self.carry_now(flight);
                copy.into_iter().for_each(|copy| self.carry_now(copy));
            }
            Sent::Flights(flight, copy) => {
                state.enqueue(flight);
                copy.into_iter().for_each(|copy| state.enqueue(copy));
            }
        }
    }

    fn carry_now(self: &Arc<Self>, flight: Flight) {
        if let Cargo::Message(_) = flight.cargo {
            return self.carry(flight);
        }
        // A snapshot must not hold up its sender, nor wait for what its sender has to do.
        let (shared, sender) = (Arc::clone(self), Arc::clone(&flight.sender));
        let addressee = addressee(&flight.cargo);
        let thread = std::thread::Builder::new().name("memory-network".into());
        if thread.spawn(move || shared.carry(flight)).is_err()
            && let (Some(entered), Some((region, peer))) = (sender.enter(), addressee)
        {
            self.state().traffic(MessageKind::Snapshot).refused += 1;
            entered.inbox().snapshot_sent(region, peer, false);
        }
    }

    /// Brings a message to its end, whatever that is.
    fn carry(&self, flight: Flight) {
        let receiver = self.state().endpoints.get(&flight.route.to).cloned();
        self.carry_to(receiver.and_then(|receiver| receiver.enter()), flight);
    }

    fn carry_to(&self, receiver: Option<Entered>, flight: Flight) {
        let (route, sequence) = (flight.route, flight.sequence);
        let is_cut = self.state().is_cut(route);
        let (kind, addressee) = (flight.cargo.kind(), addressee(&flight.cargo));
        let became = match flight.cargo {
            _ if is_cut => Became::Cut,
            Cargo::Message(message) => match (receiver, self.filtered(route, message)) {
                (None, _) => Became::Unreached,
                (_, None) => Became::Lost,
                (Some(receiver), Some(message)) => {
                    self.state().note_order(route, sequence, kind);
                    receiver.inbox().message(route.from, message);
                    Became::Delivered
                }
            },
            Cargo::Snapshot {
                decided: Some(became),
                ..
            } => became,
            Cargo::Snapshot { message, key, .. } => match (flight.sender.enter(), receiver) {
                (Some(sender), Some(receiver)) => {
                    match self.filtered(route, StoreMessage::Peer(message)) {
                        Some(message) => deliver_snapshot(&sender, &receiver, message, &key),
                        None => Became::Lost,
                    }
                }
                _ => Became::Unreached,
            },
        };
        self.state().traffic(kind).count(became);
        let (Some(sender), Some((region, peer))) = (flight.sender.enter(), addressee) else {
            return;
        };
        match (kind, became) {
            (MessageKind::Snapshot, _) => {
                let arrived = became == Became::Delivered;
                sender.inbox().snapshot_sent(region, peer, arrived);
            }
            (_, Became::Unreached) => sender.inbox().unreachable(region, peer),
            _ => (),
        }
    }

    fn filtered(&self, route: Route, message: StoreMessage) -> Option<StoreMessage> {
        let filter = self.state().filter.clone();
        match filter {
            Some(filter) => filter(route.from, route.to, message),
            None => Some(message),
        }
    }

    fn disconnect(&self, endpoint: &Arc<Endpoint>) {
        let dropped = self.state().take_off(endpoint);
        endpoint.close();
        for flight in dropped {
            self.carry_to(None, flight);
        }
    }
}

/// The file, if it is wanted, and then the message.
fn deliver_snapshot(
    sender: &Entered,
    receiver: &Entered,
    message: StoreMessage,
    key: &SnapshotKey,
) -> Became {
    let (from, to) = (sender.store(), receiver.store());
    let accepted = match &message {
        StoreMessage::Peer(message) => receiver.inbox().accepts_snapshot(from, message),
        StoreMessage::Alive { .. } => return Became::Lost, // a filter made it of a snapshot
    };
    let copied = accepted.map_err(io::Error::other);
    match copied.and_then(|()| copy_snapshot(sender, receiver, key)) {
        Ok(()) => {
            receiver.inbox().message(from, message);
            Became::Delivered
        }
        Err(error) => {
            tracing::debug!(snapshot = %key, from, to, %error, "a snapshot is not taken in");
            Became::Refused
        }
    }
}

/// A store's end of the network.
struct MemoryTransport {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
}

impl Transport for MemoryTransport {
    fn start(&self, inbox: Arc<dyn Inbox>, snapshots: Arc<dyn RaftSnapshotStorage>) -> Result<()> {
        self.endpoint.open(inbox, snapshots);
        Ok(())
    }

    fn send(&self, to: u64, message: StoreMessage) {
        let cargo = Cargo::Message(message);
        self.shared.send(&self.endpoint, to, cargo);
    }

    fn send_snapshot(&self, to: u64, message: PeerMessage, key: SnapshotKey) {
        let cargo = Cargo::Snapshot {
            message: Box::new(message),
            key,
            decided: None,
        };
        self.shared.send(&self.endpoint, to, cargo);
    }

    fn stop(&self) {
        self.shared.disconnect(&self.endpoint);
    }
}
