//! The bytes of a run: its checksum, then its entries, compressed where that pays. Never does I/O.
//!
//! Region, first index and term are not among them: the index knows them, and the checksum covers the
//! first two. So the bytes are the same whatever codec raft-rs was built with.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use super::codec::{Input, put_varint};
use super::format::{COMPRESSED, RUN_CRC_BYTES, RUN_ENTRIES_MAX};

/// A run is closed once its entries have so many bytes: whoever wants one entry reads so much.
const RUN_BYTES: usize = 16 << 10;
/// Less is not tried to compress.
const COMPRESS_BYTES_MIN: usize = 1 << 10;
/// The longest pause, in runs, after data that did not get smaller.
const PAUSE_MAX: u32 = 256;
/// What LZ4 can shrink to at best; a claim beyond it is a lie.
const LZ4_RATIO_MAX: usize = 255;

const HAS_MORE: u64 = 1;
const TYPE_BITS: u8 = 3;
const SYNC_LOG: u8 = 1 << 2;
const HAS_CONTEXT: u8 = 1 << 3;

/// Puts one entry behind the others of its run.
fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let entry_type = entry.get_entry_type() as u8;
    let mut more = entry_type & TYPE_BITS;
    more |= if entry.sync_log { SYNC_LOG } else { 0 };
    more |= if entry.context.is_empty() {
        0
    } else {
        HAS_CONTEXT
    };
    put_varint(out, (entry.data.len() as u64) << 1 | u64::from(more != 0));
    if more != 0 {
        out.push(more);
    }
    if more & HAS_CONTEXT != 0 {
        put_varint(out, entry.context.len() as u64);
    }
    out.extend_from_slice(&entry.data);
    out.extend_from_slice(&entry.context);
}

/// The fields of an entry that a run holds, without copies of its data.
struct Fields {
    more: u8,
    data: Range<usize>,
    context: Range<usize>,
}

fn read_entry(input: &mut Input) -> Option<Fields> {
    let head = input.varint()?;
    let more = if head & HAS_MORE != 0 { input.u8()? } else { 0 };
    let context = if more & HAS_CONTEXT != 0 {
        input.varint()?
    } else {
        0
    };
    let (data, context) = (
        usize::try_from(head >> 1).ok()?,
        usize::try_from(context).ok()?,
    );
    let start = input.at();
    input.take(data)?;
    input.take(context)?;
    Some(Fields {
        more,
        data: start..start + data,
        context: start + data..start + data + context,
    })
}

fn entry_type(more: u8) -> Option<EntryType> {
    match more & TYPE_BITS {
        0 => Some(EntryType::EntryNormal),
        1 => Some(EntryType::EntryConfChange),
        2 => Some(EntryType::EntryConfChangeV2),
        _ => None,
    }
}

/// `Bytes` or `Vec`, as the codec of raft has it; the former shares the memory.
fn shared<T: From<Bytes>>(bytes: Bytes) -> T {
    bytes.into()
}

/// Appends to `entries` those of `window` that `body`, the run's bytes behind its checksum, holds.
/// Its first has the index `first`. Nothing if the bytes are not so many entries.
pub(super) fn decode_run(
    body: &Bytes,
    first: u64,
    term: u64,
    window: &Range<u64>,
    entries: &mut Vec<Entry>,
) -> Option<()> {
    let mut input = Input::new(body);
    for index in first..window.end {
        let fields = read_entry(&mut input)?;
        if index < window.start {
            continue;
        }
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(fields.more)?);
        (entry.term, entry.index) = (term, index);
        entry.data = shared(body.slice(fields.data));
        entry.context = shared(body.slice(fields.context));
        entry.sync_log = fields.more & SYNC_LOG != 0;
        entries.push(entry);
    }
    Some(())
}

/// Undoes the compression of a run's bytes behind its checksum, if `stored` says that there is one.
/// Nothing if they are not what [`Compressor::run`] makes.
pub(super) fn unpack(stored: u32, body: Bytes) -> Option<Bytes> {
    if stored & COMPRESSED == 0 {
        return Some(body);
    }
    let mut input = Input::new(&body);
    let length = usize::try_from(input.varint()?).ok()?;
    let packed = &body[input.at()..];
    if length > packed.len().checked_mul(LZ4_RATIO_MAX)? {
        return None;
    }
    let unpacked = lz4_flex::block::decompress(packed, length).ok()?;
    (unpacked.len() == length).then(|| Bytes::from(unpacked))
}

/// How many entries of the start of `entries` make a run: all of one term.
pub(super) fn run_length(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else {
        return 0;
    };
    let mut bytes = 0;
    for (at, entry) in entries.iter().enumerate() {
        let is_full = bytes >= RUN_BYTES || at >= RUN_ENTRIES_MAX as usize;
        if entry.term != first.term || is_full {
            return at;
        }
        bytes += entry.data.len() + entry.context.len() + 1;
    }
    entries.len()
}

/// Compresses runs while samples show that it is worth it.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    is_off: bool,
    // Guesses that threads may overwrite: a run more or less that is tried does not matter.
    pause: AtomicU32,
    waiting: AtomicU32,
}

impl Compressor {
    pub fn new(is_on: bool) -> Self {
        Compressor {
            is_off: !is_on,
            ..Compressor::default()
        }
    }

    /// Puts a run of `entries` behind `out`, without its checksum, for which it leaves the place.
    /// Returns its length and whether it is compressed, as the format stores them, and its length
    /// before.
    pub fn run(&self, entries: &[Entry], out: &mut Vec<u8>) -> (u32, u64) {
        let start = out.len();
        out.extend([0; RUN_CRC_BYTES]);
        for entry in entries {
            encode_entry(entry, out);
        }
        let body = start + RUN_CRC_BYTES;
        let raw = (out.len() - start) as u64;
        let flag = match self.pack(&out[body..]) {
            Some(packed) => {
                let length = (out.len() - body) as u64;
                out.truncate(body);
                put_varint(out, length);
                out.extend_from_slice(&packed);
                COMPRESSED
            }
            None => 0,
        };
        ((out.len() - start) as u32 | flag, raw)
    }

    fn pack(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.is_off || body.len() < COMPRESS_BYTES_MIN {
            return None;
        }
        let waiting = self.waiting.load(Relaxed);
        if waiting > 0 {
            self.waiting.store(waiting - 1, Relaxed);
            return None;
        }
        let packed = lz4_flex::block::compress(body);
        if packed.len() + 10 <= body.len() / 8 * 7 {
            self.pause.store(0, Relaxed);
            return Some(packed);
        }
        let pause = (self.pause.load(Relaxed) * 2).clamp(1, PAUSE_MAX);
        self.pause.store(pause, Relaxed);
        self.waiting.store(pause, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, data: Vec<u8>) -> Entry {
        let mut entry = Entry::default();
        (entry.term, entry.index) = (3, index);
        entry.data = data.into();
        entry
    }

    fn full(index: u64) -> Entry {
        let mut entry = entry(index, b"data".to_vec());
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.context = b"context".to_vec().into();
        entry.sync_log = true;
        entry
    }

    fn round_trip(entries: &[Entry], window: Range<u64>) -> (u32, Vec<Entry>) {
        let mut out = Vec::new();
        let (stored, _) = Compressor::new(true).run(entries, &mut out);
        assert_eq!(out.len(), (stored & !COMPRESSED) as usize);
        let body = Bytes::from(out).slice(RUN_CRC_BYTES..);
        let body = unpack(stored, body).expect("it is whole");
        let mut read = Vec::new();
        decode_run(&body, entries[0].index, 3, &window, &mut read).expect("it is whole");
        (stored, read)
    }

    #[test]
    fn the_bytes_of_a_run_are_golden() {
        let mut out = Vec::new();
        let (stored, _) = Compressor::new(true).run(&[full(5), entry(6, vec![7])], &mut out);
        let golden = b"\0\0\0\0\x09\x0e\x07datacontext\x02\x07";
        assert_eq!((stored, &out[..]), (golden.len() as u32, &golden[..]));
    }

    #[test]
    fn every_field_comes_back_and_a_window_is_cut_out() {
        let entries: Vec<Entry> = (5..9).map(full).collect();
        assert_eq!(round_trip(&entries, 5..9).1, entries);
        assert_eq!(round_trip(&entries, 6..8).1, entries[1..3]);
    }

    #[test]
    fn what_compresses_is_compressed_and_what_does_not_is_not() {
        let (stored, read) = round_trip(&[entry(1, vec![9; 5000])], 1..2);
        assert!(stored & COMPRESSED != 0 && (stored & !COMPRESSED) < 200);
        assert_eq!(read, [entry(1, vec![9; 5000])]);
        let mut seed = 1u32;
        let mut noise = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        let noise: Vec<u8> = (0..5000).map(|_| noise()).collect();
        let (stored, read) = round_trip(&[entry(1, noise.clone())], 1..2);
        assert_eq!(stored & COMPRESSED, 0);
        assert_eq!(read, [entry(1, noise)]);
    }

    #[test]
    fn a_hostile_length_takes_no_memory() {
        let mut body = Vec::new();
        put_varint(&mut body, 1 << 40);
        body.extend([0; 16]);
        assert_eq!(unpack(COMPRESSED | 20, Bytes::from(body)), None);
        let mut entries = Vec::new();
        let body = Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        assert_eq!(decode_run(&body, 1, 1, &(1..2), &mut entries), None);
    }

    #[test]
    fn a_run_has_one_term_and_ends_when_it_is_large() {
        let mut entries: Vec<Entry> = (1..100).map(|i| entry(i, vec![0; 1000])).collect();
        assert_eq!(run_length(&entries), 17);
        entries[3].term = 4;
        assert_eq!(run_length(&entries), 3);
        assert_eq!(run_length(&entries[98..]), 1);
    }
}
