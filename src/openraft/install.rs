//! Installing a snapshot: checked and read whole first, then switched in steps that a crash may fall
//! between. Uses: app_store, snapshot, gate. Waits for the disk.
//!
//! | step | what becomes durable | a crash after it |
//! |---|---|---|
//! | 1 | the snapshot's file | the file is removed: it was never installed |
//! | 2 | kv: which file is being installed | the data is imported again |
//! | 3 | kv: the data | the same |
//! | 4 | kv: applied log id and membership, the mark of step 2 goes | nothing to do for the data |
//! | 5 | log: the entries that it covers go | openraft purges them when it starts |

use openraft::{BasicNode, SnapshotMeta};
use prost::Message as _;

use super::machine::{MachineCore, read_applied};
use super::snapshot::{Applied, Files};
use super::wire::{ApplyRecord, PendingInstall};
use crate::app_store::{AppBatch, ApplicationDataStorage, DataImport, Keyspace};
use crate::error::{Error, RecoveryError, Result};
use crate::keys::region_key;
use crate::peer_storage::read_content;
use crate::proto::decode;
use crate::snapshot_store::{SnapshotInfo, SnapshotKey};
use crate::types::{Durability, RegionId};

/// Installs the file `info`, which is in the store, and of which the leader says that it is `expected`.
///
/// # Errors
/// `SnapshotRefused` if it is of something else, `Corruption` if it is damaged: nothing has changed then.
/// After any other error the group has to be opened again, which goes on.
pub(super) fn install(
    core: &MachineCore,
    info: &SnapshotInfo,
    expected: &SnapshotMeta<u64, BasicNode>,
) -> Result<()> {
    let key = info.key;
    let (applied, import) = match stage(core, info, expected) {
        Ok(staged) => staged,
        Err(error) => {
            // It was never installed; if it stays, the next open removes it.
            core.files.store.delete(&key).ok();
            return Err(error);
        }
    };
    write_pending(&*core.app, &key)?;
    core.lock().is_installing = true;
    let record = finish(&*core.app, core.files.region, &applied, import)?;
    let end = applied.end();
    {
        let mut state = core.lock();
        state.applied = record;
        state.is_installing = false;
    }
    core.gate.note_durable(end);
    if let Err(error) = core.files.clean_up(Some(key), |other| other < key) {
        tracing::warn!(%error, "older snapshots were not removed");
    }
    Ok(())
}

/// Reads the whole file, checked, into an import that has changed nothing yet.
fn stage(
    core: &MachineCore,
    info: &SnapshotInfo,
    expected: &SnapshotMeta<u64, BasicNode>,
) -> Result<(Applied, Box<dyn DataImport>)> {
    let Files { region, range, .. } = &core.files;
    let refused = |reason: String| Error::SnapshotRefused {
        region: *region,
        reason,
    };
    let of = &info.meta.region;
    if of.region_id() != *region || of.range() != *range {
        let (got, keys) = (of.region_id(), of.range());
        return Err(refused(format!(
            "it is of group {got} with the keys {keys}, expected {region} with {range}"
        )));
    }
    let (applied, import) = read_into_import(core.app.as_ref(), &core.files, &info.key)?;
    if applied.log_id != expected.last_log_id || applied.membership != expected.last_membership {
        let got = (applied.log_id, &applied.membership);
        let want = (expected.last_log_id, &expected.last_membership);
        return Err(refused(format!(
            "the file is of {got:?}, the leader says {want:?}"
        )));
    }
    let present = core.lock().applied.log_id;
    if applied.log_id.is_none() || applied.log_id < present {
        let got = applied.log_id;
        return Err(refused(format!(
            "it is of {got:?}, and {present:?} is applied already"
        )));
    }
    Ok((applied, import))
}

fn read_into_import(
    app: &dyn ApplicationDataStorage,
    files: &Files,
    key: &SnapshotKey,
) -> Result<(Applied, Box<dyn DataImport>)> {
    let (applied, mut reader) = files.open(key)?;
    let mut import = app.begin_import(&files.range)?;
    read_content(key, &mut *reader, &mut *import)?;
    Ok((applied, import))
}

/// Step 2.
fn write_pending(app: &dyn ApplicationDataStorage, key: &SnapshotKey) -> Result<()> {
    let pending = PendingInstall {
        file: Some(key.id.into()),
    };
    let mut batch = AppBatch::new();
    let bytes = pending.encode_to_vec();
    batch.put(Keyspace::SnapshotState, region_key(key.region), bytes);
    app.write(&batch, Durability::Synced)
}

/// Steps 3 and 4.
fn finish(
    app: &dyn ApplicationDataStorage,
    region: RegionId,
    applied: &Applied,
    import: Box<dyn DataImport>,
) -> Result<Applied> {
    import.finish()?;
    let mut batch = AppBatch::new();
    if let Some(log_id) = applied.log_id {
        let record = ApplyRecord::new(log_id, &applied.membership).encode_to_vec();
        batch.put(Keyspace::ApplyState, region_key(region), record);
    }
    batch.delete(Keyspace::SnapshotState, region_key(region));
    app.write(&batch, Durability::Synced)?;
    Ok(applied.clone())
}

/// What the state machine of a group has come to, after an install that was cut has been gone on with,
/// and without files that were never installed. Everything that it says is durable.
///
/// # Errors
/// `Recovery` if the file of such an install cannot be read; `Corruption`; those of the stores.
pub(super) fn recover(app: &dyn ApplicationDataStorage, files: &Files) -> Result<Applied> {
    let region = files.region;
    let applied = match app.get(Keyspace::SnapshotState, &region_key(region))? {
        Some(bytes) => {
            let pending: PendingInstall = decode(region, "openraft's pending install", &bytes)?;
            go_on(app, files, &pending)?
        }
        None => read_applied(app, region)?,
    };
    // The data of a process that died may not be on the medium yet, though it can be read.
    app.sync()?;
    let current = files.current(&applied)?.map(|(_, info)| info.key);
    files.clean_up(current, |_| true)?;
    Ok(applied)
}

fn go_on(
    app: &dyn ApplicationDataStorage,
    files: &Files,
    pending: &PendingInstall,
) -> Result<Applied> {
    let region = files.region;
    let Some(file) = pending.file else {
        let source = RecoveryError::PendingSnapshotMissing;
        return Err(Error::Recovery { region, source });
    };
    let key = file.key(region);
    let (applied, import) =
        read_into_import(app, files, &key).map_err(|error| Error::Recovery {
            region,
            source: RecoveryError::SnapshotFileMissing {
                name: key.to_string(),
                reason: error.to_string(),
            },
        })?;
    finish(app, region, &applied, import)
}
