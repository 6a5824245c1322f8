//! What the raft thread hands to the workers, and what they say when it is done. Uses: peer_storage,
//! state_machine, ticket.

use std::ops::Range;
use std::sync::Arc;

use raft::eraftpb::Entry;

use crate::app_store::AppBatch;
use crate::error::{Error, Result};
use crate::peer_storage::{DestroyTask, InstallTask, Installed, PeerStorage};
use crate::proto::{RaftApplyState, RaftTruncatedState, Region, RegionLocalState};
use crate::raft_log::LogBatch;
use crate::reader::Reader;
use crate::state_machine::StateMachine;
use crate::ticket::Completer;
use crate::types::{LogPosition, PeerId, RegionId};

/// A peer of this store as its workers know it. A region that was left and came back is another one: what
/// is still on its way to the old one must not reach the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The region.
    pub region: RegionId,
    /// Counts the peers that this store has opened.
    pub incarnation: u64,
}

/// Writes of many regions for the log, which become durable together.
#[derive(Debug, Default)]
pub struct WriteTask {
    /// The writes.
    pub batch: LogBatch,
    /// About how many bytes they are.
    pub bytes: usize,
    /// Who is told when they are durable, and up to which of its readies.
    pub readies: Vec<(PeerKey, u64)>,
}

/// A proposal that waits for its entry to be applied.
#[derive(Debug)]
pub struct Proposal {
    /// Where its entry stands, if nothing takes its place.
    pub position: LogPosition,
    /// Who is answered.
    pub done: Completer<Vec<u8>>,
    /// Held while it waits: counts its bytes.
    pub _permit: Permit,
}

/// Counts bytes that wait, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    counter: Arc<std::sync::atomic::AtomicU64>,
    bytes: u64,
}

impl Permit {
    /// Adds `bytes` to `counter`, unless more than `limit` would wait then. One alone always passes.
    ///
    /// # Errors
    /// `Busy`.
    pub fn take(
        counter: &Arc<std::sync::atomic::AtomicU64>,
        bytes: u64,
        limit: u64,
    ) -> Result<Permit> {
        use std::sync::atomic::Ordering::Relaxed;
        let waiting = counter.fetch_add(bytes, Relaxed);
        let permit = Permit {
            counter: Arc::clone(counter),
            bytes,
        };
        if waiting > 0 && waiting + bytes > limit {
            return Err(Error::Busy { waiting, limit });
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.counter).fetch_sub(self.bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Work for the worker that applies a region.
pub struct ApplyTask {
    /// Whose.
    pub peer: PeerKey,
    /// What.
    pub work: ApplyWork,
}

/// See [`ApplyTask`].
pub enum ApplyWork {
    /// The first of a peer: what it is and who applies its entries.
    Begin(Box<Applier>),
    /// Committed entries with the user's bytes, contiguous, behind what was handed over before.
    Entries {
        /// The entries.
        entries: Vec<Entry>,
        /// Who waits for them, in the order of their positions.
        proposals: Vec<Proposal>,
    },
    /// An entry of the store's own, worked out already.
    Admin(Box<AdminWork>),
    /// Reads that may be served as of now: everything they must see was handed over before.
    Read(Vec<Completer<Reader>>),
    /// The snapshot that replaced everything.
    Installed(Box<(RegionLocalState, RaftApplyState)>),
    /// The peer is gone from this store; what is left of it is not touched.
    End,
    /// The same, and its log, states and data go.
    Destroy(Box<DestroyTask>),
}

/// A region as its applier sees it.
pub struct Applier {
    /// Its range and epoch.
    pub region: Arc<RegionLocalState>,
    /// How far it is applied.
    pub state: RaftApplyState,
    /// The user's.
    pub machine: Box<dyn StateMachine>,
}

/// What an admin entry does, as the raft thread has worked it out.
#[derive(Debug)]
pub struct AdminWork {
    /// The entry.
    pub position: LogPosition,
    /// The region after it, if it changes.
    pub region: Option<Arc<RegionLocalState>>,
    /// The truncated state after it, if it changes.
    pub truncated: Option<RaftTruncatedState>,
    /// What else is written in the same batch.
    pub also: AppBatch,
    /// Whether it must be durable before anybody acts on it.
    pub sync: bool,
}

/// What was applied of a peer.
#[derive(Debug)]
pub struct Applied {
    /// Whose.
    pub peer: PeerKey,
    /// How far.
    pub state: RaftApplyState,
    /// The region, if an admin entry changed it.
    pub region: Option<Arc<RegionLocalState>>,
    /// About how many bytes of data were written.
    pub bytes: u64,
}

/// What a worker has done.
pub enum Done {
    /// Readies up to these are durable.
    Persisted(Vec<(PeerKey, u64)>),
    /// Entries were applied.
    Applied(Vec<Applied>),
    /// A region cannot go on: its state machine failed or panicked.
    Failed(PeerKey, Error),
    /// The store cannot go on: a write failed.
    Poisoned(Error),
    /// A snapshot was installed, or not.
    Installed(PeerKey, Result<Box<Installed>>),
    /// A peer was removed, or not.
    Destroyed(PeerKey, Result<()>),
    /// The data that was written before the request with this number is durable.
    Synced(u64),
    /// A fetch or a snapshot of the region has come further.
    Woken(RegionId),
    /// The regions of an [`ExpiryLook`] in which something has expired by this time.
    Expired(u64, Result<Vec<PeerKey>>),
    /// What [`SplitCheck`] found: the key in the middle, or nothing if the region is small.
    SplitKey(PeerKey, Result<Option<Vec<u8>>>),
    /// The region is open, or could not be.
    Opened(RegionId, Result<Box<PeerStorage>>),
    /// The entries for the cache.
    Warmed(PeerKey, Result<Vec<Entry>>),
}

/// Where a worker says what it has done.
pub type DoneSender = Arc<dyn Fn(Done) + Send + Sync>;

/// Work for the worker of slow things: nothing of it holds up another region's writes.
pub enum SlowTask {
    /// Installs a snapshot.
    Install(PeerKey, Box<InstallTask>),
    /// Makes durable what was applied so far.
    Sync(u64),
    /// Looks whether a region has grown too large.
    SplitCheck(SplitCheck),
    /// Looks whether something has expired.
    Expired(ExpiryLook),
    /// Opens a region, or makes it first.
    Open(RegionId, NewPeer),
    /// Reads the entries `[low, high)` for the cache of a peer that is about to lead.
    Warm(PeerKey, Range<u64>),
}

/// How a region comes to be open.
#[derive(Debug)]
pub enum NewPeer {
    /// It is on the disk.
    Known,
    /// A message is for this peer of it, which knows nothing yet.
    Waiting(PeerId),
    /// The operator creates it; this is the store's own peer.
    Created(Box<Region>, PeerId),
}

/// See [`Done::Expired`].
#[derive(Debug)]
pub struct ExpiryLook {
    /// The time, as it was read where the regions are led.
    pub now_ms: u64,
    /// The regions, and their keys.
    pub regions: Vec<(PeerKey, crate::types::KeyRange)>,
}

/// See [`Done::SplitKey`].
#[derive(Debug)]
pub struct SplitCheck {
    /// Whose.
    pub peer: PeerKey,
    /// Its keys.
    pub range: crate::types::KeyRange,
    /// Above how many bytes it is split.
    pub bytes_max: u64,
}
