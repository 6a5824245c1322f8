//! From a [`LogBatch`] to the bytes and index operations of a frame. Done by the caller's own thread,
//! checksums of the payload included; what depends on the place in the log is added by the leader.
//! Never does I/O.

use raft::eraftpb::Entry;

use super::entries::{Compressor, run_length};
use super::format::{COMPRESSED, DirWriter, RUN_CRC_BYTES, run_crc};
use super::index::{Op, Run};
use crate::error::{Error, Result};
use crate::raft_log::{LogBatch, LogOp};
use crate::types::RegionId;

/// The most bytes of a batch: offsets in a segment have 32 bits.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// What an operation takes in a directory, mostly.
const OP_BYTES: usize = 16;
/// What a batch may have taken for its memory to be kept for another.
const KEPT_BYTES: usize = 4 << 10;
const KEPT_OPS: usize = 16;

/// A batch, ready to be put into a frame.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// The data, and behind it the directory.
    buffer: Vec<u8>,
    data_bytes: usize,
    /// The offsets of runs are within the data, where the checksum of their bytes alone stands in front
    /// of them until they have a place.
    pub ops: Vec<Op>,
    pub entries: u64,
    /// The bytes of entries and of everything else, before compression.
    pub bytes: u64,
}

impl Encoded {
    /// `spare` is one that was written, for its memory.
    ///
    /// # Errors
    /// `InvalidArgument` if the entries of an append are not contiguous, or there is too much.
    pub fn of(batch: &LogBatch, compressor: &Compressor, spare: Encoded) -> Result<Encoded> {
        let mut encoded = spare;
        encoded.clear();
        let data = data_bytes_max(batch)?;
        let count = batch.ops().len();
        encoded.buffer.reserve(data + count * OP_BYTES);
        encoded.ops.reserve(count);
        for op in batch.ops() {
            match op {
                LogOp::Append { region, entries } => {
                    encoded.append(*region, entries, compressor)?
                }
                LogOp::Remove { region, range } => encoded.ops.push(Op::Remove {
                    region: *region,
                    range: range.clone(),
                }),
                LogOp::State { region, state } => {
                    let (region, state) = (*region, state.into());
                    encoded.ops.push(Op::State { region, state });
                }
                LogOp::Clear { region } => encoded.ops.push(Op::Clear { region: *region }),
            }
        }
        encoded.write_dir();
        encoded.bytes += encoded.dir().len() as u64;
        Ok(encoded)
    }

    /// A batch of operations without data.
    pub fn of_ops(ops: Vec<Op>) -> Encoded {
        let mut encoded = Encoded {
            ops,
            ..Encoded::default()
        };
        encoded.write_dir();
        encoded
    }

    /// What the frame's directory has of it. Empty if there is nothing to write.
    pub fn dir(&self) -> &[u8] {
        &self.buffer[self.data_bytes..]
    }

    /// What the frame's data has of it.
    pub fn data(&self) -> &[u8] {
        &self.buffer[..self.data_bytes]
    }

    /// Whether its memory is worth keeping for another.
    pub fn is_kept(&self) -> bool {
        self.buffer.capacity() <= KEPT_BYTES && self.ops.capacity() <= KEPT_OPS
    }

    fn clear(&mut self) {
        let (mut buffer, mut ops) = (
            std::mem::take(&mut self.buffer),
            std::mem::take(&mut self.ops),
        );
        buffer.clear();
        ops.clear();
        *self = Encoded {
            buffer,
            ops,
            ..Encoded::default()
        };
    }

    fn write_dir(&mut self) {
        self.data_bytes = self.buffer.len();
        let mut writer = DirWriter::behind(std::mem::take(&mut self.buffer));
        self.ops.iter().for_each(|op| writer.add(op));
        self.buffer = writer.bytes;
    }

    fn append(
        &mut self,
        region: RegionId,
        entries: &[Entry],
        compressor: &Compressor,
    ) -> Result<()> {
        check(region, entries)?;
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let (run, behind) = rest.split_at(run_length(rest));
            let offset = self.buffer.len();
            let (stored, raw) = compressor.run(run, &mut self.buffer);
            self.bytes += raw;
            let (crc, body) = self.buffer[offset..].split_at_mut(RUN_CRC_BYTES);
            crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
            self.ops.push(Op::Run(Run {
                region,
                first: first.index,
                count: run.len() as u32,
                term: first.term,
                stored,
                offset: offset as u32,
            }));
            rest = behind;
        }
        self.entries += entries.len() as u64;
        Ok(())
    }

    /// Finishes the runs for their place: `data`, a copy of this batch's, begins at `start` of the
    /// segment that `seed` is of. Their operations get their final offsets.
    pub fn place(&mut self, seed: u32, start: u64, data: &mut [u8]) {
        for op in &mut self.ops {
            let Op::Run(run) = op else {
                continue;
            };
            let within = run.offset as usize;
            run.offset += start as u32;
            let crc = &mut data[within..within + RUN_CRC_BYTES];
            let body = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
            let whole = run_crc(body, run.region, run.first, seed, u64::from(run.offset));
            crc.copy_from_slice(&whole.to_le_bytes());
        }
    }
}

/// Whether the bytes of `run`, checksum and all, are what was written for it at `offset`. The second
/// is what the checksum should have been.
pub(super) fn check_run(run: &Run, seed: u32, bytes: &[u8]) -> Result<(), (u32, u32)> {
    assert_eq!(bytes.len(), (run.stored & !COMPRESSED) as usize);
    let (crc, body) = bytes.split_at(RUN_CRC_BYTES);
    let stored = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    let offset = u64::from(run.offset);
    let computed = run_crc(crc32c::crc32c(body), run.region, run.first, seed, offset);
    if stored == computed {
        Ok(())
    } else {
        Err((stored, computed))
    }
}

/// The most that the data of `batch` takes, without compression.
fn data_bytes_max(batch: &LogBatch) -> Result<usize> {
    let mut bytes = 0usize;
    for op in batch.ops() {
        let LogOp::Append { region, entries } = op else {
            continue;
        };
        let sizes = entries.iter().map(|e| e.data.len() + e.context.len() + 16);
        bytes = bytes.saturating_add(sizes.sum());
        if bytes > BATCH_BYTES_MAX {
            let got = format!("{bytes} bytes and more");
            let expected = format!("at most {BATCH_BYTES_MAX} in a batch");
            return Err(Error::invalid(*region, "append", got, expected));
        }
    }
    Ok(bytes)
}

/// That the entries are contiguous and ascending, and leave room for an index behind the last.
fn check(region: RegionId, entries: &[Entry]) -> Result<()> {
    let Some(first) = entries.first() else {
        return Ok(());
    };
    for (at, entry) in entries.iter().enumerate() {
        let expected = first.index.wrapping_add(at as u64);
        if entry.index != expected || entry.index == u64::MAX {
            let got = format!("index {}", entry.index);
            let expected = format!("{expected}, below {}", u64::MAX);
            return Err(Error::invalid(region, "append", got, expected));
        }
    }
    Ok(())
}
