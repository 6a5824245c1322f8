//! Every way to fail, closed and typed. Uses: types. Never does I/O.
//!
//! An error says where, what was found and what was expected, and, where there is something to be
//! done, what. A call that returned an error has changed nothing, unless its documentation says so.

mod recovery;

use std::path::{Path, PathBuf};

use raft::StorageError;

use crate::proto::{Peer, Region, RegionEpoch};
use crate::types::{KeyRange, RegionId};

pub use recovery::RecoveryError;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for whom, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log no longer holds the entry: it was compacted away.
    #[error("region {region}: index {index} is compacted, the log starts at {first_index}")]
    Compacted {
        /// The region.
        region: RegionId,
        /// The index asked for.
        index: u64,
        /// The first index that is there.
        first_index: u64,
    },
    /// The log does not hold the entry yet, or an append would leave a gap before it.
    #[error("region {region}: index {index} is not available, the log ends at {last_index}")]
    Unavailable {
        /// The region.
        region: RegionId,
        /// The index asked for.
        index: u64,
        /// The last index that is there.
        last_index: u64,
    },
    /// The entry is being read from disk; ask again after `on_entries_fetched`.
    #[error("region {region}: the log from {index} on is being fetched")]
    LogTemporarilyUnavailable {
        /// The region.
        region: RegionId,
        /// The lowest index asked for.
        index: u64,
    },
    /// A snapshot is being built; ask again later.
    #[error("region {region}: the snapshot is being built")]
    SnapshotTemporarilyUnavailable {
        /// The region.
        region: RegionId,
    },
    /// A snapshot to install lies before the log that is already there.
    #[error("region {region}: snapshot at {index} is out of date, the log starts at {first_index}")]
    SnapshotOutOfDate {
        /// The region.
        region: RegionId,
        /// The index of the snapshot.
        index: u64,
        /// The first index of the log.
        first_index: u64,
    },
    /// A snapshot was refused before anything was touched.
    #[error("region {region}: snapshot refused: {reason}")]
    SnapshotRefused {
        /// The region.
        region: RegionId,
        /// Why, with what was found and expected.
        reason: String,
    },
    /// Building a snapshot failed; it is tried again, after a pause, when it is next asked for.
    #[error("region {region}: snapshot not built ({failures} times in a row): {reason}")]
    SnapshotFailed {
        /// The region.
        region: RegionId,
        /// How often in a row.
        failures: u32,
        /// The error of the last try.
        reason: String,
    },
    /// A snapshot file is not in the store.
    #[error("snapshot {name} is not in the store {path}; transfer it before it is installed")]
    SnapshotNotFound {
        /// The name of the snapshot.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A snapshot is being read or written and cannot be removed.
    #[error("snapshot {name} is in use; drop its readers first")]
    SnapshotInUse {
        /// The name of the snapshot.
        name: String,
    },
    /// Work was given up because it had become useless.
    #[error("region {region}: {what} was cancelled")]
    Cancelled {
        /// The region.
        region: RegionId,
        /// What was given up.
        what: &'static str,
    },
    /// What is on disk about a region contradicts itself.
    #[error("region {region}: cannot be opened: {source}")]
    Recovery {
        /// The region.
        region: RegionId,
        /// The contradiction, and what to do.
        source: RecoveryError,
    },
    /// Stored bytes are not what was written.
    #[error("{}{what} is corrupt: {detail}; restore it from another replica or a backup",
            .region.map(|r| format!("region {r}: ")).unwrap_or_default())]
    Corruption {
        /// The region, where one is known.
        region: Option<RegionId>,
        /// The entry, state or block.
        what: String,
        /// Where, what was found and what was expected.
        detail: String,
    },
    /// No such region on this node.
    #[error("region {region} does not exist on this node; create it first")]
    RegionNotFound {
        /// The region.
        region: RegionId,
    },
    /// The region is there already.
    #[error("region {region} exists already; open it instead")]
    RegionExists {
        /// The region.
        region: RegionId,
    },
    /// The region is open already: it has one owner at a time.
    #[error("region {region} is open already; drop the PeerStorage that owns it first")]
    RegionOpen {
        /// The region.
        region: RegionId,
    },
    /// The peer was removed from its region; its id never comes back.
    #[error("region {region}: peer {peer} is a tombstone; join with a larger peer id")]
    RegionTombstone {
        /// The region.
        region: RegionId,
        /// The peer that was removed.
        peer: u64,
    },
    /// A call is against the rules of its documentation.
    #[error("region {region}: {what}: got {got}, expected {expected}")]
    InvalidArgument {
        /// The region.
        region: RegionId,
        /// The call or argument.
        what: &'static str,
        /// What was given.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// A write for one region names a key outside its range.
    #[error("region {region}: key \"{}\" is outside its range {range}", .key.escape_ascii())]
    KeyOutOfRange {
        /// The region.
        region: RegionId,
        /// The key.
        key: Vec<u8>,
        /// The region's range.
        range: KeyRange,
    },
    /// The user's state machine refused an entry.
    #[error("region {region}: the state machine failed at index {index}: {source}")]
    StateMachine {
        /// The region.
        region: RegionId,
        /// The entry.
        index: u64,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// What was done.
        op: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no space left. Nothing was lost; free some and try again.
    #[error("{op} {}: no space left on the device; free some, then open the store again", .path.display())]
    DiskFull {
        /// What was done.
        op: &'static str,
        /// To which file or directory.
        path: PathBuf,
    },
    /// A store that is kept small has no room for a write. Nothing was changed, and it goes on.
    #[error(
        "{what} would hold {got}, its limit is {limit}; let it be compacted, or raise the limit"
    )]
    StoreFull {
        /// The store, and what is counted.
        what: &'static str,
        /// What it would hold with the write.
        got: u64,
        /// What it may hold.
        limit: u64,
    },
    /// A storage engine refused.
    #[error("{op} {}: {message}", .path.display())]
    Engine {
        /// What was done.
        op: &'static str,
        /// The database.
        path: PathBuf,
        /// What the engine said.
        message: String,
    },
    /// An earlier write or fsync failed. What it wrote may or may not be on the medium, so nothing
    /// more is accepted until the store is opened again. An fsync is never retried.
    #[error("{} is poisoned by an earlier failure ({cause}); open it again", .path.display())]
    Poisoned {
        /// The store.
        path: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// Somebody else has the store open.
    #[error("{} is locked by another owner; stop it first", .path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The store is not there.
    #[error("{} does not exist; create it, or set create_if_missing", .path.display())]
    StoreNotFound {
        /// The store.
        path: PathBuf,
    },
    /// The directory holds something that is not ours. It was not touched.
    #[error("{} is not a peerstore directory: found {found}; give an empty or missing one", .path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// A part of the store is missing. It was not touched.
    #[error("{} is incomplete: {missing} is missing; restore it from a backup", .path.display())]
    IncompleteStore {
        /// The store.
        path: PathBuf,
        /// The part.
        missing: String,
    },
    /// The store belongs to another cluster or has another id than the config says.
    #[error("{} is {got}, the config says {expected}; give the right directory", .path.display())]
    ForeignStore {
        /// The store.
        path: PathBuf,
        /// Who it is.
        got: String,
        /// Who the config says.
        expected: String,
    },
    /// Written by a newer version of this crate. It was not touched.
    #[error("{}: format version {got}, this build reads up to {max}; use a newer build", .path.display())]
    UnsupportedVersion {
        /// The store or file.
        path: PathBuf,
        /// Its version.
        got: u32,
        /// The newest that this build reads.
        max: u32,
    },
    /// The config cannot be used.
    #[error("config{}: {message}", .path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Config {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Something did not happen in time. It may still happen.
    #[error("{what} took longer than {limit_ms} ms")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit_ms: u64,
    },
    /// This peer does not lead its region. Ask the one that does.
    #[error("region {region}: not the leader{}", .leader.as_ref().map(|l| format!("; peer {} on store {} is", l.id, l.store_id)).unwrap_or_else(|| ", and none is known; try again later".into()))]
    NotLeader {
        /// The region.
        region: RegionId,
        /// The leader, where it is known.
        leader: Option<Peer>,
    },
    /// The region was split, merged or given other peers since the request was made. Nothing was done.
    #[error("region {region}: epoch {got:?} is stale; the region is now {} at {:?}", .current.range(), .current.region_epoch)]
    StaleEpoch {
        /// The region.
        region: RegionId,
        /// The epoch of the request.
        got: RegionEpoch,
        /// The region as it is now.
        current: Box<Region>,
    },
    /// Another entry took the place of the proposal in the log: it was not and will not be applied.
    #[error(
        "region {region}: the proposal was replaced by another leader's entry; propose it again"
    )]
    ProposalDropped {
        /// The region.
        region: RegionId,
    },
    /// Whether the proposal was or will be applied cannot be told here any more: a snapshot or the end
    /// of the peer covers it.
    #[error(
        "region {region}: it is not known whether the proposal was applied; read before it is repeated"
    )]
    Uncertain {
        /// The region.
        region: RegionId,
    },
    /// The region cannot do this now. Nothing was done.
    #[error("region {region}: {what} refused: {reason}")]
    Refused {
        /// The region.
        region: RegionId,
        /// What was asked.
        what: &'static str,
        /// Why, and what would help.
        reason: String,
    },
    /// More is waiting than the store takes. Nothing was done; try again when something is answered.
    #[error("the store is busy: {waiting} bytes of proposals wait, it takes {limit}")]
    Busy {
        /// The bytes that wait.
        waiting: u64,
        /// How many it takes.
        limit: u64,
    },
    /// The region was stopped by an error of its own; the others go on.
    #[error("region {region} was stopped: {reason}")]
    RegionStopped {
        /// The region.
        region: RegionId,
        /// The error.
        reason: String,
    },
    /// The store was shut down.
    #[error("the store was shut down")]
    StoreStopped,
    /// The counter that ids come from is at its end, or a peer claims to have come there.
    #[error("{wanted} ids are wanted, {left} are left; an id near the end was observed or given")]
    IdsExhausted {
        /// How many were asked for.
        wanted: u64,
        /// How many there are.
        left: u64,
    },
    /// A cursor is not one that this scan gave.
    #[error("the cursor cannot be used: {reason}; begin the scan again without one")]
    CursorInvalid {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A cursor is of another read transaction, whose moment may be gone.
    #[error("the cursor is of another read transaction; begin the scan again without one")]
    CursorExpired,
    /// Somebody else has changed what a transaction writes, or has read for update. Nothing was written.
    #[error("another transaction has changed the same keys; begin again")]
    TransactionConflict,
    /// A value that is to be counted up is no number.
    #[error("the value of key \"{}\" is not a decimal number of 64 bits; it was left as it is", .key.escape_ascii())]
    NotANumber {
        /// The key.
        key: Vec<u8>,
    },
    /// A number would become too large to count on. It was left as it is.
    #[error("{present} under key \"{}\" plus {by} does not fit into 64 bits; it was left as it is", .key.escape_ascii())]
    NumberOverflow {
        /// The key.
        key: Vec<u8>,
        /// The number.
        present: i64,
        /// What was to be added.
        by: i64,
    },
    /// There is no such index.
    #[error("there is no index {name:?}; create it first")]
    IndexNotFound {
        /// Its name.
        name: String,
    },
    /// The index is there already.
    #[error("the index {name:?} exists already; drop it first")]
    IndexExists {
        /// Its name.
        name: String,
    },
    /// An index needs an extractor that was not given when the store was opened.
    #[error("the index {name:?} has no extractor; give one of that name when the store is opened")]
    IndexWithoutExtractor {
        /// Its name.
        name: String,
    },
    /// An index is not complete, because an import has failed half-way.
    #[error("the index {name:?} is not complete; open the store again, which builds it")]
    IndexNotReady {
        /// Its name.
        name: String,
    },
    /// A background worker is gone: its node was shut down.
    #[error("the {worker} worker is gone; the node was shut down")]
    WorkerGone {
        /// Which one.
        worker: &'static str,
    },
    /// Code that a background worker called panicked: a backend's, or a state machine's. The worker
    /// goes on with other work.
    #[error("the {worker} worker panicked: {message}; this is a bug, report it")]
    WorkerPanicked {
        /// Which one.
        worker: &'static str,
        /// What the panic said.
        message: String,
    },
}

impl Error {
    /// Stored bytes that are not what was written.
    pub fn corruption(
        region: Option<RegionId>,
        what: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Error::Corruption {
            region,
            what: what.into(),
            detail: detail.into(),
        }
    }

    /// A refusal of the operating system; a full disk is told apart.
    pub fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        let path = path.to_path_buf();
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Error::DiskFull { op, path };
        }
        Error::Io { op, path, source }
    }

    /// A state machine's refusal of the entry at `index`.
    pub fn state_machine(
        region: RegionId,
        index: u64,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::StateMachine {
            region,
            index,
            source: source.into(),
        }
    }

    /// A call against the rules.
    pub(crate) fn invalid(
        region: RegionId,
        what: &'static str,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Error::InvalidArgument {
            region,
            what,
            got: got.into(),
            expected: expected.into(),
        }
    }
}

/// Does a piece of a worker's work. A panic in it becomes an error, so that it ends neither the worker nor
/// what other regions wait for. What `work` changes must not be used any more after a panic.
pub(crate) fn catch_panic<T>(worker: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_string(),
            (_, Some(text)) => text.clone(),
            _ => "(no text)".to_string(),
        };
        tracing::error!(worker, message, "a worker panicked");
        Err(Error::WorkerPanicked { worker, message })
    })
}

/// For the streams of [`std::io`]: the kind that fits, with the error itself inside, which
/// [`std::io::Error::downcast`] gives back.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::DiskFull { .. } => ErrorKind::StorageFull,
            Error::Corruption { .. } => ErrorKind::InvalidData,
            _ => ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}

/// As raft-rs's own error: the five that it acts on keep their meaning, everything else is `Other`.
impl From<Error> for raft::Error {
    fn from(error: Error) -> Self {
        raft::Error::Store(match error {
            Error::Compacted { .. } => StorageError::Compacted,
            Error::Unavailable { .. } => StorageError::Unavailable,
            Error::LogTemporarilyUnavailable { .. } => StorageError::LogTemporarilyUnavailable,
            Error::SnapshotOutOfDate { .. } => StorageError::SnapshotOutOfDate,
            Error::SnapshotTemporarilyUnavailable { .. } => {
                StorageError::SnapshotTemporarilyUnavailable
            }
            other => StorageError::Other(Box::new(other)),
        })
    }
}
