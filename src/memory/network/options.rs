//! How a network in memory behaves, and what it counts. Uses: transport. Never does I/O.

use std::iter::Sum;
use std::ops::RangeInclusive;

use crate::transport::{PeerBody, StoreMessage};
use crate::types::{MIX_STEP, mix};

/// What a [`MemoryNetwork`](super::MemoryNetwork) does to messages. Without any change: no fault, and
/// everything arrives at the next tick in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// How many ticks a message takes: any number of these, both ends included.
    pub delay_ticks: RangeInclusive<u64>,
    /// How many of a thousand messages and snapshots are lost.
    pub loss_per_mille: u64,
    /// How many of a thousand messages arrive twice. Snapshots never do.
    pub duplicate_per_mille: u64,
    /// Whether a message may overtake another on the same way. A snapshot always may.
    pub reorder: bool,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        NetworkOptions {
            delay_ticks: 1..=1,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder: false,
        }
    }
}

/// What a message is, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    /// [`PeerBody::Raft`].
    Raft,
    /// [`PeerBody::Gone`].
    Gone,
    /// [`PeerBody::Sleep`].
    Sleep,
    /// [`PeerBody::Wake`].
    Wake,
    /// [`PeerBody::Prepare`].
    Prepare,
    /// [`PeerBody::Prepared`].
    Prepared,
    /// [`StoreMessage::Alive`].
    Alive,
    /// What [`Transport::send_snapshot`](crate::Transport::send_snapshot) sends.
    Snapshot,
}

impl MessageKind {
    pub(super) fn of(message: &StoreMessage) -> Self {
        match message {
            StoreMessage::Alive { .. } => MessageKind::Alive,
            StoreMessage::Peer(message) => match message.body {
                PeerBody::Raft(_) => MessageKind::Raft,
                PeerBody::Gone { .. } => MessageKind::Gone,
                PeerBody::Sleep { .. } => MessageKind::Sleep,
                PeerBody::Wake => MessageKind::Wake,
                PeerBody::Prepare { .. } => MessageKind::Prepare,
                PeerBody::Prepared => MessageKind::Prepared,
            },
        }
    }
}

/// What became of messages. Those that were sent and those that were doubled are delivered, lost, cut,
/// unreached, refused or still on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent.
    pub sent: u64,
    /// Copies that the network made.
    pub duplicated: u64,
    /// Delivered, copies included.
    pub delivered: u64,
    /// Of those, how many were overtaken by one that was sent later.
    pub reordered: u64,
    /// Lost by chance or by the filter.
    pub lost: u64,
    /// Lost because the way was cut.
    pub cut: u64,
    /// Not delivered because the receiver, or the sender of a snapshot, was not there.
    pub unreached: u64,
    /// Snapshots that the receiver did not want or that could not be copied.
    pub refused: u64,
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(all: I) -> Self {
        all.fold(Traffic::default(), |a, b| Traffic {
            sent: a.sent + b.sent,
            duplicated: a.duplicated + b.duplicated,
            delivered: a.delivered + b.delivered,
            reordered: a.reordered + b.reordered,
            lost: a.lost + b.lost,
            cut: a.cut + b.cut,
            unreached: a.unreached + b.unreached,
            refused: a.refused + b.refused,
        })
    }
}

/// SplitMix64: numbers that look like chance and are the same for the same seed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub fn roll(&mut self) -> u64 {
        let rolled = mix(self.0);
        self.0 = self.0.wrapping_add(MIX_STEP);
        rolled
    }

    /// Whether what happens `per_mille` times of a thousand happens now.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.roll() % 1000 < per_mille
    }

    /// One of `range`, which has its start even if it is empty.
    pub fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let roll = self.roll();
        let width = range.end().saturating_sub(*range.start());
        match width.checked_add(1) {
            Some(count) => range.start() + roll % count,
            None => roll,
        }
    }
}
