//! Brings the content of a snapshot in as finished table files. Uses: types, error, app_store.
//!
//! The tables are written beside the database, in a directory of their own under its `import/`, so
//! that [`DataImport::finish`] only clears the range and renames.
//!
//! | step | what becomes durable | a crash after it |
//! |---|---|---|
//! | 1 | the tables, in `import/` | the next open removes them |
//! | 2 | the range cleared, and the record that names the tables | the next open takes the tables in |
//! | 3 | a table taken in; one after the other | the same |
//! | 4 | the record gone | nothing to do |

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rocksdb::{Options, ReadOptions, SstFileWriter};

use super::data::{delete_range, number};
use super::decided::{self, Decided};
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

/// An import in progress. Dropping it removes what it staged, unless it is decided.
pub(super) struct RocksImport {
    engine: Arc<Engine>,
    reclaim: Arc<Reclaim>,
    range: KeyRange,
    // Names it apart from the other imports of this open.
    id: u64,
    staging: PathBuf,
    options: Options,
    open: Option<OpenTable>,
    // The keyspace of every table, in the order of their keys.
    tables: Vec<Keyspace>,
    order: ImportOrder,
    // Why a table could not be written. What is staged has a hole then, and is never handed over.
    failure: Option<String>,
    // From the record on the tables are the database's: whoever has the next open needs them.
    is_decided: bool,
}

/// What [`DataImport::finish`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Staged,
    Decided,
    TakenIn(usize),
    Settled,
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
            id,
            staging: decided::staging(engine.path(), id),
            options: tables.clone(),
            engine,
            reclaim,
            range: range.clone(),
            open: None,
            tables: Vec::new(),
            order: ImportOrder::new(range),
            failure: None,
            is_decided: false,
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
        let path = decided::staged(self.engine.path(), self.id, self.tables.len());
        let table = Table::try_new(self.options.clone(), |options| {
            let writer = SstFileWriter::create(options);
            writer
                .open(&path)
                .map_err(|e| engine_error("create", &path, e))?;
            Ok::<_, Error>(writer)
        })?;
        self.tables.push(keyspace);
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

    /// The steps, each of which is told to `after` when it is done.
    fn finish_in_steps(&mut self, after: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.check_failure()?;
        self.end_table()?;
        if !self.tables.is_empty() {
            DiskFs.sync_dir(&self.staging)?;
            DiskFs.sync_dir(&self.engine.path().join(IMPORT))?;
        }
        after(Step::Staged)?;
        self.is_decided = true;
        let done = self.decide_and_take_in(after);
        if let Err(error) = &done {
            // What is written from here on would be overwritten by the next open.
            self.engine.poison(error);
        }
        done
    }

    fn decide_and_take_in(&mut self, after: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.decide()?;
        self.reclaim.forget(&self.range);
        after(Step::Decided)?;
        for (number, keyspace) in self.tables.iter().enumerate() {
            self.take_in(number, *keyspace)?;
            after(Step::TakenIn(number))?;
        }
        if !self.tables.is_empty() {
            let mut batch = self.engine.batch(0);
            let family = self.engine.family(self::number(Keyspace::Store));
            batch.delete_cf(family, Decided::key(self.id));
            self.engine.write(batch, Durability::Synced, 0)?;
        }
        self.is_decided = false;
        after(Step::Settled)
    }

    /// Step 2, in one batch. A range in which nothing is, a new replica's, is not cleared: a range
    /// tombstone over it would force the memtables out.
    fn decide(&self) -> Result<()> {
        let mut batch = self.engine.batch(0);
        for keyspace in Keyspace::APPLICATION {
            if self.has_key(keyspace)? {
                let KeyRange { start, end } = &self.range;
                delete_range(&self.engine, &mut batch, keyspace, start, end, None)?;
            }
        }
        if !self.tables.is_empty() {
            let decided = Decided {
                id: self.id,
                tables: self.tables.clone(),
            };
            let family = self.engine.family(number(Keyspace::Store));
            batch.put_cf(family, Decided::key(self.id), decided.value());
        }
        self.engine.write(batch, Durability::Synced, 0)
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

    fn take_in(&self, number: usize, keyspace: Keyspace) -> Result<()> {
        let path = self.engine.path();
        let family = self.engine.family(self::number(keyspace));
        let was_there = decided::take_in(path, self.id, number, |options, table| {
            self.engine.unless_poisoned("import into", |db| {
                db.ingest_external_file_cf_opts(family, options, vec![table])
            })
        })?;
        match was_there {
            true => Ok(()),
            false => Err(Error::corruption(
                None,
                format!("import into {}", path.display()),
                format!("the staged table {number} is gone"),
            )),
        }
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
        self.finish_in_steps(&mut |_| Ok(()))
    }
}

impl Drop for RocksImport {
    fn drop(&mut self) {
        self.open = None;
        if self.is_decided {
            return;
        }
        if let Err(error) = open::remove_dir(&self.staging) {
            tracing::warn!(%error, "an import's staging directory stays until the next open");
        }
    }
}

#[cfg(test)]
mod tests;
