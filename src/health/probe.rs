//! A little that is written into a layer, synced, read back and removed. Uses: the seams.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;

use crate::app_store::{AppBatch, ApplicationDataStorage, Keyspace};
use crate::error::{Error, Result};
use crate::keys::{HEALTH_KEY, parse_region_key};
use crate::proto::{RaftLocalState, Region, RegionLocalState};
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotMeta, stream_error};
use crate::types::{Durability, KeyRange, LogPosition, PROBE_REGION};

/// Not more regions are named.
const NAMED_MAX: usize = 3;

/// Tries the log, by the state of a region that nobody has.
///
/// # Errors
/// Those of the log; `Corruption` if something else comes back.
pub(super) fn log(log: &dyn RaftLogStorage, number: u64) -> Result<()> {
    let state = RaftLocalState {
        last_index: number,
        ..RaftLocalState::default()
    };
    let mut batch = LogBatch::new();
    batch.state(PROBE_REGION, state.clone());
    log.write(&batch, Durability::Synced)?;
    let got = log.read_state(PROBE_REGION)?;
    let is_right = got.as_ref() == Some(&state);
    check(is_right, "log", || format!("{got:?}, expected {state:?}"))?;
    let mut batch = LogBatch::new();
    batch.clear_region(PROBE_REGION);
    log.write(&batch, Durability::Buffered)
}

/// Tries the data, by a key of the store's own.
///
/// # Errors
/// Those of the store; `Corruption` if something else comes back.
pub(super) fn app(app: &dyn ApplicationDataStorage, number: u64) -> Result<()> {
    let value = number.to_be_bytes();
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Store, HEALTH_KEY, value);
    app.write(&batch, Durability::Synced)?;
    let got = app.get(Keyspace::Store, HEALTH_KEY)?;
    let is_right = got.as_deref() == Some(&value);
    check(is_right, "data", || format!("{got:?}, expected {value:?}"))?;
    let mut batch = AppBatch::new();
    batch.delete(Keyspace::Store, HEALTH_KEY);
    app.write(&batch, Durability::Buffered)
}

/// Tries the snapshots, by one of a region that nobody has.
///
/// # Errors
/// Those of the store; `Corruption` if something else comes back.
pub(super) fn snapshots(store: &dyn RaftSnapshotStorage, number: u64) -> Result<()> {
    // What a process left that was killed in the middle.
    for left in store.list(Some(PROBE_REGION))? {
        store.delete(&left.key)?;
    }
    let region = Region::single(PROBE_REGION.0, 1);
    let content = number.to_be_bytes();
    let mut writer = store.create(SnapshotMeta {
        conf_state: region.conf_state(),
        position: LogPosition::new(1, number),
        region,
    })?;
    writer.write_all(&content).map_err(stream_error)?;
    let info = writer.commit()?;
    let mut got = Vec::new();
    let mut reader = store.open(&info.key)?;
    reader.read_to_end(&mut got).map_err(stream_error)?;
    drop(reader);
    check(got == content, "snapshots", || {
        format!("{got:?}, expected {content:?}")
    })?;
    store.delete(&info.key)
}

fn check(is_right: bool, layer: &str, detail: impl FnOnce() -> String) -> Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(Error::corruption(
            None,
            format!("probe of the {layer}"),
            detail(),
        )),
    }
}

/// The regions whose state does not decode, as words, if there are any.
///
/// # Errors
/// Those of the store.
pub(super) fn damaged_regions(app: &dyn ApplicationDataStorage) -> Result<Option<String>> {
    let (mut count, mut named) = (0, Vec::new());
    app.scan(
        Keyspace::RegionState,
        &KeyRange::all(),
        &mut |key, value| {
            let damage = match parse_region_key(key) {
                None => Some(format!("of the key {}", key.escape_ascii())),
                Some(region) => RegionLocalState::decode_of(region, value)
                    .err()
                    .map(|error| error.to_string()),
            };
            if let Some(damage) = damage {
                count += 1;
                if named.len() < NAMED_MAX {
                    named.push(damage);
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    let named = named.join(", ");
    Ok((count > 0).then(|| format!("the state of {count} regions is damaged: {named}")))
}
