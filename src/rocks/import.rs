//! Brings the content of a snapshot in as finished table files. Uses: types, error, app_store.
//!
//! The tables are written beside the database, in a directory of their own under its `import/`, so
//! that [`DataImport::finish`] only clears the range and renames. What is left behind by a crash goes
//! at the next open, which may need a table of it first.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rocksdb::{IngestExternalFileOptions, Options, ReadOptions, SstFileWriter};

use super::data::{delete_range, number};
use super::engine::{Engine, engine_error};
use super::open::{self, IMPORT};
use super::reclaim::Reclaim;
use crate::app_store::{DataImport, ImportOrder, Keyspace};
use crate::error::{Error, Result};
use crate::fs::{DiskFs, FileSystem as _};
use crate::types::{Durability, KeyRange};

/// A table is closed when it has reached this size.
const TABLE_BYTES: u64 = 64 << 20;
/// How often the size of the table is looked at, in bytes of keys and values.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

self_cell::self_cell!(
    /// A table that is being written, and the options that it is written with.
    struct Table {
        owner: Options,
        #[covariant]
        dependent: SstFileWriter,
    }
);

/// An import in progress. Dropping it removes what it staged.
pub(super) struct RocksImport {
    engine: Arc<Engine>,
    reclaim: Arc<Reclaim>,
    range: KeyRange,
    staging: PathBuf,
    options: Options,
    open: Option<OpenTable>,
    // The keyspace and path of every table, in the order of their keys.
    tables: Vec<(Keyspace, PathBuf)>,
    order: ImportOrder,
    // Why a table could not be written. What is staged has a hole then, and is never handed over.
    failure: Option<String>,
}

struct OpenTable {
    table: Table,
    unlooked_bytes: u64,
}

impl RocksImport {
    pub(super) fn begin(
        engine: Arc<Engine>,
        reclaim: Arc<Reclaim>,
        imports: &AtomicU64,
        tables: &Options,
        range: &KeyRange,
    ) -> RocksImport {
        let id = imports.fetch_add(1, Relaxed);
        RocksImport {
            staging: engine.path().join(IMPORT).join(id.to_string()),
            options: tables.clone(),
            engine,
            reclaim,
            range: range.clone(),
            open: None,
            tables: Vec::new(),
            order: ImportOrder::new(range),
            failure: None,
        }
    }

    fn check_failure(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(message) => Err(Error::Engine {
                op: "go on with an import into",
                path: self.engine.path().to_path_buf(),
                message: message.clone(),
            }),
        }
    }

    fn add(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8], is_first: bool) -> Result<()> {
        if is_first {
            self.end_table()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start_table(keyspace)?,
        };
        let put = open
            .table
            .with_dependent_mut(|_, writer| writer.put(key, value));
        put.map_err(|e| engine_error("write a table in", &self.staging, e))?;
        open.unlooked_bytes += (key.len() + value.len()) as u64;
        let look = open.unlooked_bytes >= LOOK_EVERY_BYTES;
        if look {
            open.unlooked_bytes = 0;
        }
        let full = look && open.table.borrow_dependent().file_size() >= TABLE_BYTES;
        self.open = Some(open);
        if full {
            self.end_table()?;
        }
        Ok(())
    }

    fn start_table(&mut self, keyspace: Keyspace) -> Result<OpenTable> {
        fs::create_dir_all(&self.staging).map_err(|e| Error::io("create", &self.staging, e))?;
        DiskFs.sync_dir(self.engine.path())?;
        let path = self.staging.join(format!("{:06}.sst", self.tables.len()));
        let table = Table::try_new(self.options.clone(), |options| {
            let writer = SstFileWriter::create(options);
            writer
                .open(&path)
                .map_err(|e| engine_error("create", &path, e))?;
            Ok::<_, Error>(writer)
        })?;
        self.tables.push((keyspace, path));
        Ok(OpenTable {
            table,
            unlooked_bytes: 0,
        })
    }

    /// Ends the open table; it is synced.
    fn end_table(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let ended = open.table.with_dependent_mut(|_, writer| writer.finish());
        ended.map_err(|e| engine_error("finish a table in", &self.staging, e))
    }

    /// Clears the range, unless nothing is in it: a new replica's is empty, and a range tombstone over
    /// it would force the memtables out.
    fn clear_range(&self) -> Result<()> {
        let mut batch = self.engine.batch(0);
        let mut found = false;
        for keyspace in Keyspace::APPLICATION {
            if self.has_key(keyspace)? {
                let KeyRange { start, end } = &self.range;
                delete_range(&self.engine, &mut batch, keyspace, start, end, None)?;
                found = true;
            }
        }
        match found {
            true => self.engine.write(batch, Durability::Synced, 0),
            false => self.engine.sync(),
        }
    }

    fn has_key(&self, keyspace: Keyspace) -> Result<bool> {
        let mut options = ReadOptions::default();
        if !self.range.end.is_empty() {
            options.set_iterate_upper_bound(self.range.end.as_slice());
        }
        let family = self.engine.family(number(keyspace));
        let mut keys = self.engine.db().raw_iterator_cf_opt(family, options);
        keys.seek(&self.range.start);
        keys.status()
            .map_err(|e| self.engine.read_error(None, keyspace.name(), e))?;
        Ok(keys.valid())
    }

    /// Hands the tables over, one by one. RocksDB renames them, and syncs them, its directory and its
    /// manifest. While it does, the table has a durable name of its own: an open that misses the table
    /// finds it there.
    fn ingest(&self) -> Result<()> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for (number, (keyspace, table)) in self.tables.iter().enumerate() {
            let in_doubt = self.in_doubt(number);
            fs::rename(table, &in_doubt).map_err(|e| Error::io("rename", table, e))?;
            DiskFs.sync_dir(&self.engine.path().join(IMPORT))?;
            let family = self.engine.family(self::number(*keyspace));
            self.engine.unless_poisoned("import into", |db| {
                db.ingest_external_file_cf_opts(family, &options, vec![&in_doubt])
            })?;
        }
        Ok(())
    }

    /// Where a table lies while RocksDB takes it in.
    fn in_doubt(&self, number: usize) -> PathBuf {
        self.staging.with_extension(format!("{number:06}.sst"))
    }
}

impl DataImport for RocksImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.check_failure()?;
        let is_first = self.order.take(keyspace, key)?;
        let added = self.add(keyspace, key, value, is_first);
        if let Err(error) = &added {
            self.failure = Some(error.to_string());
        }
        added
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.check_failure()?;
        self.end_table()?;
        self.clear_range()?;
        self.reclaim.forget(&self.range);
        self.ingest()
    }
}

impl Drop for RocksImport {
    fn drop(&mut self) {
        self.open = None;
        if let Err(error) = open::remove_dir(&self.staging) {
            tracing::warn!(%error, "an import's staging directory stays until the next open");
        }
    }
}
