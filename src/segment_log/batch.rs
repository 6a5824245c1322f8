//! From a [`LogBatch`] to the bytes and index operations of a frame. Done by the caller's own thread,
//! checksums of the payload included; what depends on the place in the log is added by the leader.
//! Never does I/O.

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

/// A batch, ready to be put into a frame.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub dir: Vec<u8>,
    pub data: Vec<u8>,
    /// The offsets of runs are within `data`, where the checksum of their bytes alone stands in front
    /// of them until they have a place.
    pub ops: Vec<Op>,
    pub entries: u64,
    /// The bytes of entries and of everything else, before compression.
    pub bytes: u64,
}

impl Encoded {
    /// # Errors
    /// `InvalidArgument` if the entries of an append are not contiguous, or there is too much.
    pub fn of(batch: &LogBatch, compressor: &Compressor) -> Result<Encoded> {
        let count = batch.ops().len();
        let mut encoded = Encoded {
            ops: Vec::with_capacity(count),
            ..Encoded::default()
        };
        let mut writer = DirWriter::default();
        writer.bytes.reserve(count * OP_BYTES);
        for op in batch.ops() {
            match op {
                LogOp::Append { region, entries } => {
                    encoded.append(*region, entries, compressor, &mut writer)?;
                }
                LogOp::Remove { region, range } => encoded.push(
                    Op::Remove {
                        region: *region,
                        range: range.clone(),
                    },
                    &mut writer,
                ),
                LogOp::State { region, state } => {
                    let (region, state) = (*region, state.into());
                    encoded.push(Op::State { region, state }, &mut writer);
                }
                LogOp::Clear { region } => {
                    encoded.push(Op::Clear { region: *region }, &mut writer);
                }
            }
        }
        encoded.bytes += writer.bytes.len() as u64;
        encoded.dir = writer.bytes;
        Ok(encoded)
    }

    /// A batch of operations without data.
    pub fn of_ops(ops: Vec<Op>) -> Encoded {
        let mut writer = DirWriter::default();
        ops.iter().for_each(|op| writer.add(op));
        Encoded {
            dir: writer.bytes,
            ops,
            ..Encoded::default()
        }
    }

    fn push(&mut self, op: Op, writer: &mut DirWriter) {
        writer.add(&op);
        self.ops.push(op);
    }

    fn append(
        &mut self,
        region: RegionId,
        entries: &[raft::eraftpb::Entry],
        compressor: &Compressor,
        writer: &mut DirWriter,
    ) -> Result<()> {
        check(region, entries)?;
        let bytes: usize = entries
            .iter()
            .map(|e| e.data.len() + e.context.len() + 16)
            .sum();
        if self.data.len().saturating_add(bytes) > BATCH_BYTES_MAX {
            let got = format!("{} bytes and more", self.data.len().saturating_add(bytes));
            let expected = format!("at most {BATCH_BYTES_MAX} in a batch");
            return Err(Error::invalid(region, "append", got, expected));
        }
        self.data.reserve(bytes);
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let (run, behind) = rest.split_at(run_length(rest));
            let offset = self.data.len();
            let (stored, raw) = compressor.run(run, &mut self.data);
            self.bytes += raw;
            let (crc, body) = self.data[offset..].split_at_mut(RUN_CRC_BYTES);
            crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
            let op = Op::Run(Run {
                region,
                first: first.index,
                count: run.len() as u32,
                term: first.term,
                stored,
                offset: offset as u32,
            });
            self.push(op, writer);
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

/// That the entries are contiguous and ascending, and leave room for an index behind the last.
fn check(region: RegionId, entries: &[raft::eraftpb::Entry]) -> Result<()> {
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
