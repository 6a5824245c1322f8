//! A snapshot storage that measures what is done with it. Uses: snapshot_store.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use metrics::{Counter, Histogram};

use super::{Scope, Stopwatch};
use crate::error::{Error, Result};
use crate::snapshot_store::{
    CleanUp, RaftSnapshotStorage, Retention, SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotMeta,
    SnapshotReader, SnapshotReceiver, SnapshotReport, SnapshotTransfer, SnapshotWriter,
};
use crate::types::{PROBE_REGION, RegionId};

/// The handles of one thing that happens to snapshots.
#[derive(Clone)]
pub(super) struct EventMetrics {
    count: Counter,
    failures: Counter,
    bytes: Counter,
    seconds: Histogram,
}

impl EventMetrics {
    pub fn new(scope: &Scope, event: &'static str) -> Self {
        EventMetrics {
            count: scope.counter("peerstore_snapshots_total", event),
            failures: scope.counter("peerstore_snapshot_failures_total", event),
            bytes: scope.counter("peerstore_snapshot_bytes_total", event),
            seconds: scope.histogram("peerstore_snapshot_seconds", event),
        }
    }

    /// It has come to its end.
    pub fn ended<T>(&self, result: &Result<T>, bytes: impl FnOnce(&T) -> u64, start: Stopwatch) {
        match result {
            Ok(value) => {
                self.count.increment(1);
                self.bytes.increment(bytes(value));
                self.seconds.record(start.elapsed());
            }
            Err(_) => self.failed(),
        }
    }

    /// It has failed.
    pub fn failed(&self) {
        self.failures.increment(1);
    }
}

/// The snapshots that were found damaged and are still there.
#[derive(Default)]
pub(crate) struct DamagedSnapshots(Mutex<BTreeSet<SnapshotKey>>);

impl DamagedSnapshots {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<SnapshotKey>> {
        // Each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let damaged = self.lock();
        let first = damaged.first()?;
        let count = damaged.len();
        Some(format!(
            "{count} snapshots are damaged, the first is {first}"
        ))
    }
}

/// Another storage, measured. Everything is handed through; what a check of the health does is not seen.
pub(crate) struct MeteredSnapshots {
    inner: Arc<dyn RaftSnapshotStorage>,
    damaged: Arc<DamagedSnapshots>,
    build: EventMetrics,
    receive: EventMetrics,
    verify: EventMetrics,
    remove: EventMetrics,
}

impl MeteredSnapshots {
    /// Measures `inner`.
    pub fn wrap(
        inner: Arc<dyn RaftSnapshotStorage>,
        damaged: &Arc<DamagedSnapshots>,
        scope: &Scope,
    ) -> Arc<Self> {
        Arc::new(MeteredSnapshots {
            inner,
            damaged: Arc::clone(damaged),
            build: EventMetrics::new(scope, "build"),
            receive: EventMetrics::new(scope, "receive"),
            verify: EventMetrics::new(scope, "verify"),
            remove: EventMetrics::new(scope, "remove"),
        })
    }

    fn receiver(
        &self,
        inner: Result<Box<dyn SnapshotReceiver>>,
    ) -> Result<Box<dyn SnapshotReceiver>> {
        Ok(Box::new(Metered::new(inner?, &self.receive)))
    }
}

impl RaftSnapshotStorage for MeteredSnapshots {
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        if meta.region.region_id() == PROBE_REGION {
            return self.inner.create(meta);
        }
        let created = self.inner.create(meta);
        if created.is_err() {
            self.build.failed();
        }
        Ok(Box::new(Metered::new(created?, &self.build)))
    }

    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>> {
        let inner = self.inner.open(key);
        if let Err(Error::Corruption { .. }) = &inner {
            self.verify.failed();
            self.damaged.lock().insert(*key);
        }
        Ok(Box::new(Watched {
            inner: inner?,
            failures: self.verify.failures.clone(),
            damaged: Arc::clone(&self.damaged),
        }))
    }

    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>> {
        self.inner.send(key)
    }

    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>> {
        self.receiver(self.inner.receive())
    }

    fn resume(&self, transfer: &SnapshotTransfer) -> Result<Box<dyn SnapshotReceiver>> {
        self.receiver(self.inner.resume(transfer))
    }

    fn install(&self, file: &mut dyn Read) -> Result<SnapshotInfo> {
        let start = Stopwatch::start();
        let received = self.inner.install(file);
        self.receive.ended(&received, |info| info.file_bytes, start);
        received
    }

    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        let mut infos = self.inner.list(region)?;
        if region != Some(PROBE_REGION) {
            infos.retain(|info| info.key.region != PROBE_REGION);
        }
        Ok(infos)
    }

    fn latest(&self, region: RegionId) -> Result<Option<SnapshotInfo>> {
        self.inner.latest(region)
    }

    fn delete(&self, key: &SnapshotKey) -> Result<()> {
        let start = Stopwatch::start();
        let removed = self.inner.delete(key);
        if key.region == PROBE_REGION {
            return removed;
        }
        if removed.is_ok() {
            self.damaged.lock().remove(key);
        }
        self.remove.ended(&removed, |()| 0, start);
        removed
    }

    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        let start = Stopwatch::start();
        let report = self.inner.verify(key)?;
        if report.is_intact() {
            let found = Ok(report.content_bytes);
            self.verify.ended(&found, |bytes| *bytes, start);
            self.damaged.lock().remove(key);
        } else {
            self.verify.failed();
            self.damaged.lock().insert(*key);
        }
        Ok(report)
    }

    fn clean_up(
        &self,
        retention: &Retention,
        truncated: &dyn Fn(RegionId) -> Option<u64>,
        now: SystemTime,
    ) -> Result<CleanUp> {
        let start = Stopwatch::start();
        let cleaned = self.inner.clean_up(retention, truncated, now);
        if let Ok(CleanUp {
            removed,
            removed_bytes,
            ..
        }) = &cleaned
        {
            self.remove.count.increment(*removed);
            self.remove.bytes.increment(*removed_bytes);
            self.remove.seconds.record(start.elapsed());
        }
        if let Ok(infos) = self.inner.list(None) {
            let is_there = |key: &SnapshotKey| infos.iter().any(|info| info.key == *key);
            // One whose head cannot be read is not listed, and not removed by a policy either.
            let mut damaged = self.damaged.lock();
            damaged.retain(|key| is_there(key) || self.inner.send(key).is_ok());
        }
        cleaned
    }
}

/// A writer or receiver, measured from its beginning to its commit. One that is given up counts for
/// nothing, unless it had failed.
struct Metered<W: ?Sized> {
    event: EventMetrics,
    start: Stopwatch,
    has_failed: bool,
    inner: Box<W>,
}

impl<W: Write + ?Sized> Metered<W> {
    fn new(inner: Box<W>, event: &EventMetrics) -> Self {
        Metered {
            event: event.clone(),
            start: Stopwatch::start(),
            has_failed: false,
            inner,
        }
    }

    fn commit(self, commit: impl FnOnce(Box<W>) -> Result<SnapshotInfo>) -> Result<SnapshotInfo> {
        let committed = commit(self.inner);
        // What failed while it was written was counted then.
        if committed.is_ok() || !self.has_failed {
            (self.event).ended(&committed, |info| info.file_bytes, self.start);
        }
        committed
    }
}

impl<W: Write + ?Sized> Write for Metered<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes);
        if written.is_err() && !self.has_failed {
            self.has_failed = true;
            self.event.failures.increment(1);
        }
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl SnapshotWriter for Metered<dyn SnapshotWriter> {
    fn count_entries(&mut self, count: u64) {
        self.inner.count_entries(count);
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        Metered::commit(*self, |inner| inner.commit())
    }
}

impl SnapshotReceiver for Metered<dyn SnapshotReceiver> {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        Metered::commit(*self, |inner| inner.commit())
    }
}

/// A reader, of which damage is counted.
struct Watched {
    inner: Box<dyn SnapshotReader>,
    failures: Counter,
    damaged: Arc<DamagedSnapshots>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer);
        if matches!(&read, Err(error) if error.kind() == ErrorKind::InvalidData) {
            self.failures.increment(1);
            self.damaged.lock().insert(self.inner.info().key);
        }
        read
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

impl SnapshotReader for Watched {
    fn info(&self) -> &SnapshotInfo {
        self.inner.info()
    }
}
