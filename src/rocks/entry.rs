//! The bytes of an entry. Uses: types, error. Never does I/O.
//!
//! They are written field by field, in the order of the field numbers, because raft-rs's two codecs
//! disagree about that order and one of them cannot write into a buffer that is there already.

use prost::encoding;
use protobuf::Message as _;
use raft::eraftpb::Entry;

use crate::error::{Error, Result};
use crate::types::RegionId;

/// Puts the bytes of `entry` into `buffer`, in place of what it held.
pub(super) fn encode(entry: &Entry, buffer: &mut Vec<u8>) {
    buffer.clear();
    let entry_type = entry.get_entry_type() as i32;
    if entry_type != 0 {
        encoding::int32::encode(1, &entry_type, buffer);
    }
    for (tag, number) in [(2, entry.term), (3, entry.index)] {
        if number != 0 {
            encoding::uint64::encode(tag, &number, buffer);
        }
    }
    if !entry.data.is_empty() {
        encoding::bytes::encode(4, &entry.data, buffer);
    }
    if entry.sync_log {
        encoding::bool::encode(5, &entry.sync_log, buffer);
    }
    if !entry.context.is_empty() {
        encoding::bytes::encode(6, &entry.context, buffer);
    }
}

/// The entry whose key says `index`.
///
/// # Errors
/// `Corruption` if `bytes` are not an entry, or another entry than the key says.
pub(super) fn decode(region: RegionId, index: u64, bytes: &[u8]) -> Result<Entry> {
    let corrupt =
        |detail: String| Error::corruption(Some(region), format!("entry {index}"), detail);
    let mut entry = Entry::default();
    entry
        .merge_from_bytes(bytes)
        .map_err(|e| corrupt(e.to_string()))?;
    if entry.index != index {
        return Err(corrupt(format!(
            "its own index is {}, its key says {index}",
            entry.index
        )));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::EntryType;

    use super::*;

    fn full_entry() -> Entry {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.term = 0x0102;
        entry.index = u64::MAX;
        entry.data = b"data".to_vec().into();
        entry.sync_log = true;
        entry.context = b"ctx".to_vec().into();
        entry
    }

    // The same literal under either of raft's codecs: that is what makes a store readable by both.
    #[test]
    fn the_bytes_of_an_entry_are_the_same_under_both_codecs() {
        let mut buffer = b"left over".to_vec();
        encode(&full_entry(), &mut buffer);
        let golden = b"\x08\x02\x10\x82\x02\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\
            \x22\x04data\x28\x01\x32\x03ctx";
        assert_eq!(buffer, golden);
        assert_eq!(decode(RegionId(1), u64::MAX, golden).unwrap(), full_entry());
        assert_eq!(buffer.len() as u32, full_entry().compute_size());
    }

    #[test]
    fn the_bytes_of_a_default_entry_are_none() {
        let mut buffer = vec![1];
        encode(&Entry::default(), &mut buffer);
        assert!(buffer.is_empty());
        assert_eq!(decode(RegionId(1), 0, &[]).unwrap(), Entry::default());
    }

    #[test]
    fn an_entry_under_a_foreign_key_is_corrupt() {
        let mut buffer = Vec::new();
        encode(&full_entry(), &mut buffer);
        let error = decode(RegionId(3), 8, &buffer).unwrap_err();
        assert!(
            matches!(&error, Error::Corruption { region: Some(RegionId(3)), what, .. } if what == "entry 8"),
            "{error}"
        );
    }
}
