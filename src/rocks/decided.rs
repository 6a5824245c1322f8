//! Imports that are decided: the record that says so, and their end, also after a crash. Uses: error,
//! app_store, fs.
//!
//! An import is switched to by one batch, which clears its range and puts a record that names the staged
//! tables. From then on they are taken in, whoever does it: the import, or the next open. What the record
//! names and is not there any more was taken in before: RocksDB removes a table from where it was staged
//! after its manifest is durable, and not earlier.
//!
//! ```text
//! key   := PREFIX, id u64 BE             id: of the directory in which the tables are staged
//! value := keyspace u8 for each table    (1 data, 2 index, 3 ttl)
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rocksdb::{IngestExternalFileOptions, WriteBatch, WriteOptions};

use super::engine::{Db, engine_error};
use super::open::IMPORT;
use super::wal::Mark;
use crate::app_store::Keyspace;
use crate::error::{Error, Result};
use crate::fs::{DiskFs, FileSystem as _};

const PREFIX: &[u8] = b"\xfeimport/";

/// The tables of an import, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub id: u64,
    pub tables: Vec<Keyspace>,
}

impl Decided {
    /// Under which key of [`Keyspace::Store`] the record of import `id` lies.
    pub fn key(id: u64) -> Vec<u8> {
        [PREFIX, &id.to_be_bytes()].concat()
    }

    /// The bytes of the record.
    pub fn value(&self) -> Vec<u8> {
        let number = |keyspace: &Keyspace| {
            let place = Keyspace::APPLICATION.iter().position(|k| k == keyspace);
            place.expect("an import takes no other keyspace") as u8 + 1
        };
        self.tables.iter().map(number).collect()
    }

    fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let id = u64::from_be_bytes(key.strip_prefix(PREFIX)?.try_into().ok()?);
        let keyspace = |number: &u8| {
            let place = usize::from(*number).checked_sub(1)?;
            Keyspace::APPLICATION.get(place).copied()
        };
        let tables = value.iter().map(keyspace).collect::<Option<_>>()?;
        Some(Decided { id, tables })
    }
}

/// Where the import `id` stages its tables.
pub(super) fn staging(dir: &Path, id: u64) -> PathBuf {
    dir.join(IMPORT).join(id.to_string())
}

/// Where a table lies before it is taken in.
pub(super) fn staged(dir: &Path, id: u64, number: usize) -> PathBuf {
    staging(dir, id).join(format!("{number:06}.sst"))
}

/// Hands a table over by `ingest`: RocksDB renames it, and syncs it, its directory and its manifest.
/// While it does, the table has a durable name of its own: an open that misses the table finds it there.
/// Answers whether the table was still there.
pub(super) fn take_in(
    dir: &Path,
    id: u64,
    number: usize,
    ingest: impl FnOnce(&IngestExternalFileOptions, &Path) -> Result<()>,
) -> Result<bool> {
    let staged = staged(dir, id, number);
    let in_doubt = staging(dir, id).with_extension(format!("{number:06}.sst"));
    match fs::rename(&staged, &in_doubt) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && in_doubt.exists() => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("rename", &staged, e)),
    }
    DiskFs.sync_dir(&dir.join(IMPORT))?;
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    ingest(&options, &in_doubt)?;
    Ok(true)
}

/// Brings to their end the imports that were decided when the database was last used. A table that was
/// taken in already may be taken in again: nobody has written to its range since.
pub(super) fn finish_all(db: &Db, dir: &Path) -> Result<()> {
    // The log's database has none.
    let Some(store) = db.cf_handle(Keyspace::Store.name()) else {
        return Ok(());
    };
    let mut keys = db.raw_iterator_cf(&store);
    keys.seek(PREFIX);
    let mut found = Vec::new();
    while let Some((key, value)) = keys.item().filter(|(key, _)| key.starts_with(PREFIX)) {
        let decided = Decided::parse(key, value).ok_or_else(|| {
            let what = format!("record of an import in {}", dir.display());
            Error::corruption(None, what, format!("{key:02x?} {value:02x?} is none"))
        })?;
        found.push(decided);
        keys.next();
    }
    let failed = |e| engine_error("finish an import into", dir, e);
    keys.status().map_err(failed)?;
    drop(keys);
    for decided in found {
        tracing::info!(dir = %dir.display(), import = decided.id, "an import goes on to its end");
        for (number, keyspace) in decided.tables.iter().enumerate() {
            let family = db.cf_handle(keyspace.name());
            let family = family.ok_or_else(|| Error::IncompleteStore {
                path: dir.to_path_buf(),
                missing: format!("the column family {}", keyspace.name()),
            })?;
            take_in(dir, decided.id, number, |options, table| {
                db.ingest_external_file_cf_opts(&family, options, vec![table])
                    .map_err(failed)
            })?;
        }
        // Durable before the tables' directory goes and another import may have the same number.
        let mut batch = WriteBatch::default();
        batch.put_log_data(Mark::Opened.encode());
        batch.delete_cf(&store, Decided::key(decided.id));
        let mut options = WriteOptions::default();
        options.set_sync(true);
        db.write_opt(batch, &options).map_err(failed)?;
    }
    Ok(())
}
