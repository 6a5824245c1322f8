//! The durable storage that [raft-rs](raft) 0.7 leaves to its user.
//!
//! raft-rs decides what has to be written, and ships a storage that forgets everything with its
//! process. This crate is the other one: the log, the votes, the applied index, the configuration and
//! the snapshots of any number of raft groups, durable in one directory, in TiKV's PeerStorage model.
//!
//! - [`PeerStorage`] is what you put under a [`raft::RawNode`]: one region, that is one raft group.
//! - [`CompositeStorage`] is one node: the directory with all its regions.
//! - [`Store`] drives every region of a node, with the other stores of its cluster.
//!
//! # The whole of it
//!
//! A region of one voter: propose, make durable, apply, and find it all again after a restart.
//!
//! ```
//! use peerstore::{CompositeStorage, Config, PeerStorage, Region, raft_logger};
//! use raft::{RawNode, eraftpb::Entry};
//!
//! fn apply(storage: &mut PeerStorage, committed: &[Entry]) -> peerstore::Result<()> {
//!     storage.apply(committed, |entry, batch| {
//!         if !entry.data.is_empty() {
//!             batch.put("greeting", &entry.data); // or whatever the entry means to you
//!         }
//!         Ok(())
//!     })
//! }
//!
//! let dir = tempfile::tempdir()?;
//! let node = CompositeStorage::open(dir.path(), Config::default())?;
//! let storage = node.create_region(&Region::single(1, 1))?; // region 1, its only peer is 1
//! let mut raft = RawNode::new(&storage.raft_config(), storage, &raft_logger())?;
//! raft.campaign()?;
//! raft.propose(Vec::new(), b"hello".to_vec())?;
//! while raft.has_ready() {
//!     let mut ready = raft.ready();
//!     apply(raft.mut_store(), &ready.take_committed_entries())?;
//!     raft.mut_store().persist(&mut ready)?; // one batch, one fsync: now messages may leave
//!     let mut light = raft.advance_append(ready);
//!     apply(raft.mut_store(), &light.take_committed_entries())?;
//!     raft.advance_apply_to(raft.store().applied_index());
//! }
//! drop(raft); // a crash would do
//! let storage = node.open_region(1)?;
//! assert_eq!(storage.get(b"greeting")?.as_deref(), Some(&b"hello"[..]));
//! assert_eq!(storage.applied_index(), 7); // 5 is where a region starts, 6 the election
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Four rules, and the storage sees to the rest:
//!
//! 1. Start raft with [`PeerStorage::raft_config`]: it carries the durable applied index.
//! 2. [`PeerStorage::persist`] each `Ready` before its persisted messages leave.
//! 3. [`PeerStorage::apply`] committed entries: your data and the applied index are one batch.
//! 4. Where an entry changes the members, give what `RawNode::apply_conf_change` answers to
//!    [`ApplyBatch::set_conf_state`], in the batch of that entry.
//!
//! # What next
//!
//! | you want to | look at |
//! |---|---|
//! | have many regions driven: elections, reads, members, splits, merges | [`Store`], which calls all of the above for you |
//! | connect stores | [`tcp`], or a [`Transport`] and a [`Placement`] of your own |
//! | simulate a cluster on one thread | [`SteppedStore`], [`memory::MemoryNetwork`] |
//! | drive many regions with one fsync | [`PeerStorage::stage`], [`CompositeStorage::write_log`], [`PeerStorage::persisted`] |
//! | keep the log short | [`PeerStorage::compact`], [`PeerStorage::compact_by_policy`], [`GcPolicy`] |
//! | send and install snapshots | [`PeerStorage::wait_snapshot`], [`RaftSnapshotStorage::send`], [`RaftSnapshotStorage::receive`], [`SnapshotState`] |
//! | read and write snapshots in async code | `async_io`, and [`Ticket`] is a future of any runtime |
//! | not block on cold entries | [`PeerStorage::take_fetched`] |
//! | add a peer that has nothing | [`CompositeStorage::create_uninitialized`] |
//! | set a node up | [`Config`], from code or from YAML |
//! | bring a log or a data store of your own | [`RaftLogStorage`], [`ApplicationDataStorage`], [`CompositeStorage::from_parts`], and the suites of `conformance` |
//! | scan page by page, or in transactions | [`Scan`], [`ReadTransaction`], [`TransactionalStorage`] |
//! | let values expire, find keys by their values | [`KvCommand::PutUntil`], [`IndexedData`] |
//! | take data out and in again | [`export_data`], [`check_export`], [`import_data`] |
//! | write a state machine, or take one of keys and values | [`StateMachine`], [`ApplyBatch`], [`KvStateMachine`] |
//! | test against power cuts, failing disks and bad networks | [`memory`] |
//! | run under openraft instead of raft-rs | `openraft`, with the feature of that name |
//! | see a region | [`dot::live`] |
//! | know whether a node is well | [`CompositeStorage::health`], [`NodeHealth`] |
//! | watch a node | [`metrics`], [`Store::report_metrics`] |
//! | know what an error asks of you | [`Error`], [`RecoveryError`] |
//!
//! # What it promises
//!
//! - A call that returned has made durable what its documentation says, and one that failed has changed
//!   nothing, in memory or on disk.
//! - Opening a region checks everything that raft-rs relies on. What would make `RawNode::new` panic, or
//!   lose a vote or an acknowledged entry, is a [`RecoveryError`] that says what contradicts what.
//! - After a failed write or fsync a store refuses writes ([`Error::Poisoned`]) until it is opened again.
//! - What is read was checked; damage is an error, never other bytes.
//!
//! How it does that, and what every crash leaves behind, is in `docs/architecture.md`; what is on disk in
//! `docs/data-model.md`. Indexes: ranges are half-open, `[low, high)`; a position is inclusive.
//!
//! # Features
//!
//! | feature | what it brings | default |
//! |---|---|---|
//! | `rocksdb` | the RocksDB log and data stores, `rocks`; without it the crate builds in two minutes, and has the memory backends and your own | yes |
//! | `protobuf-codec` | raft-rs's messages by rust-protobuf | yes |
//! | `prost-codec` | raft-rs's messages by prost, instead; what is on disk is the same | |
//! | `tls` | encryption and mutual authentication between stores, by rustls | yes |
//! | `tokio` | snapshots for async code, `async_io` | |
//! | `conformance` | the suites that hold a backend to its contract, `conformance` | |
//! | `openraft` | log, state machine and snapshots under openraft 0.9, `openraft` | |
//!
//! Exactly one codec has to be on, the one that your program uses.
#![deny(missing_docs)]

// What the tests outside are tried on serves the tests inside as well.
#[cfg(test)]
extern crate self as peerstore;

mod app_store;
#[cfg(feature = "tokio")]
pub mod async_io;
mod command;
mod composite;
mod conf;
mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod dot;
mod entry_cache;
mod error;
mod expiry;
mod export;
mod fs;
mod grouped_log;
mod health;
mod index;
mod indexed;
pub mod keys;
mod kv;
mod logger;
mod mailbox;
pub mod memory;
pub mod metrics;
mod node_dir;
#[cfg(feature = "openraft")]
pub mod openraft;
mod peer;
mod peer_storage;
mod persistence;
mod placement;
mod proto;
mod raft_log;
mod reader;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod scan;
pub mod segment_log;
mod size;
mod snapshot_data;
pub mod snapshot_dir;
mod snapshot_format;
mod snapshot_store;
mod state_machine;
mod store;
pub mod tcp;
mod ticket;
mod transaction;
mod transport;
mod types;
mod workers;

pub use app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
pub use composite::{CompositeBuilder, CompositeMetrics, CompositeStorage, Parts, RaftLogStats};
pub use config::{
    AppBackend, AppendLogConfig, CompactionStyle, Config, LogBackend, MemoryConfig, RocksConfig,
    SnapshotBackend, SnapshotConfig, StoreConfig, TlsConfig, TransportConfig,
};
pub use entry_cache::CacheStats;
pub use error::{Error, RecoveryError, Result};
pub use export::{check_export, export_data, import_data};
pub use fs::{DiskFs, File, FileLock, FileSystem};
pub use grouped_log::GroupedLog;
pub use health::{HealthLimits, HealthStatus, NodeHealth};
pub use index::IndexQuery;
pub use indexed::{Extractor, IndexedData};
pub use kv::{KvCommand, KvRefusal, KvReply, KvStateMachine};
pub use logger::raft_logger;
pub use peer::REGION_TRANSITIONS;
pub use peer_storage::{
    GcInput, GcPolicy, PeerStorage, SNAPSHOT_TRANSITIONS, SnapshotPolicy, SnapshotState, Staged,
};
pub use persistence::{FlushPolicy, PersistenceStrategy, SyncPolicy};
pub use placement::StaticPlacement;
pub use proto::{
    INITIAL_INDEX, INITIAL_TERM, MergeState, Peer, PeerRole, PeerState, RaftApplyState,
    RaftLocalState, RaftTruncatedState, Region, RegionEpoch, RegionLocalState, StoreIdent,
};
pub use raft_log::{LogBatch, LogOp, LogStats, LogUsage, RaftLogStorage};
pub use reader::Reader;
pub use scan::{Cursor, Page, Scan};
pub use snapshot_data::{RaftSnapshotData, SNAPSHOT_DATA_VERSION};
pub use snapshot_store::{
    CleanUp, Codec, Compression, DAMAGE_MAX, RaftSnapshotStorage, Retention, SnapshotDamage,
    SnapshotFile, SnapshotId, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotPart,
    SnapshotReader, SnapshotReceiver, SnapshotReport, SnapshotTransfer, SnapshotWriter,
};
pub use state_machine::{ApplyBatch, Present, StateMachine};
pub use store::{
    ChangePeer, ExpiryOptions, RegionProgress, RegionStage, RegionStatus, SteppedStore, Store,
    StoreOptions, StorePart, StoreStats,
};
pub use ticket::Ticket;
pub use transaction::{DataTransaction, ReadTransaction, TransactionalStorage, WriteTransaction};
pub use transport::{
    ENTRIES_MAX, Inbox, MessageError, PeerBody, PeerMessage, Placement, RegionReport, StoreMessage,
    Transport, TransportStats,
};
pub use types::{Durability, KeyRange, LogPosition, PeerId, RegionId};
pub use workers::SteppedWorkers;

/// Compiles and runs the readme's program.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
