//! Reading a file to see what is wrong with it, or how much of it has come. Uses: snapshot_format,
//! snapshot_store, error.

use std::io::SeekFrom;
use std::path::Path;

use super::layout::{Header, Layout};
use super::read::{Decoder, misnamed};
use super::{BLOCK_HEAD_BYTES, Fault, Fields, block_crc, read_part, seek};
use crate::error::{Error, Result};
use crate::snapshot_store::{
    DAMAGE_MAX, SnapshotDamage, SnapshotFile, SnapshotKey, SnapshotPart, SnapshotReport,
    SnapshotTransfer,
};

/// Reads all of the file that is stored under `key`.
///
/// # Errors
/// Those that say nothing about the file's bytes.
pub(crate) fn report(
    mut file: Box<dyn SnapshotFile>,
    path: &Path,
    key: &SnapshotKey,
) -> Result<SnapshotReport> {
    let mut report = SnapshotReport {
        key: *key,
        blocks: 0,
        content_bytes: 0,
        damage: Vec::new(),
    };
    let layout = match Layout::read(&mut *file, path) {
        Ok(layout) => layout,
        Err(fault) => {
            note(&mut report, fault)?;
            return Ok(report);
        }
    };
    let named = layout.header.key(key.id.sequence);
    if named != *key {
        let detail = misnamed(&named, key);
        note(&mut report, Fault::new(SnapshotPart::Header, 0, detail))?;
    }
    let mut decoder = Decoder::of_layout(file, path, layout)?;
    while decoder.has_blocks() && report.damage.len() < DAMAGE_MAX {
        let Err(fault) = decoder.read_block() else {
            report.blocks += 1;
            report.content_bytes += decoder.block().len() as u64;
            continue;
        };
        note(&mut report, fault)?;
        // Where its lengths are not to be believed, nobody knows where the next one starts.
        match decoder.skip_block() {
            Ok(()) => {}
            Err(Fault::Damage(_)) => return Ok(report),
            Err(Fault::Other(error)) => return Err(error),
        }
    }
    if !decoder.has_blocks()
        && let Err(fault) = decoder.check_end()
    {
        note(&mut report, fault)?;
    }
    Ok(report)
}

fn note(report: &mut SnapshotReport, fault: Fault) -> Result<(), Error> {
    match fault {
        Fault::Damage(damage) => report.damage.push(damage),
        Fault::Other(error) => return Err(error),
    }
    Ok(())
}

/// How much of a file that broke off is there and whole: its header and its blocks up to the first
/// that is not, in bytes. Nothing if it is not the file of `transfer`. The checksums say what a power
/// cut has spared, so that nothing needs to be synced while a file comes.
///
/// # Errors
/// `Io`.
pub(crate) fn whole_prefix(
    file: &mut dyn SnapshotFile,
    path: &Path,
    transfer: &SnapshotTransfer,
) -> Result<u64> {
    let end = seek(file, SeekFrom::End(0), path)?;
    let (header, mut offset) = match Header::read(file, path) {
        Ok(read) => read,
        Err(Fault::Damage(_) | Fault::Other(Error::UnsupportedVersion { .. })) => return Ok(0),
        Err(Fault::Other(error)) => return Err(error),
    };
    let named = header.key(transfer.key.id.sequence);
    if named != transfer.key || header.stamp.identity != transfer.file_id {
        return Ok(0);
    }
    let mut stored = Vec::new();
    for number in 0.. {
        match whole_block(file, path, &header, (number, offset, end), &mut stored) {
            Ok(length) => offset += length,
            Err(Fault::Damage(SnapshotDamage { .. })) => break,
            Err(Fault::Other(error)) => return Err(error),
        }
    }
    Ok(offset)
}

/// The bytes that block `number` at `offset` takes, if it is there and whole before `end`.
fn whole_block(
    file: &mut dyn SnapshotFile,
    path: &Path,
    header: &Header,
    (number, offset, end): (u64, u64, u64),
    stored: &mut Vec<u8>,
) -> Result<u64, Fault> {
    let part = SnapshotPart::Block(number);
    let broken = || Fault::new(part, offset, "it broke off".into());
    let room = (end.checked_sub(offset + BLOCK_HEAD_BYTES as u64)).ok_or_else(broken)?;
    let mut head = [0; BLOCK_HEAD_BYTES];
    read_part(file, (part, offset), &mut head, path)?;
    let mut fields = Fields(&head);
    let (raw_len, stored_len, crc) = (fields.u32(), fields.u32(), fields.u32());
    // Lengths are checked before memory is taken.
    if raw_len > header.block_bytes || stored_len == 0 || stored_len > raw_len {
        return Err(broken());
    }
    if u64::from(stored_len) > room {
        return Err(broken());
    }
    stored.resize(stored_len as usize, 0);
    let data = offset + BLOCK_HEAD_BYTES as u64;
    read_part(file, (part, data), stored, path)?;
    if block_crc(header.stamp.identity, number, &head[..8], stored) != crc {
        return Err(broken());
    }
    Ok(BLOCK_HEAD_BYTES as u64 + u64::from(stored_len))
}
