//! Everything that reaches the raft thread, by one channel. Uses: ticket, transport, workers.

use super::ChangePeer;
use super::core::StoreCore;
use crate::error::Result;
use crate::peer::ProposeData;
use crate::proto::{Region, RegionEpoch};
use crate::reader::Reader;
use crate::ticket::Completer;
use crate::transport::{PeerMessage, StoreMessage};
use crate::types::{PeerId, RegionId};
use crate::workers::Done;

/// See the module.
pub enum StoreMsg {
    /// A client's bytes.
    Propose(RegionId, ProposeData),
    /// A client's read.
    Read(RegionId, Completer<Reader>),
    /// A client's change of a region.
    Admin(RegionId, AdminRequest, Completer<Region>),
    /// From another store.
    Message(u64, StoreMessage),
    /// A message to the peer did not leave.
    Unreachable(RegionId, PeerId),
    /// The snapshot for the peer has arrived, or will not.
    SnapshotSent(RegionId, PeerId, bool),
    /// Another store asks whether its snapshot is wanted.
    Offer(u64, Box<PeerMessage>, crossbeam_channel::Sender<Result<()>>),
    /// A worker is done.
    Done(Done),
    /// Looks at the store or changes it, between two other messages.
    Call(Box<dyn FnOnce(&mut StoreCore) + Send>),
    /// Shuts down.
    Stop,
}

/// What can be done to a region.
#[derive(Debug)]
pub enum AdminRequest {
    /// Change its members, if they are as of this epoch: one in one step, several through a joint
    /// configuration.
    ChangePeers(Option<RegionEpoch>, Vec<ChangePeer>),
    /// Cut it at `key`; the new region has `region_id`, and its peers `peer_ids`.
    Split {
        key: Vec<u8>,
        region_id: u64,
        peer_ids: Vec<u64>,
    },
    /// Let this peer lead.
    TransferLeader(PeerId),
    /// Merge it into this neighbour.
    Merge(RegionId),
    /// Drop the log up to this index.
    Compact(u64),
    /// Ask the others for their votes.
    Campaign,
    /// Remove this store's peer of it.
    Destroy,
}
