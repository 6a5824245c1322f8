//! Tells a torn tail of RocksDB's write-ahead log from damage in its middle, before RocksDB opens it.
//! Uses: error. Reads files, never writes.
//!
//! RocksDB replays up to the first damaged record and drops what comes behind, without an error. At a
//! torn tail that is right. In the middle it would undo acknowledged writes. What tells them apart:
//! every synced write starts with a mark of ours, and RocksDB begins the next synced write only when
//! the fsync of the one before has returned. So damage that two marked records follow was durable
//! once, and is not a torn tail. One record may have been in flight together with what is damaged.
//!
//! Each open starts with a mark too: what lies before it was judged by an earlier recovery.
//!
//! The format (RocksDB's `log_format.h`): blocks of 32 KiB; in each, records of crc u32 (masked CRC-32C
//! of the rest), length u16, type u8, payload, all little-endian; less than 7 bytes at the end of a block are
//! unused. The payload of a first or full record: sequence u64, count u32, then operations; one that
//! is only for the log is a byte 3, a length, and its bytes.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The first operation of every synced write.
pub(super) const SYNCED_MARK: &[u8] = b"psS";
/// The first operation of the first write after an open.
pub(super) const OPENED_MARK: &[u8] = b"psO";

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Sequence and count, before the operations of a write.
const BATCH_HEAD_BYTES: usize = 12;
const LOG_DATA: u8 = 3;
/// So many synced writes behind damage prove that it had been synced.
const PROOF: u32 = 2;

/// Looks through the log files in `dir`.
///
/// # Errors
/// `Corruption` with file and offset if synced writes lie behind damage; `Io`.
pub(super) fn check(dir: &Path) -> Result<()> {
    let mut scan = Scan::default();
    for path in log_files(dir)? {
        scan.file(&path)?;
    }
    Ok(())
}

/// The log files, oldest first.
fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let path = item.map_err(|e| Error::io("list", dir, e))?.path();
        let number = path
            .file_stem()
            .and_then(|s| s.to_str()?.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|e| e == "log")) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// The first damage, if any, and how many synced writes were seen behind it.
#[derive(Default)]
struct Scan {
    damage: Option<(PathBuf, u64, &'static str)>,
    synced_behind: u32,
    in_record: bool,
}

/// What one place in a block holds.
enum Record<'a> {
    Whole { kind: u8, payload: &'a [u8] },
    Damaged(&'static str),
    End,
}

impl Scan {
    fn file(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut offset = 0;
        self.in_record = false;
        loop {
            let length =
                read_block(&mut file, &mut block).map_err(|e| Error::io("read", path, e))?;
            self.block(path, offset, &block[..length])?;
            offset += length as u64;
            if length < BLOCK_BYTES {
                break;
            }
        }
        if self.in_record {
            self.damaged(path, offset, "the file ends within a record");
        }
        Ok(())
    }

    fn block(&mut self, path: &Path, offset: u64, block: &[u8]) -> Result<()> {
        let mut at = 0;
        loop {
            match record(&block[at..], block.len() == BLOCK_BYTES) {
                Record::End => return Ok(()),
                Record::Damaged(how) => {
                    self.damaged(path, offset + at as u64, how);
                    self.in_record = false;
                    return Ok(());
                }
                Record::Whole { kind, payload } => {
                    at += HEADER_BYTES + payload.len();
                    // Full 1, first 2, middle 3, last 4.
                    self.in_record = matches!(kind, 2 | 3);
                    if matches!(kind, 1 | 2) {
                        self.write_starts(payload)?;
                    }
                }
            }
        }
    }

    fn damaged(&mut self, path: &Path, offset: u64, how: &'static str) {
        self.damage
            .get_or_insert_with(|| (path.to_path_buf(), offset, how));
    }

    fn write_starts(&mut self, payload: &[u8]) -> Result<()> {
        match mark(payload) {
            Some(OPENED_MARK) => {
                self.damage = None;
                self.synced_behind = 0;
            }
            Some(SYNCED_MARK) if self.damage.is_some() => self.synced_behind += 1,
            _ => {}
        }
        match &self.damage {
            Some((path, offset, how)) if self.synced_behind >= PROOF => Err(Error::corruption(
                None,
                format!("write-ahead log {}", path.display()),
                format!("offset {offset}: {how}, yet synced writes lie behind it"),
            )),
            _ => Ok(()),
        }
    }
}

/// Fills `block` as far as the file goes.
fn read_block(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match file.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// The record at the start of `bytes`, the rest of a block.
fn record(bytes: &[u8], block_is_full: bool) -> Record<'_> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return match bytes.is_empty() || block_is_full {
            true => Record::End,
            false => Record::Damaged("the header is cut off"),
        };
    };
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    if length == 0 && header[6] == 0 {
        return Record::Damaged("zeros");
    }
    let Some(payload) = rest.get(..length) else {
        return Record::Damaged("the record is cut off");
    };
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let computed = crc32c::crc32c(&bytes[6..HEADER_BYTES + length]);
    if stored != computed.rotate_right(15).wrapping_add(0xa282_ead8) {
        return Record::Damaged("the checksum does not match");
    }
    Record::Whole {
        kind: header[6],
        payload,
    }
}

/// The mark that a write starts with.
fn mark(payload: &[u8]) -> Option<&[u8]> {
    let (&[kind, length], rest) = payload.get(BATCH_HEAD_BYTES..)?.split_first_chunk::<2>()?;
    (kind == LOG_DATA)
        .then(|| rest.get(..usize::from(length)))
        .flatten()
}
