//! The seam between the stores of a cluster: messages and their bytes, and the files of snapshots.
//! Uses: types, proto, snapshot_store, error. Never does I/O.
//!
//! raft needs little of a network: messages may be lost, delayed, doubled and reordered, and nothing
//! breaks but time. What it must not do is mix clusters up or change a byte, which is the transport's.

mod wire;

use std::sync::Arc;

use raft::eraftpb::Message;

use crate::error::Result;
use crate::proto::{Peer, Region, RegionEpoch};
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotKey};
use crate::types::{KeyRange, PeerId, RegionId};

pub use wire::{ENTRIES_MAX, MessageError};

/// What one peer of a region says to another.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerMessage {
    /// The region.
    pub region: RegionId,
    /// Who says it, as the sender knows itself.
    pub from: Peer,
    /// Who it is for.
    pub to: Peer,
    /// How far the sender's region had come.
    pub epoch: RegionEpoch,
    /// The sender's range, where it knows one: what a peer that it creates at the receiver will hold.
    pub range: Option<KeyRange>,
    /// What is said.
    pub body: PeerBody,
}

/// The content of a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq)]
pub enum PeerBody {
    /// raft's own. Its `to` is the id of the peer that it is for; its `from` is another peer's than the
    /// sender's where raft forwards (a proposal, a read, a transfer of the lead).
    Raft(Message),
    /// Whoever hears this was removed from its region, or its region was merged away, and does not know
    /// it. `epoch` of the message is where that had happened or was passed.
    Gone {
        /// The region that has taken it in, as it was before, if it ended by a merge.
        into: Option<Region>,
    },
    /// The leader goes to sleep with everything replicated up to the commit; the follower may, too, if
    /// it has the same term and commit.
    Sleep {
        /// The leader's term.
        term: u64,
        /// The leader's last index, which is committed.
        commit: u64,
    },
    /// Wakes a peer that sleeps, without any other meaning.
    Wake,
    /// The leader is about to hand over to this peer, whose followers will then want what is in the log
    /// from here on: have it at hand.
    Prepare {
        /// The lowest index that a follower misses.
        low: u64,
    },
    /// The answer to that: it is at hand.
    Prepared,
}

/// What one store says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreMessage {
    /// From peer to peer.
    Peer(Box<PeerMessage>),
    /// The store lives. Sent once in a while to every store that shares a region with this one, so that
    /// regions which sleep need no heartbeats of their own.
    Alive {
        /// The largest id that the sender has seen: new ids have to be larger.
        max_id: u64,
    },
}

/// Where a transport hands over what comes in. Its calls return at once, except
/// [`Inbox::accepts_snapshot`]. They come from the transport's threads, and from those that send.
pub trait Inbox: Send + Sync {
    /// A message from the store `from`, whose identity the transport has checked.
    fn message(&self, from: u64, message: StoreMessage);

    /// A message to `peer` of `region` was dropped: its store is not reached, or its queue is full.
    fn unreachable(&self, region: RegionId, peer: PeerId);

    /// A snapshot that was to be sent to `peer` of `region` has arrived whole, or will not.
    fn snapshot_sent(&self, region: RegionId, peer: PeerId, arrived: bool);

    /// Asked before the file of a snapshot is taken in: whether there is a peer that wants it. May wait
    /// for the store, so it is called on a thread of the transport's that nobody else waits for; but
    /// [`Transport::stop`] waits for it, so it has to return when the store is stopped.
    ///
    /// # Errors
    /// `SnapshotRefused` with the reason: the sender is told, and not a byte is read.
    fn accepts_snapshot(&self, from: u64, message: &PeerMessage) -> Result<()>;
}

/// Carries messages between stores. One serves a whole node.
pub trait Transport: Send + Sync {
    /// Begins to take in and to send: what comes in goes to `inbox`, files come from and go to
    /// `snapshots`. Called once, before anything is sent.
    ///
    /// # Errors
    /// `Io` if it cannot listen.
    fn start(&self, inbox: Arc<dyn Inbox>, snapshots: Arc<dyn RaftSnapshotStorage>) -> Result<()>;

    /// Queues `message` for the store `to`, and never waits. What cannot be sent is dropped, and
    /// reported by [`Inbox::unreachable`] if it was a peer's: at least once for each peer while the
    /// store is not reached. A snapshot that travels inside its message is reported as one of
    /// [`Transport::send_snapshot`].
    fn send(&self, to: u64, message: StoreMessage);

    /// Queues the snapshot in `message`, whose file is `key` in the node's snapshots: the file first,
    /// by a way of its own, then the message. One whose file travels inside goes as any message. The
    /// outcome goes to [`Inbox::snapshot_sent`], once, whatever happens.
    fn send_snapshot(&self, to: u64, message: PeerMessage, key: SnapshotKey);

    /// Sends what was queued since the last call. One that sends at once need not do anything.
    fn flush(&self) {}

    /// What it has carried, for the metrics.
    fn stats(&self) -> TransportStats {
        TransportStats::default()
    }

    /// Ends every connection and thread; nothing goes to the inbox after it returned, and snapshots
    /// that were still on their way were reported as lost. Not to be called by the inbox.
    fn stop(&self);
}

/// What a [`Transport`] has carried since it was made; all 0 for one that does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Messages that left.
    pub messages_sent: u64,
    /// Messages handed to the inbox.
    pub messages_received: u64,
    /// Messages that were to be sent and were not.
    pub messages_dropped: u64,
    /// Bytes of messages that left.
    pub bytes_sent: u64,
    /// Bytes of messages that came.
    pub bytes_received: u64,
    /// Bytes of snapshot files that left.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshot files that came.
    pub snapshot_bytes_received: u64,
    /// Connections that other stores opened.
    pub accepted: u64,
    /// Connections that this store opened.
    pub connected: u64,
    /// Connections, messages and snapshots of others that were refused.
    pub refused: u64,
}

/// What a node has to know of its cluster: where the other stores are, and which ids are free. A
/// coordination service can stand behind it; a static table can, too.
pub trait Placement: Send + Sync {
    /// The address of a store, as its transport understands it.
    fn address(&self, store: u64) -> Option<String>;

    /// `count` ids for regions and peers that nobody in the cluster has had, larger than every id given
    /// to [`Placement::observe_id`]. May do I/O; never called on a raft thread.
    ///
    /// # Errors
    /// Those of what stands behind it.
    fn allocate_ids(&self, count: usize) -> Result<Vec<u64>>;

    /// An id that is in use was seen. Cheap: called on the raft thread.
    fn observe_id(&self, _id: u64) {}

    /// The largest id that is known to be in use.
    fn max_id(&self) -> u64 {
        0
    }

    /// This node leads `region`, as of now. Cheap: called on the raft thread, when that begins and when
    /// the region changes.
    fn report(&self, _region: &RegionReport) {}
}

/// A region as its leader reports it to the [`Placement`].
#[derive(Clone, Debug, PartialEq)]
pub struct RegionReport {
    /// Its range, epoch and peers.
    pub region: Region,
    /// The leader.
    pub leader: Peer,
    /// The leader's term.
    pub term: u64,
}

#[cfg(test)]
mod tests;
