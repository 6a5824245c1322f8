//! Makes a directory into a database of ours, or finds out that it is one, touching nothing else.
//! Uses: error, keys.
//!
//! What an open finds decides what it does. It holds the directory's lock throughout.
//!
//! | in the directory | what happens |
//! |---|---|
//! | nothing, or no directory | created, or `StoreNotFound` without `create_if_missing` |
//! | the creation marker | an earlier creation never finished: its files are removed, created anew |
//! | no `CURRENT` file | `ForeignDirectory` |
//! | a database without our format key | `ForeignDirectory` |
//! | a newer format | `UnsupportedVersion` |
//! | column families of ours missing | `IncompleteStore` |
//! | column families that are not ours | `ForeignDirectory` |
//! | damage in the middle of the write-ahead log | `Corruption` |
//! | a database of ours | opened |

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamilyDescriptor, Options};

use super::engine::{Db, engine_error};
use super::{decided, options::RocksOptions, wal};
use crate::error::{Error, Result};
use crate::fs::{DiskFs, FileSystem as _};
use crate::keys::{FORMAT_KEY, FORMAT_VERSION};

/// The file that says: what lies beside me was never handed to anybody. It is durable before the
/// first file of the database, and durably gone before an open returns.
const CREATING: &str = "CREATING";
/// The file that names a RocksDB's manifest: without it there is no database.
const CURRENT: &str = "CURRENT";
/// Where imports are staged.
pub(super) const IMPORT: &str = "import";

/// The exclusive lock of a directory, held until dropped. It dies with its process.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl DirLock {
    fn take(dir: &Path) -> Result<DirLock> {
        let file = File::open(dir).map_err(|e| Error::io("open", dir, e))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: dir.to_path_buf(),
            }),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", dir, e)),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing lets go too, unless a child process that is just starting still shares the file.
        let _ = self.0.unlock();
    }
}

/// One of the two databases: its column families, and the one that holds the format key.
pub(super) struct Layout<'a> {
    pub(super) families: &'a dyn Fn() -> Vec<ColumnFamilyDescriptor>,
    pub(super) format_family: &'static str,
}

/// Opens or creates the database in `dir`. The options answer RocksDB's counters while it is open.
///
/// # Errors
/// As the table above; `Locked` if somebody has it, `Config`, `Io`, `DiskFull` or `Engine`.
pub(super) fn open(
    dir: &Path,
    options: &RocksOptions,
    layout: &Layout<'_>,
) -> Result<(Db, Options, DirLock)> {
    options.check()?;
    if !is_dir(dir)? {
        if !options.create_if_missing {
            return Err(Error::StoreNotFound {
                path: dir.to_path_buf(),
            });
        }
        DiskFs.create_dir_all(dir)?;
    }
    let lock = DirLock::take(dir)?;
    let names = names_in(dir)?;
    let database = options.database();
    let db = if names.contains(CREATING) {
        remove_unfinished(dir, &names)?;
        create(dir, database.clone(), layout)?
    } else if names.contains(CURRENT) {
        check_format(dir, layout)?;
        wal::check(dir)?;
        let db = open_existing(dir, &database, layout)?;
        decided::finish_all(&db, dir)?;
        remove_dir(&dir.join(IMPORT))?;
        db
    } else if let Some(name) = names.first() {
        return Err(foreign(dir, format!("{name}, and no {CURRENT}")));
    } else if options.create_if_missing {
        create(dir, database.clone(), layout)?
    } else {
        return Err(Error::StoreNotFound {
            path: dir.to_path_buf(),
        });
    };
    Ok((db, database, lock))
}

/// Makes a new database in `dir`, which is empty or holds the marker only.
fn create(dir: &Path, mut database: Options, layout: &Layout<'_>) -> Result<Db> {
    let marker = dir.join(CREATING);
    let file = File::create(&marker).map_err(|e| Error::io("create", &marker, e))?;
    file.sync_all().map_err(|e| Error::io("sync", &marker, e))?;
    DiskFs.sync_dir(dir)?;
    // RocksDB syncs the directory's content, but never its name in the parent.
    if let Some(parent) = absolute(dir)?.parent() {
        DiskFs.sync_dir(parent)?;
    }
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    let db = Db::open_cf_descriptors(&database, dir, (layout.families)())
        .map_err(|e| open_error(dir, e))?;
    put_format(&db, dir, layout.format_family)?;
    fs::remove_file(&marker).map_err(|e| Error::io("remove", &marker, e))?;
    DiskFs.sync_dir(dir)?;
    Ok(db)
}

/// Opens a database of ours. If RocksDB cannot sync its manifest while it takes a table in, it removes
/// the table, but not what the manifest says: after a restart it may miss it. The import has kept it.
fn open_existing(dir: &Path, database: &Options, layout: &Layout<'_>) -> Result<Db> {
    let open = || Db::open_cf_descriptors(database, dir, (layout.families)());
    let mut opened = open();
    let missing = opened.as_ref().err().and_then(|e| missing_table(dir, e));
    if let Some(missing) = missing {
        for table in tables_in_doubt(dir)? {
            // RocksDB knows its tables by an id: it opens only with the right one.
            let linked = fs::remove_file(&missing).or_else(|e| match e.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            });
            linked
                .and_then(|()| fs::hard_link(&table, &missing))
                .map_err(|e| Error::io("put back", &missing, e))?;
            DiskFs.sync_dir(dir)?;
            opened = open();
            if opened.is_ok() {
                break;
            }
        }
    }
    opened.map_err(|e| open_error(dir, e))
}

/// The table that RocksDB says is not there. One that it could not write, because the disk is full, is not
/// there either, and is none of ours.
fn missing_table(dir: &Path, error: &rocksdb::Error) -> Option<PathBuf> {
    let text = error.as_ref();
    if !text.contains("No such file") {
        return None;
    }
    let prefix = format!("{}/", dir.display());
    let number = |rest: &str| -> Option<String> {
        let (digits, _) = rest.split_once(".sst")?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.to_string())
    };
    let number = text.split(&prefix).skip(1).find_map(number)?;
    let table = dir.join(format!("{number}.sst"));
    (!table.exists()).then_some(table)
}

/// The tables that were being taken in when the database was last used.
fn tables_in_doubt(dir: &Path) -> Result<Vec<PathBuf>> {
    let import = dir.join(IMPORT);
    if !is_dir(&import)? {
        return Ok(Vec::new());
    }
    let names = names_in(&import)?;
    let tables = names.iter().filter(|name| name.ends_with(".sst"));
    Ok(tables.map(|name| import.join(name)).collect())
}

/// Puts the format version into a table, so that no damage to the write-ahead log can hide it.
fn put_format(db: &Db, dir: &Path, family: &str) -> Result<()> {
    let Some(family) = db.cf_handle(family) else {
        return Err(foreign(dir, format!("no column family {family}")));
    };
    db.put_cf(&family, FORMAT_KEY, FORMAT_VERSION.to_be_bytes())
        .and_then(|()| db.flush_cf(&family))
        .map_err(|e| engine_error("write the format version to", dir, e))
}

/// Removes what an unfinished creation left: the files that RocksDB makes. The marker stays.
fn remove_unfinished(dir: &Path, names: &BTreeSet<String>) -> Result<()> {
    let leftovers = || names.iter().filter(|name| *name != CREATING);
    if let Some(name) = leftovers().find(|name| !is_rocksdb_name(name)) {
        return Err(foreign(
            dir,
            format!("{name}, which this creation did not make"),
        ));
    }
    for name in leftovers() {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    DiskFs.sync_dir(dir)
}

/// Whether a new RocksDB makes files with such a name.
fn is_rocksdb_name(name: &str) -> bool {
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    ["CURRENT", "IDENTITY", "LOCK", "LOG"].contains(&name)
        || name.starts_with("LOG.old.")
        || name.strip_prefix("MANIFEST-").is_some_and(numbered)
        || name
            .strip_prefix("OPTIONS-")
            .is_some_and(|r| numbered(r.trim_end_matches(".dbtmp")))
        || [".log", ".sst", ".dbtmp"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix).is_some_and(numbered))
}

/// Reads who the database is, without writing a byte.
fn check_format(dir: &Path, layout: &Layout<'_>) -> Result<()> {
    let found = Db::list_cf(&Options::default(), dir).map_err(|e| open_error(dir, e))?;
    let family = layout.format_family;
    if !found.iter().any(|name| name == family) {
        return Err(foreign(
            dir,
            format!("a RocksDB with column families {found:?}"),
        ));
    }
    let stored = {
        // With this one column family the replay of the log takes in nothing but it. Without the
        // tracking that the database was written with, RocksDB 11.8 would want to write to the
        // manifest here, and crash because it may not.
        let mut options = Options::default();
        options.set_track_and_verify_wals_in_manifest(true);
        let db = Db::open_cf_for_read_only(&options, dir, [family], false)
            .map_err(|e| open_error(dir, e))?;
        let handle = db.cf_handle(family);
        let handle = handle.ok_or_else(|| foreign(dir, format!("no column family {family}")))?;
        db.get_cf(&handle, FORMAT_KEY)
            .map_err(|e| open_error(dir, e))?
    };
    let Some(stored) = stored else {
        return Err(foreign(
            dir,
            "a RocksDB without a format version of ours".into(),
        ));
    };
    let got = <[u8; 4]>::try_from(stored.as_slice())
        .map(u32::from_be_bytes)
        .unwrap_or(0);
    if got == 0 {
        let detail = format!("{stored:02x?}, expected a version as 4 bytes");
        return Err(Error::corruption(
            None,
            format!("format version of {}", dir.display()),
            detail,
        ));
    }
    if got > FORMAT_VERSION {
        let (path, max) = (dir.to_path_buf(), FORMAT_VERSION);
        return Err(Error::UnsupportedVersion { path, got, max });
    }
    check_families(dir, &found, layout)
}

fn check_families(dir: &Path, found: &[String], layout: &Layout<'_>) -> Result<()> {
    let families = (layout.families)();
    let expected: BTreeSet<&str> = families.iter().map(ColumnFamilyDescriptor::name).collect();
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    if let Some(name) = found.difference(&expected).next() {
        return Err(foreign(dir, format!("the column family {name}")));
    }
    match expected.difference(&found).next() {
        None => Ok(()),
        Some(name) => Err(Error::IncompleteStore {
            path: dir.to_path_buf(),
            missing: format!("the column family {name}"),
        }),
    }
}

fn foreign(dir: &Path, found: String) -> Error {
    Error::ForeignDirectory {
        path: dir.to_path_buf(),
        found,
    }
}

/// RocksDB's refusal to open: its lock told apart from everything else.
pub(super) fn open_error(dir: &Path, error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    if text.contains("lock hold by current process") || text.contains("While lock file") {
        return Error::Locked {
            path: dir.to_path_buf(),
        };
    }
    engine_error("open", dir, error)
}

/// # Errors
/// `ForeignDirectory` if it is something else than a directory.
fn is_dir(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(foreign(path, "something that is not a directory".into())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("open", path, e)),
    }
}

fn names_in(dir: &Path) -> Result<BTreeSet<String>> {
    let failed = |e| Error::io("list", dir, e);
    fs::read_dir(dir)
        .map_err(failed)?
        .map(|item| {
            Ok(item
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, e))
}

/// Removes a directory that need not exist.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}
