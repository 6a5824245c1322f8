//! Tells a torn tail of RocksDB's write-ahead log from damage in its middle, before RocksDB opens it.
//! Uses: error. Reads files, never writes.
//!
//! RocksDB replays up to the first damaged record and drops what comes behind, without an error. At a
//! torn tail that is right. In the middle it would undo acknowledged writes. What tells them apart:
//! every write starts with a mark of ours that says which sequence numbers were durable before it.
//! Damage where a later mark says durable is not a torn tail.
//!
//! Each open starts with a mark too: what lies before it was judged by an earlier recovery.
//!
//! The format (RocksDB's `log_format.h`): blocks of 32 KiB; in each, records of crc u32 (masked
//! CRC-32C of the rest), length u16, type u8 and payload, all little-endian; less than 7 bytes at the
//! end of a block are unused. The payload of a first or full record: sequence u64, count u32, then
//! operations; one that is only for the log is a byte 3, a length, and its bytes.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The first operation of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The database was opened: everything before has been recovered.
    Opened,
    /// Everything up to this sequence number, inclusive, was durable before the write began.
    Durable(u64),
}

/// Tells our marks from other data that somebody might put there, and their kinds apart.
const OPENED: &[u8] = b"psO";
const DURABLE: &[u8] = b"psD";

impl Mark {
    /// Its bytes, to be put into the log only.
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Mark::Opened => OPENED.to_vec(),
            Mark::Durable(sequence) => [DURABLE, &sequence.to_be_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        if bytes == OPENED {
            return Some(Mark::Opened);
        }
        let sequence = bytes.strip_prefix(DURABLE)?.try_into().ok()?;
        Some(Mark::Durable(u64::from_be_bytes(sequence)))
    }
}

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// The types of the pieces of a write.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// The operation that is only for the log.
const LOG_DATA: u8 = 3;

/// Looks through the log files in `dir`.
///
/// # Errors
/// `Corruption` with file and offset if there is damage where all was durable; `IncompleteStore` if
/// there is no file; `Io`.
pub(super) fn check(dir: &Path) -> Result<()> {
    let files = log_files(dir)?;
    if files.is_empty() {
        // Every open starts one and syncs its mark.
        return Err(Error::IncompleteStore {
            path: dir.to_path_buf(),
            missing: "the write-ahead log".into(),
        });
    }
    let mut scan = Scan::default();
    for path in files {
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

/// What was seen so far.
#[derive(Default)]
struct Scan {
    // The last sequence number before the damage, or before here if there is none.
    last_sequence: Option<u64>,
    // The first damage: where, and how it shows.
    damage: Option<(PathBuf, u64, &'static str)>,
    // Whether the last record read goes on in the next.
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
                    // Its length may be damaged too, so the next one is wherever a checksum matches.
                    let next = (at + 1..block.len()).find(|next| begins_record(&block[*next..]));
                    let Some(next) = next else {
                        return Ok(());
                    };
                    at = next;
                }
                Record::Whole { kind, payload } => {
                    at += HEADER_BYTES + payload.len();
                    self.in_record = matches!(kind, FIRST | MIDDLE);
                    if matches!(kind, FULL | FIRST) {
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
        let Some((first, count, mark)) = write_head(payload) else {
            return Ok(());
        };
        if mark == Some(Mark::Opened) {
            (self.damage, self.last_sequence) = (None, None);
        }
        let Some((path, offset, how)) = &self.damage else {
            self.last_sequence = Some(first.saturating_add(count.into()).saturating_sub(1));
            return Ok(());
        };
        // What is damaged begins behind the last good write, or at the latest before this one.
        let damaged = self
            .last_sequence
            .map_or(first.saturating_sub(1), |last| last.saturating_add(1));
        match mark {
            Some(Mark::Durable(durable)) if durable >= damaged => Err(Error::corruption(
                None,
                format!("write-ahead log {}", path.display()),
                format!("offset {offset}: {how}, in what was durable up to sequence {durable}"),
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

/// Whether a piece of a write begins here: its checksum is computed only if its type is possible.
fn begins_record(bytes: &[u8]) -> bool {
    bytes
        .get(6)
        .is_some_and(|kind| (FULL..=LAST).contains(kind))
        && matches!(record(bytes, false), Record::Whole { .. })
}

/// The first sequence number of a write, how many it takes, and its mark.
fn write_head(payload: &[u8]) -> Option<(u64, u32, Option<Mark>)> {
    let (sequence, rest) = payload.split_first_chunk::<8>()?;
    let (count, operations) = rest.split_first_chunk::<4>()?;
    let mark = || {
        let (&[kind, length], rest) = operations.split_first_chunk::<2>()?;
        let bytes = rest.get(..usize::from(length))?;
        Mark::decode(bytes).filter(|_| kind == LOG_DATA)
    };
    Some((
        u64::from_le_bytes(*sequence),
        u32::from_le_bytes(*count),
        mark(),
    ))
}
