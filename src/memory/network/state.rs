//! What is on its way, and what chance does to it. Uses: transport, snapshot_store, types,
//! memory::network::{endpoint, options}. Never does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::snapshot_store::SnapshotKey;
use crate::transport::{PeerMessage, StoreMessage};
use crate::types::{PeerId, RegionId};

use super::endpoint::Endpoint;
use super::options::{Dice, MessageKind, NetworkOptions, Traffic};

/// The network between two calls.
pub(super) struct State {
    pub options: NetworkOptions,
    dice: Dice,
    pub now: u64,
    sequence: u64,
    pub queue: BTreeMap<Order, Flight>,
    links: BTreeMap<Route, Link>,
    pub endpoints: BTreeMap<u64, Arc<Endpoint>>,
    pub cut: BTreeSet<Route>,
    pub isolated: BTreeSet<u64>,
    pub traffic: BTreeMap<MessageKind, Traffic>,
    pub filter: Option<Arc<Filter>>,
}

pub(super) type Filter = dyn Fn(u64, u64, StoreMessage) -> Option<StoreMessage> + Send + Sync;

/// From one store to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub from: u64,
    pub to: u64,
}

/// What has gone over a route.
#[derive(Debug, Default)]
struct Link {
    /// When the last message is due, which those behind it do not overtake unless they may.
    last: (u64, u64),
    /// The largest sequence that was delivered.
    delivered: u64,
}

/// When a message is delivered: what is due at the same tick, in the order of the dice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    due: u64,
    rank: u64,
    sequence: u64,
}

/// A message on its way.
pub(super) struct Flight {
    pub route: Route,
    pub sequence: u64,
    pub sender: Arc<Endpoint>,
    pub cargo: Cargo,
}

pub(super) enum Cargo {
    Message(StoreMessage),
    Snapshot {
        message: Box<PeerMessage>,
        key: SnapshotKey,
        /// What was decided when it was sent, and is told when it would have arrived.
        decided: Option<Became>,
    },
}

impl Cargo {
    pub fn kind(&self) -> MessageKind {
        match self {
            Cargo::Message(message) => MessageKind::of(message),
            Cargo::Snapshot { .. } => MessageKind::Snapshot,
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    Delivered,
    /// Only a snapshot.
    Refused,
    Lost,
    Cut,
    Unreached,
}

impl Traffic {
    pub(super) fn count(&mut self, became: Became) {
        let counter = match became {
            Became::Delivered => &mut self.delivered,
            Became::Refused => &mut self.refused,
            Became::Lost => &mut self.lost,
            Became::Cut => &mut self.cut,
            Became::Unreached => &mut self.unreached,
        };
        *counter += 1;
    }
}

/// Whom to name where a message is not delivered.
pub(super) type Addressee = Option<(RegionId, PeerId)>;

pub(super) fn addressee(cargo: &Cargo) -> Addressee {
    let message = match cargo {
        Cargo::Message(StoreMessage::Peer(message)) => message,
        Cargo::Message(StoreMessage::Alive { .. }) => return None,
        Cargo::Snapshot { message, .. } => message,
    };
    Some((message.region, PeerId(message.to.id)))
}

impl State {
    pub fn new(seed: u64, options: NetworkOptions) -> Self {
        State {
            options,
            dice: Dice::new(seed),
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            links: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            cut: BTreeSet::new(),
            isolated: BTreeSet::new(),
            traffic: BTreeMap::new(),
            filter: None,
        }
    }

    pub fn is_cut(&self, route: Route) -> bool {
        let Route { from, to } = route;
        let is_alone = |store| self.isolated.contains(&store);
        self.cut.contains(&route) || (from != to && (is_alone(from) || is_alone(to)))
    }

    pub fn traffic(&mut self, kind: MessageKind) -> &mut Traffic {
        self.traffic.entry(kind).or_default()
    }

    /// Lets `cargo` set out, or counts why it does not.
    pub fn send(&mut self, sender: &Arc<Endpoint>, to: u64, mut cargo: Cargo) -> Sent {
        let route = Route {
            from: sender.store,
            to,
        };
        let kind = cargo.kind();
        self.traffic(kind).sent += 1;
        let is_lost = self.dice.happens(self.options.loss_per_mille);
        let is_doubled = self.dice.happens(self.options.duplicate_per_mille);
        let became = match () {
            _ if is_lost => Some(Became::Lost),
            _ if self.is_cut(route) => Some(Became::Cut),
            _ if !self.endpoints.contains_key(&to) => Some(Became::Unreached),
            _ => None,
        };
        match (&mut cargo, became) {
            (Cargo::Snapshot { decided, .. }, _) => *decided = became,
            (Cargo::Message(_), None) => (),
            (Cargo::Message(_), Some(became)) => {
                self.traffic(kind).count(became);
                return match became {
                    Became::Unreached => Sent::Unreached,
                    _ => Sent::Nothing,
                };
            }
        }
        let copy = match &cargo {
            Cargo::Message(message) if is_doubled => {
                self.traffic(kind).duplicated += 1;
                Some(Cargo::Message(message.clone()))
            }
            _ => None,
        };
        let mut flight = |cargo| {
            self.sequence += 1;
            Flight {
                route,
                sequence: self.sequence,
                sender: Arc::clone(sender),
                cargo,
            }
        };
        Sent::Flights(flight(cargo), copy.map(flight))
    }

    pub fn enqueue(&mut self, flight: Flight) {
        let delay = self.dice.within(&self.options.delay_ticks);
        let mut when = (self.now + delay, self.dice.roll());
        let may_overtake = self.options.reorder || matches!(flight.cargo, Cargo::Snapshot { .. });
        if !may_overtake {
            let link = self.links.entry(flight.route).or_default();
            when = when.max(link.last);
            link.last = when;
        }
        let order = Order {
            due: when.0,
            rank: when.1,
            sequence: flight.sequence,
        };
        self.queue.insert(order, flight);
    }

    /// The first of what is due.
    pub fn take_due(&mut self) -> Option<Flight> {
        let first = self.queue.first_entry()?;
        (first.key().due <= self.now).then(|| first.remove())
    }

    /// Takes `endpoint` off, if it still has its place, with what is on its way to it.
    pub fn take_off(&mut self, endpoint: &Arc<Endpoint>) -> Vec<Flight> {
        let current = self.endpoints.get(&endpoint.store);
        if !current.is_some_and(|current| Arc::ptr_eq(current, endpoint)) {
            return Vec::new();
        }
        self.endpoints.remove(&endpoint.store);
        let queue = std::mem::take(&mut self.queue).into_iter();
        let (dropped, rest) = queue.partition(|(_, f): &(_, Flight)| f.route.to == endpoint.store);
        self.queue = rest;
        let dropped: BTreeMap<Order, Flight> = dropped;
        dropped.into_values().collect()
    }

    /// Counts a message that one which was sent later has overtaken.
    pub fn note_order(&mut self, route: Route, sequence: u64, kind: MessageKind) {
        let link = self.links.entry(route).or_default();
        let is_overtaken = sequence < link.delivered;
        link.delivered = sequence.max(link.delivered);
        self.traffic(kind).reordered += u64::from(is_overtaken);
    }
}

pub(super) enum Sent {
    /// A message, and its copy if the network makes one.
    Flights(Flight, Option<Flight>),
    Nothing,
    /// The sender is to be told.
    Unreached,
}
