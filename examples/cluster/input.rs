//! What is loaded: the files of a directory as keys and values. A large file is several.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Outcome;

/// The bytes of one value at most.
pub const CHUNK_BYTES: u64 = 64 << 10;

/// One key and where its value is found.
#[derive(Clone, Debug)]
pub struct Item {
    /// The file's relative path, a zero byte, and the number of the chunk: no file name has a zero.
    pub key: Vec<u8>,
    file: usize,
    offset: u64,
    pub bytes: u64,
}

/// Fewer keys cannot show what regions are for.
const ITEMS_MIN: usize = 16;
/// One of so many keys is in each of the two small regions.
const SMALL_SHARE: usize = 32;

/// The keys, ascending.
pub struct Input {
    pub items: Vec<Item>,
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    /// Symbolic links, unreadable files and directories, and what is neither file nor directory.
    pub skipped: u64,
    /// So many of the first keys are in two small regions.
    pub small_items: usize,
}

impl Input {
    /// Looks at the files of `dir` in the order of their names until they hold `bytes_max`.
    pub fn collect(dir: &Path, bytes_max: u64) -> Outcome<Input> {
        let mut input = Input {
            items: Vec::new(),
            files: Vec::new(),
            bytes: 0,
            skipped: 0,
            small_items: 0,
        };
        let entries = std::fs::read_dir(dir);
        entries.map_err(|e| format!("{}: {e}; give a directory with files", dir.display()))?;
        input.add_directory(dir, dir, bytes_max);
        if input.items.is_empty() {
            return Err(format!("{} holds no file that can be read", dir.display()).into());
        }
        let count = input.items.len();
        if count < ITEMS_MIN {
            let dir = dir.display();
            let text = format!("{dir} makes {count} keys, expected at least {ITEMS_MIN}");
            return Err(text.into());
        }
        input.items.sort_by(|a, b| a.key.cmp(&b.key));
        input.small_items = 2 * count.div_ceil(SMALL_SHARE);
        Ok(input)
    }

    fn add_directory(&mut self, root: &Path, dir: &Path, bytes_max: u64) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            self.skipped += 1;
            return;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if self.bytes >= bytes_max {
                return;
            }
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => self.add_directory(root, &path, bytes_max),
                Ok(metadata) if metadata.is_file() && File::open(&path).is_ok() => {
                    self.add_file(root, path, metadata.len(), bytes_max);
                }
                _ => self.skipped += 1,
            }
        }
    }

    fn add_file(&mut self, root: &Path, path: PathBuf, file_bytes: u64, bytes_max: u64) {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let name = name.as_os_str().as_bytes().to_vec();
        // An empty file is a key as well.
        let chunks = file_bytes.div_ceil(CHUNK_BYTES).max(1);
        for chunk in 0..chunks {
            if chunk > 0 && self.bytes >= bytes_max {
                break;
            }
            let mut key = name.clone();
            key.push(0);
            key.extend((chunk as u32).to_be_bytes());
            let offset = chunk * CHUNK_BYTES;
            let bytes = CHUNK_BYTES.min(file_bytes - offset);
            self.bytes += bytes;
            self.items.push(Item {
                key,
                file: self.files.len(),
                offset,
                bytes,
            });
        }
        self.files.push(path);
    }

    /// Where the two small regions end.
    pub fn small_ends(&self) -> [&[u8]; 2] {
        let end = |item: usize| &self.items[item].key[..];
        [end(self.small_items / 2), end(self.small_items)]
    }

    /// Reads the value of an item from its file.
    pub fn read(&self, item: &Item) -> Outcome<Vec<u8>> {
        let path = &self.files[item.file];
        let read = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(item.offset))?;
            let mut value = vec![0; item.bytes as usize];
            file.read_exact(&mut value)?;
            Ok(value)
        };
        read().map_err(|e: std::io::Error| {
            format!("{}: {e}; it changed meanwhile", path.display()).into()
        })
    }
}
