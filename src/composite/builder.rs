//! A node put together: config, directory, and the backend of each layer. Uses: composite's opening.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::open::{check_ident, contents, ident_of, open_app, open_log, open_snapshots};
use super::{CompositeStorage, Parts};
use crate::app_store::ApplicationDataStorage;
use crate::config::{AppBackend, Config, LogBackend};
use crate::error::{Error, Result};
use crate::fs::{DiskFs, FileLock, FileSystem};
use crate::grouped_log::GroupedLog;
use crate::health::{Disk, HealthChecker, HealthLimits, HealthSetup, Layer};
use crate::indexed::{Extractor, IndexedData, has_indexes};
use crate::metrics::{DamagedSnapshots, MeteredParts};
use crate::node_dir::{Contents, NodeDir, Part};
use crate::peer_storage::Clock;
use crate::proto::StoreIdent;
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;
use crate::workers::SteppedWorkers;

/// What a [`CompositeStorage`] is put together from. Every part may be left out: the config is the default
/// one then, a layer the one that the config names, opened in the directory.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::MemoryData;
/// use peerstore::{CompositeStorage, Config, Region};
/// let dir = tempfile::tempdir()?;
/// let node = CompositeStorage::builder()
///     .config(Config::from_yaml_str("log: append_log")?)
///     .dir(dir.path())
///     .app(Arc::new(MemoryData::new())) // or one of your own
///     .open()?;
/// let storage = node.create_region(&Region::single(1, 1))?;
/// assert_eq!(storage.applied_index(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct CompositeBuilder {
    config: Config,
    dir: Option<PathBuf>,
    log: Option<Arc<dyn RaftLogStorage>>,
    app: Option<Arc<dyn ApplicationDataStorage>>,
    snapshots: Option<Arc<dyn RaftSnapshotStorage>>,
    fs: Option<Arc<dyn FileSystem>>,
    health: HealthLimits,
    extractors: BTreeMap<String, Extractor>,
}

impl CompositeBuilder {
    /// Stores that are open already.
    pub(super) fn of_parts(parts: Parts, config: &Config) -> Self {
        CompositeBuilder {
            config: config.clone(),
            log: Some(parts.log),
            app: Some(parts.app),
            snapshots: Some(parts.snapshots),
            ..CompositeBuilder::default()
        }
    }

    /// The settings. Of those that open a store, the ones of a layer that is given are not used.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where the layers are that are kept on disk and not given.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// The log of every region. Its fsyncs are grouped as the config says.
    #[must_use]
    pub fn log(mut self, log: Arc<dyn RaftLogStorage>) -> Self {
        self.log = Some(log);
        self
    }

    /// The data of every region.
    #[must_use]
    pub fn app(mut self, app: Arc<dyn ApplicationDataStorage>) -> Self {
        self.app = Some(app);
        self
    }

    /// The snapshots of every region.
    #[must_use]
    pub fn snapshots(mut self, snapshots: Arc<dyn RaftSnapshotStorage>) -> Self {
        self.snapshots = Some(snapshots);
        self
    }

    /// What an index of this name is made by: see [`IndexedData`]. The indexes that the config names are
    /// created at the open, others by [`KvCommand::CreateIndex`](crate::KvCommand::CreateIndex).
    #[must_use]
    pub fn extractor(mut self, name: impl Into<String>, extractor: Extractor) -> Self {
        self.extractors.insert(name.into(), extractor);
        self
    }

    /// The file system of the directory, instead of the machine's. RocksDB brings its own, so no layer
    /// may be in it.
    #[must_use]
    pub fn file_system(mut self, fs: Arc<dyn FileSystem>) -> Self {
        self.fs = Some(fs);
        self
    }

    /// From when on something counts as trouble in a check of the health.
    #[must_use]
    pub fn health_limits(mut self, limits: HealthLimits) -> Self {
        self.health = limits;
        self
    }

    /// Opens what was not given, and starts the node's workers. The directory and everything in it is
    /// durable on return.
    ///
    /// # Errors
    /// `Config`, also where a layer is to be on disk and there is no directory; `StoreNotFound`,
    /// `ForeignDirectory`, `IncompleteStore`, `ForeignStore`, `UnsupportedVersion`: nothing was touched
    /// then; `IndexWithoutExtractor` if the config names an index, or the store has one, whose extractor was
    /// not given; `Locked`; `Io` if the system gives no thread; those of the stores.
    pub fn open(self) -> Result<CompositeStorage> {
        let opened = self.assemble()?;
        CompositeStorage::start(opened)
    }

    /// The same without threads: see [`CompositeStorage::from_parts_stepped`].
    ///
    /// # Errors
    /// As [`CompositeBuilder::open`].
    pub fn open_stepped(self) -> Result<(CompositeStorage, SteppedWorkers)> {
        let opened = self.assemble()?;
        CompositeStorage::stepped(opened)
    }

    fn assemble(self) -> Result<Opened> {
        let config = self.config;
        config.validate()?;
        check_extractors(&config.indexes, &self.extractors)?;
        let mut on_disk = contents(&config);
        on_disk.parts.retain(|(part, _)| match part {
            Part::Raft => self.log.is_none(),
            Part::Kv => self.app.is_none(),
            Part::Snapshots => self.snapshots.is_none(),
        });
        let uses_rocksdb = self.log.is_none() && config.log == LogBackend::Rocksdb
            || self.app.is_none() && config.app == AppBackend::Rocksdb;
        if self.fs.is_some() && uses_rocksdb {
            return Err(refused(
                "file_system: got one, expected none with a layer in rocksdb, which brings its own",
            ));
        }
        let fs = self.fs.unwrap_or_else(|| Arc::new(DiskFs));
        let place = place_of(self.dir, &on_disk)?;
        let node_dir = match &place {
            Some(dir) => Some(NodeDir::open(
                &*fs,
                dir,
                config.create_if_missing,
                &on_disk,
            )?),
            None => None,
        };
        let metered = MeteredParts::new(&fs);
        // Never read where no layer is on disk.
        let dir = place.as_deref().unwrap_or(Path::new(""));
        let snapshots = match self.snapshots {
            Some(snapshots) => snapshots,
            None => open_snapshots(metered.snapshots(), dir, &config)?,
        };
        let log = match self.log {
            Some(log) => log,
            None => open_log(metered.log(), dir, &config)?,
        };
        let app = match self.app {
            Some(app) => app,
            None => open_app(dir, &config)?,
        };
        let (ident, lock) = match node_dir {
            Some(node_dir) => {
                let ident = check_ident(dir, &config, &*app)?;
                (ident, Some(node_dir.finish(&*fs, &on_disk)?))
            }
            None => (ident_of(&config), None),
        };
        let app = with_indexes(app, &self.extractors, &config.indexes)?;
        let parts = Parts {
            log: GroupedLog::wrap(log, config.sync_policy, config.group_policy()),
            app,
            snapshots: metered.begin(snapshots, ident.store_id),
        };
        Ok(Opened {
            parts,
            config,
            ident,
            lock,
            disks: disks(&on_disk, &fs, dir),
            damaged: Arc::clone(metered.damaged()),
            limits: self.health,
        })
    }
}

/// The directory, if a layer is to be kept in it.
///
/// # Errors
/// `Config` if there is none.
fn place_of(dir: Option<PathBuf>, on_disk: &Contents) -> Result<Option<PathBuf>> {
    match (on_disk.parts.is_empty(), dir) {
        (true, _) => Ok(None),
        (false, Some(dir)) => Ok(Some(dir)),
        (false, None) => Err(refused(
            "dir: got none, expected one: a layer is to be kept on disk",
        )),
    }
}

/// Where the layers are that are kept on disk.
fn disks(on_disk: &Contents, fs: &Arc<dyn FileSystem>, dir: &Path) -> Vec<Disk> {
    let disk = |(part, _): &(Part, _)| Disk {
        layer: match part {
            Part::Raft => Layer::Log,
            Part::Kv => Layer::App,
            Part::Snapshots => Layer::Snapshots,
        },
        fs: Arc::clone(fs),
        path: dir.join(part.name()),
    };
    on_disk.parts.iter().map(disk).collect()
}

/// Whether each index of the config has its extractor.
fn check_extractors(wanted: &[String], extractors: &BTreeMap<String, Extractor>) -> Result<()> {
    match wanted.iter().find(|name| !extractors.contains_key(*name)) {
        Some(name) => Err(Error::IndexWithoutExtractor { name: name.clone() }),
        None => Ok(()),
    }
}

/// The data with its indexes, where there are any or can be.
fn with_indexes(
    app: Arc<dyn ApplicationDataStorage>,
    extractors: &BTreeMap<String, Extractor>,
    wanted: &[String],
) -> Result<Arc<dyn ApplicationDataStorage>> {
    // Without extractors it is opened for the error: what is written past an index makes it wrong.
    if extractors.is_empty() && !has_indexes(&*app)? {
        return Ok(app);
    }
    let named = extractors.iter().map(|(n, e)| (n.as_str(), Arc::clone(e)));
    let indexed = IndexedData::open(app, named)?;
    let present = indexed.indexes();
    for name in wanted.iter().filter(|name| !present.contains(name)) {
        indexed.create_index(name)?;
    }
    Ok(Arc::new(indexed))
}

/// A node before anything of it runs.
pub(super) struct Opened {
    pub parts: Parts,
    pub config: Config,
    pub ident: StoreIdent,
    pub lock: Option<Box<dyn FileLock>>,
    pub disks: Vec<Disk>,
    pub damaged: Arc<DamagedSnapshots>,
    pub limits: HealthLimits,
}

impl Opened {
    /// What checks the health of it.
    pub fn health(&mut self, clock: &Clock) -> Arc<HealthChecker> {
        let ms = self.config.health_interval_ms;
        let setup = HealthSetup {
            log: Arc::clone(&self.parts.log),
            app: Arc::clone(&self.parts.app),
            snapshots: Arc::clone(&self.parts.snapshots),
            damaged: Arc::clone(&self.damaged),
            disks: std::mem::take(&mut self.disks),
            limits: self.limits,
            clock: clock.clone(),
            interval: (ms > 0).then(|| Duration::from_millis(ms)),
        };
        HealthChecker::new(setup, self.ident.store_id)
    }
}

fn refused(message: &str) -> Error {
    Error::Config {
        path: None,
        message: message.into(),
    }
}
