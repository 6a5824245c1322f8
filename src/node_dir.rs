//! The directory of a node: whose it is, whether it is whole, who has it open. Uses: fs, error.
//!
//! ```text
//! LOCK                held while the node is open
//! PEERSTORE           what is in here; written last, so that a directory that has it is whole
//! PEERSTORE.creating  instead of it, until the first open has come to its end
//! raft/  kv/  snapshots/
//! ```

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{FileLock, FileSystem};
use crate::keys::FORMAT_VERSION;

const LOCK: &str = "LOCK";
const MARKER: &str = "PEERSTORE";
const CREATING: &str = "PEERSTORE.creating";
const MARKER_BYTES_MAX: u64 = 4096;

/// What a node keeps in its directory: the lines of the marker file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Each part and its backend, such as "rocksdb".
    pub parts: Vec<(Part, &'static str)>,
}

/// A part of a node that has a directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The log.
    Raft,
    /// The data.
    Kv,
    /// The snapshots.
    Snapshots,
}

impl Part {
    /// The name of its directory.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Raft => "raft",
            Part::Kv => "kv",
            Part::Snapshots => "snapshots",
        }
    }
}

/// A directory that was found to be ours and is locked.
pub(crate) struct NodeDir {
    dir: PathBuf,
    lock: Box<dyn FileLock>,
    is_new: bool,
}

impl NodeDir {
    /// Looks at `dir`, locks it, and checks that it has `contents`. A new directory is not a store
    /// before [`NodeDir::finish`]; until then an open begins again.
    ///
    /// # Errors
    /// `StoreNotFound`, `ForeignDirectory`, `IncompleteStore`, `UnsupportedVersion`, `Corruption` of
    /// the marker, `Config` if other backends are in it: nothing was touched then. `Locked`.
    pub fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        create: bool,
        contents: &Contents,
    ) -> Result<NodeDir> {
        if !fs.exists(dir)? {
            if !create {
                let path = dir.to_path_buf();
                return Err(Error::StoreNotFound { path });
            }
            fs.create_dir_all(dir)?;
        }
        look(fs, dir, create, contents)?;
        let lock = fs.lock(&dir.join(LOCK))?;
        // Again, now that nobody else can change it: the owner before may have finished creating it.
        let found = look(fs, dir, create, contents)?;
        if found == Found::Empty {
            write_file(fs, dir, CREATING, b"")?;
        }
        let is_new = found != Found::Store;
        Ok(NodeDir {
            dir: dir.to_path_buf(),
            lock,
            is_new,
        })
    }

    /// Makes a new directory a store, now that every part of `contents` is in it and durable. Hands
    /// over the lock.
    pub fn finish(self, fs: &dyn FileSystem, contents: &Contents) -> Result<Box<dyn FileLock>> {
        if self.is_new {
            write_file(fs, &self.dir, CREATING, marker_text(contents).as_bytes())?;
            fs.rename(&self.dir.join(CREATING), &self.dir.join(MARKER))?;
            fs.sync_dir(&self.dir)?;
        }
        Ok(self.lock)
    }
}

/// What a directory of ours can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Empty,
    Begun,
    Store,
}

fn look(fs: &dyn FileSystem, dir: &Path, create: bool, contents: &Contents) -> Result<Found> {
    let names = names(fs, dir)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    if has(MARKER) {
        check_marker(fs, dir, contents)?;
        if let Some((part, _)) = contents.parts.iter().find(|(p, _)| !has(p.name())) {
            return Err(Error::IncompleteStore {
                path: dir.to_path_buf(),
                missing: format!("the directory {}", part.name()),
            });
        }
        return Ok(Found::Store);
    }
    check_unused(dir, &names)?;
    match has(CREATING) {
        true => Ok(Found::Begun),
        false if create => Ok(Found::Empty),
        false => Err(Error::StoreNotFound {
            path: dir.to_path_buf(),
        }),
    }
}

fn names(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<String>> {
    let paths = fs.list(dir)?;
    let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into();
    Ok(paths.iter().map(name).collect())
}

/// A directory without marker is ours to fill if it is empty, or if an earlier open had begun to.
fn check_unused(dir: &Path, names: &[String]) -> Result<()> {
    let begun = names.iter().any(|n| n == CREATING);
    let ours = |name: &String| begun || name == LOCK;
    match names.iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => Err(Error::ForeignDirectory {
            path: dir.to_path_buf(),
            found: format!("\"{name}\" and no {MARKER}"),
        }),
    }
}

fn marker_text(contents: &Contents) -> String {
    let mut text = format!("peerstore\nformat {FORMAT_VERSION}\n");
    for (part, backend) in &contents.parts {
        text += &format!("{} {backend}\n", part.name());
    }
    text
}

fn check_marker(fs: &dyn FileSystem, dir: &Path, contents: &Contents) -> Result<()> {
    let path = dir.join(MARKER);
    let file = fs.open(&path)?;
    let length = file.length()?;
    let damaged = |detail: String| Error::corruption(None, path.display().to_string(), detail);
    if length > MARKER_BYTES_MAX {
        return Err(damaged(format!(
            "{length} bytes, expected at most {MARKER_BYTES_MAX}"
        )));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    if head != "peerstore" {
        return Err(damaged(format!(
            "line 1 is {head:?}, expected \"peerstore\""
        )));
    }
    let version = lines.next().unwrap_or_default();
    let got = (version.strip_prefix("format ").and_then(|v| v.parse().ok()))
        .ok_or_else(|| damaged(format!("line 2 is {version:?}, expected \"format N\"")))?;
    if got > FORMAT_VERSION {
        let max = FORMAT_VERSION;
        return Err(Error::UnsupportedVersion { path, got, max });
    }
    if *text != marker_text(contents) {
        return Err(Error::Config {
            path: Some(path),
            message: format!(
                "the store has {}, the config asks for {}",
                one_line(&text),
                one_line(&marker_text(contents))
            ),
        });
    }
    Ok(())
}

/// The parts of a marker, for an error.
fn one_line(text: &str) -> String {
    text.lines().skip(2).collect::<Vec<_>>().join(", ")
}

/// Writes a small file, durable with its name, whether or not it exists.
fn write_file(fs: &dyn FileSystem, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let file = if fs.exists(&path)? {
        fs.open_for_write(&path)?
    } else {
        fs.create(&path)?
    };
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    fs.sync_dir(dir)
}
