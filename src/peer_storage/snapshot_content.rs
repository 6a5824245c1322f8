//! The content of a snapshot: the keys and values of a region as a stream. Uses: app_store,
//! expiry, snapshot_store. I/O through the seams only; runs on a worker, or where a snapshot is installed.
//!
//! ```text
//! content := record* end
//! record  := keyspace u8 (1 data, 2 index, 3 ttl), key length u32 LE, value length u32 LE, key, value
//! end     := 0 u8
//! ```
//! Keyspaces ascend, and keys in each; of what expires, only what the region's clock has not passed. The
//! blocks, checksums and digest around it are the store's.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::app_store::{DataImport, DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::expiry::Record;
use crate::snapshot_store::{SnapshotKey, SnapshotReader, SnapshotWriter};
use crate::types::{KeyRange, RegionId};

const END: u8 = 0;
const RECORD_HEAD_BYTES: usize = 9;
/// A length beyond this is no length; a key or value may be large, but not endless.
const PART_BYTES_MAX: u32 = 1 << 30;

fn tag(keyspace: Keyspace) -> u8 {
    match keyspace {
        Keyspace::Data => 1,
        Keyspace::Index => 2,
        Keyspace::Ttl => 3,
        _ => unreachable!("a snapshot holds the application's keyspaces only"),
    }
}

fn keyspace(tag: u8) -> Option<Keyspace> {
    Keyspace::APPLICATION
        .get(usize::from(tag).checked_sub(1)?)
        .copied()
}

/// Tells the worker that its snapshot is of no more use.
#[derive(Debug, Default)]
pub(crate) struct Cancel(AtomicBool);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn check(&self, region: RegionId) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            let what = "the snapshot";
            return Err(Error::Cancelled { region, what });
        }
        Ok(())
    }
}

/// Writes everything of `range` in `view` to `writer`. Looks at `cancel` before each record.
pub(crate) fn write_content(
    region: RegionId,
    view: &dyn DataRead,
    range: &KeyRange,
    cancel: &Cancel,
    writer: &mut dyn SnapshotWriter,
) -> Result<()> {
    let failed = |e: io::Error| write_error(e);
    let record = view.get(Keyspace::Ttl, &range.start)?;
    let clock = record.and_then(|bytes| Some(Record::parse(&bytes)?.clock?.now_ms));
    // Bytes that are no record are somebody's own.
    let is_gone = |bytes: &[u8]| {
        let record = Record::parse(bytes);
        record.is_some_and(|record| record.is_gone_at(clock.unwrap_or(0)))
    };
    let mut count = 0;
    for space in Keyspace::APPLICATION {
        view.scan(space, range, &mut |key, value| {
            cancel.check(region)?;
            // What nobody can see any more another replica may have dropped: all write the same.
            if space == Keyspace::Ttl && is_gone(value) {
                return Ok(ControlFlow::Continue(()));
            }
            let mut head = [0; RECORD_HEAD_BYTES];
            head[0] = tag(space);
            head[1..5].copy_from_slice(&part_length(region, key)?.to_le_bytes());
            head[5..].copy_from_slice(&part_length(region, value)?.to_le_bytes());
            writer.write_all(&head).map_err(failed)?;
            writer.write_all(key).map_err(failed)?;
            writer.write_all(value).map_err(failed)?;
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    writer.count_entries(count);
    writer.write_all(&[END]).map_err(failed)
}

fn part_length(region: RegionId, part: &[u8]) -> Result<u32> {
    let limit = |len: &u32| *len <= PART_BYTES_MAX;
    u32::try_from(part.len()).ok().filter(limit).ok_or_else(|| {
        let got = format!("{} bytes", part.len());
        let expected = format!("at most {PART_BYTES_MAX} in a snapshot");
        Error::invalid(region, "key or value", got, expected)
    })
}

/// A store's writer may hide its typed error in the `io::Error` that `Write` asks for.
fn write_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(typed) => typed,
        Err(error) => Error::io("write snapshot", Path::new("(stream)"), error),
    }
}

/// Reads the content of `key` into `import`, to its end, where the store has checked the digest.
pub(crate) fn read_content(
    key: &SnapshotKey,
    reader: &mut dyn SnapshotReader,
    import: &mut dyn DataImport,
) -> Result<()> {
    let (mut name, mut value) = (Vec::new(), Vec::new());
    loop {
        let mut head = [0; RECORD_HEAD_BYTES];
        fill(key, reader, &mut head[..1])?;
        if head[0] == END {
            break;
        }
        let Some(space) = keyspace(head[0]) else {
            return Err(damaged(
                key,
                format!("keyspace {}, expected 1 to 3", head[0]),
            ));
        };
        fill(key, reader, &mut head[1..])?;
        let length =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        read_part(key, reader, length(1), &mut name)?;
        read_part(key, reader, length(5), &mut value)?;
        import.put(space, &name, &value)?;
    }
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(damaged(key, "bytes behind the end".into())),
        Err(error) => Err(read_error(key, error)),
    }
}

/// Reads `length` bytes, taking memory only as they come.
fn read_part(
    key: &SnapshotKey,
    reader: &mut dyn SnapshotReader,
    length: u32,
    part: &mut Vec<u8>,
) -> Result<()> {
    if length > PART_BYTES_MAX {
        let detail = format!("a length of {length}, expected at most {PART_BYTES_MAX}");
        return Err(damaged(key, detail));
    }
    part.clear();
    let read = (&mut *reader)
        .take(u64::from(length))
        .read_to_end(part)
        .map_err(|e| read_error(key, e))?;
    if read < length as usize {
        return Err(damaged(
            key,
            format!("{read} bytes left, expected {length}"),
        ));
    }
    Ok(())
}

fn fill(key: &SnapshotKey, reader: &mut dyn SnapshotReader, buffer: &mut [u8]) -> Result<()> {
    reader.read_exact(buffer).map_err(|e| read_error(key, e))
}

fn damaged(key: &SnapshotKey, detail: String) -> Error {
    Error::corruption(Some(key.region), format!("snapshot {key}"), detail)
}

fn read_error(key: &SnapshotKey, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(typed) => typed,
        Err(error) => damaged(key, error.to_string()),
    }
}
