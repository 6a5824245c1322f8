//! Snapshots that are not finished yet. Uses: snapshot_dir, fs, snapshot_format, error.

use std::path::PathBuf;
use std::sync::Arc;

use super::index::{Pin, Reservation};
use super::{FileCursor, Shared};
use crate::error::Result;
use crate::fs::File;
use crate::snapshot_format::{Decoder, Encoder, Sink, SinkStream, check_limit};
use crate::snapshot_store::{SnapshotInfo, SnapshotReceiver, SnapshotWriter};

/// A file that is not published yet.
pub(super) struct Staged {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    /// What was written of it, from its start.
    pub(super) length: u64,
    pub(super) fate: Fate,
}

/// What becomes of a file when nobody works on it any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is given up.
    Removed,
    /// Another try goes on with it.
    Kept,
    /// It is a snapshot.
    Published,
}

impl Staged {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Staged> {
        let path = shared.staged_path();
        Ok(Staged {
            shared: Arc::clone(shared),
            file: shared.fs.create(&path)?.into(),
            path,
            length: 0,
            fate: Fate::Removed,
        })
    }

    /// Makes it durable under the next free name of its position, which it answers.
    fn publish(self, info: SnapshotInfo) -> Result<SnapshotInfo> {
        self.file.sync()?;
        let reservation = Reservation::new(&self.shared, &info.key)?;
        // Declared after the reservation, so dropped before it: the name is free once the file is gone.
        let mut staged = self;
        let target = staged.shared.path(reservation.key());
        let shared = Arc::clone(&staged.shared);
        shared.rename(&mut staged.path, target)?;
        staged.fate = Fate::Published;
        Ok(reservation.fill(info))
    }

    /// Checks all of it and publishes it, unless the same content is there already.
    pub(super) fn take_in(mut self) -> Result<SnapshotInfo> {
        self.fate = Fate::Removed;
        let file = FileCursor::new(Arc::clone(&self.file))?;
        let info = Decoder::new(Box::new(file), &self.path)?.check()?;
        match intact_twin(&self.shared, &info) {
            Some(twin) => Ok(twin),
            None => self.publish(info),
        }
    }
}

impl Sink for Staged {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nothing is no part of anything.
        let is_kept = self.fate == Fate::Kept && self.length > 0;
        if is_kept || self.fate == Fate::Published {
            return;
        }
        if let Err(error) = self.shared.fs.remove(&self.path) {
            tracing::warn!(%error, "an unfinished snapshot stays until the store is opened again");
        }
    }
}

impl SnapshotWriter for SinkStream<Encoder<Staged>> {
    fn count_entries(&mut self, count: u64) {
        if let Some(encoder) = self.sink_mut() {
            encoder.count_entries(count);
        }
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let (staged, info) = self.into_inner()?.finish()?;
        staged.publish(info)
    }
}

/// A file that comes from another store.
pub(super) struct Received(pub(super) Staged);

impl Sink for Received {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let limit = self.0.shared.options.file_bytes_max;
        check_limit(&self.0.path, self.0.length, bytes.len(), limit)?;
        self.0.put(bytes)
    }
}

impl SnapshotReceiver for SinkStream<Received> {
    fn offset(&self) -> u64 {
        self.sink().map_or(0, |Received(staged)| staged.length)
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let Received(staged) = self.into_inner()?;
        staged.take_in()
    }
}

/// A snapshot with the same content that is there already. It is read through before a good copy is
/// given up for it: a transfer is how a damaged one is replaced.
fn intact_twin(shared: &Arc<Shared>, info: &SnapshotInfo) -> Option<SnapshotInfo> {
    let twin = shared.index.twin(info)?;
    let _pin = Pin::new(shared, &twin.key)?;
    let file = shared.cursor(&twin.key);
    match file.and_then(|file| shared.decoder(&twin.key, file)?.check()) {
        Ok(twin) => Some(twin),
        Err(error) => {
            tracing::warn!(snapshot = %twin.key, %error, "damaged; the received one is kept beside it");
            None
        }
    }
}
