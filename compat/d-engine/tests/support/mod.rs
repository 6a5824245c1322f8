//! What the tests share: the stores that everything is tried on, and builders as d-engine's suites want
//! them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use d_engine_core::state_machine_test::StateMachineBuilder;
use d_engine_core::storage_engine_test::StorageEngineBuilder;
use d_engine_core::{ApplyEntry, Command, Error, HardState, StateMachine};
use d_engine_proto::common::{Entry, EntryPayload, entry_payload::Payload};
use d_engine_proto::server::election::VotedFor;
use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{AppBackend, CompositeStorage, Config, LogBackend, Parts};
use peerstore_d_engine::{Options, PeerstoreEngine, PeerstoreStateMachine, Persistence};

/// Where the log and the data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// The append-only log, the data in memory.
    AppendLog,
    /// Both in memory. What closes is kept, to be opened again.
    Memory,
    /// The append-only log, the data in RocksDB.
    #[cfg(feature = "rocksdb")]
    AppendLogAndRocks,
    /// Both in RocksDB.
    #[cfg(feature = "rocksdb")]
    Rocks,
}

/// Where a log is tried.
pub const LOGS: &[Stores] = &[
    Stores::AppendLog,
    Stores::Memory,
    #[cfg(feature = "rocksdb")]
    Stores::Rocks,
];

/// Where the data is tried.
pub const DATA: &[Stores] = &[
    Stores::Memory,
    #[cfg(feature = "rocksdb")]
    Stores::AppendLogAndRocks,
    #[cfg(feature = "rocksdb")]
    Stores::Rocks,
];

/// Both ways to persist.
pub const PERSISTENCES: [Persistence; 2] = [Persistence::DiskFirst, Persistence::MemFirst];

/// A node that is opened again and again.
pub struct Home {
    stores: Stores,
    persistence: Persistence,
    dir: PathBuf,
    // What `Stores::Memory` and the data of `Stores::AppendLog` outlive a process with.
    memory: (Arc<MemoryLog>, Arc<MemoryData>, Arc<MemorySnapshots>),
    now_ms: Arc<AtomicU64>,
}

impl Home {
    pub fn new(dir: &Path, stores: Stores, persistence: Persistence) -> Self {
        Home {
            stores,
            persistence,
            dir: dir.to_path_buf(),
            memory: Default::default(),
            now_ms: Arc::new(AtomicU64::new(1_000_000)),
        }
    }

    pub fn node(&self) -> Result<CompositeStorage, peerstore::Error> {
        let mut config = Config::default();
        config.app = AppBackend::Memory;
        config.log = match self.stores {
            Stores::AppendLog => LogBackend::AppendLog,
            Stores::Memory => {
                let (log, app, snapshots) = self.memory.clone();
                let parts = Parts {
                    log,
                    app,
                    snapshots,
                };
                return CompositeStorage::from_parts(parts, &config);
            }
            #[cfg(feature = "rocksdb")]
            Stores::AppendLogAndRocks => {
                config.app = AppBackend::Rocksdb;
                LogBackend::AppendLog
            }
            #[cfg(feature = "rocksdb")]
            Stores::Rocks => {
                config.app = AppBackend::Rocksdb;
                LogBackend::Rocksdb
            }
        };
        CompositeStorage::open(&self.dir, config)
    }

    pub fn open(&self) -> Result<(PeerstoreEngine, PeerstoreStateMachine), Error> {
        let node = self.node().map_err(|e| Error::Fatal(e.to_string()))?;
        let now_ms = Arc::clone(&self.now_ms);
        let options = Options {
            persistence: self.persistence,
            now_ms: Arc::new(move || now_ms.load(Ordering::SeqCst)),
            ..Options::default()
        };
        peerstore_d_engine::open(&Arc::new(node), options)
    }

    /// The log of `Stores::Memory`.
    pub fn memory_log(&self) -> &MemoryLog {
        &self.memory.0
    }

    /// The data of `Stores::Memory`.
    pub fn memory_data(&self) -> &MemoryData {
        &self.memory.1
    }

    /// Lets the time of the leases go on.
    pub fn advance_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

/// Opens homes for a suite. A case that opens twice without a new home finds what it left.
pub struct Builder {
    stores: Stores,
    persistence: Persistence,
    root: tempfile::TempDir,
    home: Mutex<Option<Arc<Home>>>,
    // The builds, counted from 1, that open what was there: none, if a case brings its own builder.
    reopens: Option<&'static [usize]>,
    builds: Arc<AtomicUsize>,
}

impl Builder {
    /// For one case: all its builds open one home.
    pub fn of_case(stores: Stores, persistence: Persistence) -> Self {
        Builder {
            stores,
            persistence,
            root: tempfile::tempdir().unwrap(),
            home: Mutex::new(None),
            reopens: None,
            builds: Arc::default(),
        }
    }

    /// For a whole suite, whose cases expect to find nothing: each build has a new home, but for those of
    /// `reopens`.
    pub fn of_suite(
        stores: Stores,
        persistence: Persistence,
        reopens: &'static [usize],
    ) -> (Self, Arc<AtomicUsize>) {
        let builder = Builder {
            reopens: Some(reopens),
            ..Builder::of_case(stores, persistence)
        };
        let builds = Arc::clone(&builder.builds);
        (builder, builds)
    }

    fn home(&self) -> Arc<Home> {
        let build = self.builds.fetch_add(1, Ordering::SeqCst) + 1;
        let mut home = self.home.lock().unwrap();
        let goes_on = self.reopens.is_none_or(|reopens| reopens.contains(&build));
        if !goes_on {
            *home = None;
        }
        let new = || {
            let dir = self.root.path().join(build.to_string());
            Arc::new(Home::new(&dir, self.stores, self.persistence))
        };
        Arc::clone(home.get_or_insert_with(new))
    }
}

#[async_trait]
impl StorageEngineBuilder for Builder {
    type Engine = PeerstoreEngine;

    async fn build(&self) -> Result<Arc<PeerstoreEngine>, Error> {
        Ok(Arc::new(self.home().open()?.0))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The same for state machines.
#[async_trait]
impl StateMachineBuilder for Builder {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(self.home().open()?.1))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Runs a case of the storage suite with every log and both ways to persist.
pub async fn on_every_log<F>(case: impl Fn(Builder) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    for stores in LOGS {
        for persistence in PERSISTENCES {
            println!("on {stores:?}, {persistence:?}");
            case(Builder::of_case(*stores, persistence)).await.unwrap();
        }
    }
}

/// Runs a case of the state machine suite on every data store.
pub async fn on_all_data<F>(case: impl Fn(Builder) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    for stores in DATA {
        println!("on {stores:?}");
        let builder = Builder::of_case(*stores, Persistence::DiskFirst);
        case(builder).await.unwrap();
    }
}

/// Every field of a hard state, which cannot be compared itself.
pub fn fields(state: Option<HardState>) -> Option<(u64, Option<VotedFor>)> {
    state.map(|state| (state.current_term, state.voted_for))
}

/// An entry with a payload that tells it from others of its index.
pub fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        payload: Some(EntryPayload {
            payload: Some(Payload::Command(format!("{index} of {term}").into())),
        }),
    }
}

pub fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term)).collect()
}

pub fn insert(index: u64, key: &str, value: &str) -> ApplyEntry {
    insert_until(index, key, value, None)
}

pub fn insert_until(index: u64, key: &str, value: &str, ttl_secs: Option<u64>) -> ApplyEntry {
    ApplyEntry {
        index,
        term: 1,
        command: Command::Insert {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ttl_secs,
        },
    }
}

pub fn swap(index: u64, key: &str, expected: Option<&str>, value: &str) -> ApplyEntry {
    ApplyEntry {
        index,
        term: 1,
        command: Command::CompareAndSwap {
            key: key.to_owned().into(),
            expected: expected.map(|text| text.to_owned().into()),
            value: value.to_owned().into(),
        },
    }
}
