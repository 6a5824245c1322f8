//! Entries and ranges that the suites write. Uses: raft. Never does I/O.

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType};

/// An entry with some data that tells its position.
pub(super) fn entry(index: u64, term: u64) -> Entry {
    sized_entry(index, term, format!("entry {index} of term {term}"))
}

/// An entry with `data`.
pub(super) fn sized_entry(index: u64, term: u64, data: impl Into<Vec<u8>>) -> Entry {
    Entry {
        index,
        term,
        data: convert(data.into()),
        ..Entry::default()
    }
}

/// An entry in which no field has its default.
pub(super) fn full_entry(index: u64, term: u64) -> Entry {
    let mut entry = entry(index, term);
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.context = convert(format!("context of {index}").into_bytes());
    entry.sync_log = true;
    entry
}

/// The entries of the half-open range, all of one term.
pub(super) fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    range.map(|index| entry(index, term)).collect()
}

/// The size by which raft limits what it sends.
pub(super) fn size(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| u64::from(e.compute_size())).sum()
}

/// `Bytes` or `Vec`, as the codec of raft has it.
pub(super) fn convert<T: From<Vec<u8>>>(data: Vec<u8>) -> T {
    data.into()
}
