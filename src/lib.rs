//! The durable storage that raft-rs leaves to its user.
#![deny(missing_docs)]

mod app_store;
mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod fs;
pub mod keys;
mod logger;
pub mod memory;
mod proto;
mod raft_log;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod snapshot_dir;
mod snapshot_store;
mod state_machine;
mod types;

pub use app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
pub use config::{
    AppBackend, Compression, Config, GcPolicy, LogBackend, RocksConfig, SnapshotBackend,
    SnapshotConfig,
};
pub use error::{Error, RecoveryError, Result};
pub use fs::{File, FileLock, FileSystem};
pub use logger::raft_logger;
pub use proto::{
    INITIAL_INDEX, INITIAL_TERM, MergeState, Peer, PeerRole, PeerState, RaftApplyState,
    RaftLocalState, RaftTruncatedState, Region, RegionEpoch, RegionLocalState, StoreIdent,
};
pub use raft_log::{LogBatch, LogOp, LogStats, RaftLogStorage};
pub use snapshot_store::{
    RaftSnapshotStorage, SnapshotFile, SnapshotId, SnapshotInfo, SnapshotKey, SnapshotMeta,
    SnapshotReader, SnapshotReceiver, SnapshotVerdict, SnapshotWriter,
};
pub use state_machine::{ApplyBatch, StateMachine};
pub use types::{Durability, KeyRange, LogPosition, PeerId, RegionId};
