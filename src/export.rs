//! The application's data as a stream of bytes, out of a pinned view and back in. Uses: app_store, types,
//! error. I/O through what the caller gives only.
//!
//! ```text
//! export := "PSEXPORT", version u8 (1), record*, end
//! record := keyspace u8 (1 data, 2 index, 3 ttl), key length u32, value length u32, key, value
//! end    := 0 u8, records u64, CRC-32C u32 of everything before it
//! ```
//! Numbers are little-endian; keyspaces ascend, and keys in each.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use crate::app_store::{ApplicationDataStorage, DataRead, ImportOrder, Keyspace};
use crate::error::{Error, Result};
use crate::types::{KeyRange, RegionId};

const MAGIC: &[u8; 8] = b"PSEXPORT";
const VERSION: u8 = 1;
const END: u8 = 0;
/// A length beyond this is no length.
const PART_BYTES_MAX: usize = 1 << 30;

/// Writes everything that the application has in `range` to `to`, in one go and with one key in memory
/// at a time; how many keys that were. A view ([`ApplicationDataStorage::view`]) makes it of one moment.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{AppBatch, ApplicationDataStorage, DataRead, Durability, KeyRange, Keyspace};
/// use peerstore::{export_data, import_data};
/// let (from, to) = (MemoryData::new(), MemoryData::new());
/// let mut batch = AppBatch::new();
/// batch.put(Keyspace::Data, "key", "value");
/// from.write(&batch, Durability::Buffered)?;
/// let mut file = Vec::new();
/// export_data(&*from.view()?, &KeyRange::all(), &mut file)?;
/// import_data(&to, &KeyRange::all(), &mut file.as_slice())?;
/// assert!(to.get(Keyspace::Data, b"key")?.is_some());
/// # Ok::<(), peerstore::Error>(())
/// ```
///
/// # Errors
/// `Io` if `to` refuses; `InvalidArgument` for a key or value of more than 1 GiB; those of the store.
pub fn export_data(
    data: &(impl DataRead + ?Sized),
    range: &KeyRange,
    to: &mut dyn Write,
) -> Result<u64> {
    let mut out = Checked { to, crc: 0 };
    let mut records = 0_u64;
    out.put(MAGIC)?;
    out.put(&[VERSION])?;
    for (tag, keyspace) in (1_u8..).zip(Keyspace::APPLICATION) {
        data.scan(keyspace, range, &mut |key, value| {
            let mut head = [tag, 0, 0, 0, 0, 0, 0, 0, 0];
            head[1..5].copy_from_slice(&length(key)?.to_le_bytes());
            head[5..].copy_from_slice(&length(value)?.to_le_bytes());
            for part in [&head[..], key, value] {
                out.put(part)?;
            }
            records += 1;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    out.put(&[END])?;
    out.put(&records.to_le_bytes())?;
    let crc = out.crc.to_le_bytes();
    out.put(&crc)?;
    out.to.flush().map_err(|e| failed("write", e))?;
    Ok(records)
}

/// Replaces what the application has in `range` by what [`export_data`] has written; how many keys that
/// are. All of it is read and checked before anything changes. Durable on return; as with
/// [`DataImport::finish`](crate::DataImport::finish), a crash in the middle asks to do it again.
///
/// # Errors
/// `Corruption` or `UnsupportedVersion` if the bytes are not a whole export, `InvalidArgument` if it has
/// a key outside of `range`, `Io` if `from` refuses: nothing has changed then. Those of the store.
pub fn import_data(
    data: &dyn ApplicationDataStorage,
    range: &KeyRange,
    from: &mut dyn Read,
) -> Result<u64> {
    let mut import = data.begin_import(range)?;
    let records = read_export(from, |keyspace, key, value| {
        import.put(keyspace, key, value)
    })?;
    import.finish()?;
    Ok(records)
}

/// Whether [`import_data`] would take this: reads and checks all of it and changes nothing; how many keys
/// it has.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{KeyRange, check_export, export_data};
/// let mut file = Vec::new();
/// export_data(&MemoryData::new(), &KeyRange::all(), &mut file)?;
/// assert_eq!(check_export(&KeyRange::all(), &mut file.as_slice())?, 0);
/// assert!(check_export(&KeyRange::all(), &mut &file[1..]).is_err());
/// # Ok::<(), peerstore::Error>(())
/// ```
///
/// # Errors
/// `Corruption` or `UnsupportedVersion` if the bytes are not a whole export, `InvalidArgument` if it has
/// a key outside of `range` or in the wrong place, `Io` if `from` refuses.
pub fn check_export(range: &KeyRange, from: &mut dyn Read) -> Result<u64> {
    let mut order = ImportOrder::new(range);
    read_export(from, |keyspace, key, _| {
        order.take(keyspace, key).map(|_| ())
    })
}

/// Calls `put` with each key and value of an export; how many they were. Whether it is whole is known only
/// when this returns.
fn read_export(
    from: &mut dyn Read,
    mut put: impl FnMut(Keyspace, &[u8], &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut input = Input { from, crc: 0 };
    if input.array::<8>()? != *MAGIC {
        return Err(damaged("it does not begin as one".into()));
    }
    let [version] = input.array()?;
    if version != VERSION {
        return Err(Error::UnsupportedVersion {
            path: "(export)".into(),
            got: version.into(),
            max: VERSION.into(),
        });
    }
    let (mut key, mut value, mut records) = (Vec::new(), Vec::new(), 0_u64);
    loop {
        let [tag] = input.array()?;
        if tag == END {
            break;
        }
        let place = usize::from(tag) - 1;
        let Some(keyspace) = Keyspace::APPLICATION.get(place) else {
            return Err(damaged(format!("keyspace {tag}, expected 1 to 3")));
        };
        let lengths = [input.array()?, input.array()?].map(u32::from_le_bytes);
        input.part(lengths[0], &mut key)?;
        input.part(lengths[1], &mut value)?;
        put(*keyspace, &key, &value)?;
        records += 1;
    }
    let counted = u64::from_le_bytes(input.array()?);
    let computed = input.crc;
    let stored = u32::from_le_bytes(input.array()?);
    if (counted, stored) != (records, computed) {
        let detail = format!(
            "{records} records and crc {computed:#010x}, its end says {counted} and {stored:#010x}"
        );
        return Err(damaged(detail));
    }
    Ok(records)
}

fn length(part: &[u8]) -> Result<u32> {
    let fits = u32::try_from(part.len()).ok();
    fits.filter(|_| part.len() <= PART_BYTES_MAX)
        .ok_or_else(|| {
            let got = format!("{} bytes", part.len());
            let expected = format!("at most {PART_BYTES_MAX} in an export");
            Error::invalid(RegionId(0), "key or value", got, expected)
        })
}

fn failed(op: &'static str, error: std::io::Error) -> Error {
    Error::io(op, Path::new("(export)"), error)
}

fn damaged(detail: String) -> Error {
    Error::corruption(None, "export", detail)
}

struct Checked<'w> {
    to: &'w mut dyn Write,
    crc: u32,
}

impl Checked<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.to.write_all(bytes).map_err(|e| failed("write", e))
    }
}

struct Input<'r> {
    from: &'r mut dyn Read,
    crc: u32,
}

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(read_error)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    /// Reads `length` bytes, taking memory only as they come.
    fn part(&mut self, length: u32, part: &mut Vec<u8>) -> Result<()> {
        if length as usize > PART_BYTES_MAX {
            let detail = format!("a length of {length}, expected at most {PART_BYTES_MAX}");
            return Err(damaged(detail));
        }
        part.clear();
        let read = (&mut *self.from).take(length.into()).read_to_end(part);
        let read = read.map_err(read_error)?;
        if read < length as usize {
            return Err(damaged(format!("{read} bytes left, expected {length}")));
        }
        self.crc = crc32c::crc32c_append(self.crc, part);
        Ok(())
    }
}

fn read_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("it ends too soon".into()),
        _ => failed("read", error),
    }
}
