//! The durable storage that raft-rs leaves to its user.
#![deny(missing_docs)]

mod app_store;
mod composite;
mod conf;
mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod dot;
mod entry_cache;
mod error;
mod fs;
pub mod keys;
mod logger;
pub mod memory;
mod node_dir;
mod peer_storage;
mod proto;
mod raft_log;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod size;
pub mod snapshot_dir;
mod snapshot_format;
mod snapshot_store;
mod state_machine;
mod types;
mod workers;

pub use app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
pub use composite::{CompositeStorage, Parts};
pub use config::{
    AppBackend, Compression, Config, LogBackend, RocksConfig, SnapshotBackend, SnapshotConfig,
};
pub use entry_cache::CacheStats;
pub use error::{Error, RecoveryError, Result};
pub use fs::{DiskFs, File, FileLock, FileSystem};
pub use logger::raft_logger;
pub use peer_storage::{
    Engines, GcInput, GcPolicy, PeerStorage, RaftSnapshotData, SNAPSHOT_DATA_VERSION,
    SNAPSHOT_TRANSITIONS, SnapshotState, Staged,
};
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

/// Compiles and runs the readme's program.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
