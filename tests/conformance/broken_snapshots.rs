//! Snapshot stores that are broken on purpose, to see the suite catch them.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::SystemTime;

use peerstore::conformance::{self, Harness};
use peerstore::memory::MemorySnapshots;
use peerstore::{
    CleanUp, Error, RaftSnapshotStorage, RegionId, Result, Retention, SnapshotFile, SnapshotInfo,
    SnapshotKey, SnapshotMeta, SnapshotReader, SnapshotReceiver, SnapshotReport, SnapshotTransfer,
    SnapshotWriter,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    LosesTheRange,
    LosesLearners,
    CountsNothing,
    CommitsOnDrop,
    ListsBackwards,
    ListsEveryRegion,
    LatestIsTheFirst,
    CannotSeek,
    SeeksFromTheStart,
    EndsEarly,
    ForgetsToDelete,
    DeletesAll,
    IsNeverInUse,
    DamagesReports,
    KeepsEverything,
    KeepsTheOldest,
    CleansTheNewest,
    CleansWhatTheLogNeeds,
    Miscounts,
    InstallsHalf,
    TrustsEveryFile,
    SendsTheStartOnly,
    ResumesTooFar,
    ResumesElsewhere,
    MixesFiles,
    LosesAllOnReopening,
    ForgetsOnePerCrash,
    IsNeverEmpty,
    GivesOneIdToAll,
    ShowsUnfinished,
    CleansWithoutALimit,
}

use Flaw::*;

const FLAWS: [Flaw; 31] = [
    LosesTheRange,
    LosesLearners,
    CountsNothing,
    CommitsOnDrop,
    ListsBackwards,
    ListsEveryRegion,
    LatestIsTheFirst,
    CannotSeek,
    SeeksFromTheStart,
    EndsEarly,
    ForgetsToDelete,
    DeletesAll,
    IsNeverInUse,
    DamagesReports,
    KeepsEverything,
    KeepsTheOldest,
    CleansTheNewest,
    CleansWhatTheLogNeeds,
    Miscounts,
    InstallsHalf,
    TrustsEveryFile,
    SendsTheStartOnly,
    ResumesTooFar,
    ResumesElsewhere,
    MixesFiles,
    LosesAllOnReopening,
    ForgetsOnePerCrash,
    IsNeverEmpty,
    GivesOneIdToAll,
    ShowsUnfinished,
    CleansWithoutALimit,
];

#[derive(Clone)]
struct Broken {
    store: MemorySnapshots,
    flaw: Flaw,
}

impl Broken {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }
}

impl RaftSnapshotStorage for Broken {
    fn create(&self, mut meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        if self.is(LosesTheRange) {
            meta.region.end_key.clear();
        }
        if self.is(LosesLearners) {
            meta.conf_state.learners.clear();
        }
        if self.is(ShowsUnfinished) {
            self.store.create(meta.clone())?.commit()?;
        }
        Ok(Box::new(Writer {
            inner: Some(self.store.create(meta)?),
            flaw: self.flaw,
        }))
    }

    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>> {
        let mut inner = self.store.open(key)?;
        if self.is(IsNeverInUse) {
            inner = copy_of(inner)?;
        }
        let left = inner.info().content_bytes
            - u64::from(self.is(EndsEarly) && inner.info().content_bytes > 0);
        Ok(Box::new(Reader {
            inner,
            flaw: self.flaw,
            left,
        }))
    }

    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>> {
        let mut file = self.store.send(key)?;
        if self.is(SendsTheStartOnly) || self.is(IsNeverInUse) {
            let mut bytes = Vec::new();
            let limit = if self.is(IsNeverInUse) {
                u64::MAX
            } else {
                1 << 10
            };
            (&mut file)
                .take(limit)
                .read_to_end(&mut bytes)
                .map_err(own)?;
            return Ok(Box::new(io::Cursor::new(bytes)));
        }
        Ok(file)
    }

    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>> {
        let inner = self.store.receive()?;
        Ok(Box::new(Receiver {
            inner: Some(inner),
            store: self.clone(),
        }))
    }

    fn resume(&self, transfer: &SnapshotTransfer) -> Result<Box<dyn SnapshotReceiver>> {
        let mut transfer = *transfer;
        if self.is(MixesFiles) {
            transfer.file_id = 0;
        }
        let inner = self.store.resume(&transfer)?;
        Ok(Box::new(Receiver {
            inner: Some(inner),
            store: self.clone(),
        }))
    }

    fn install(&self, file: &mut dyn Read) -> Result<SnapshotInfo> {
        let mut receiver = self.receive()?;
        match io::copy(file, &mut receiver) {
            Err(_) if self.is(InstallsHalf) => {}
            Err(error) => return Err(own(error)),
            Ok(_) => {}
        }
        receiver.commit()
    }

    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        let region = region.filter(|_| !self.is(ListsEveryRegion));
        let mut infos = self.store.list(region)?;
        if self.is(IsNeverEmpty) && infos.is_empty() {
            let other = MemorySnapshots::new();
            infos.push(other.create(SnapshotMeta::default())?.commit()?);
        }
        if self.is(ListsBackwards) {
            infos.reverse();
        }
        Ok(infos)
    }

    fn latest(&self, region: RegionId) -> Result<Option<SnapshotInfo>> {
        match self.flaw {
            LatestIsTheFirst => Ok(self.store.list(Some(region))?.into_iter().next()),
            _ => self.store.latest(region),
        }
    }

    fn delete(&self, key: &SnapshotKey) -> Result<()> {
        match self.flaw {
            ForgetsToDelete => Ok(()),
            DeletesAll => {
                let infos = self.store.list(Some(key.region))?;
                infos
                    .iter()
                    .try_for_each(|info| self.store.delete(&info.key))
            }
            _ => self.store.delete(key),
        }
    }

    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        let mut report = self.store.verify(key)?;
        if self.is(DamagesReports) {
            report.content_bytes = 0;
        }
        Ok(report)
    }

    fn clean_up(
        &self,
        retention: &Retention,
        truncated: &dyn Fn(RegionId) -> Option<u64>,
        now: SystemTime,
    ) -> Result<CleanUp> {
        let infos = self.store.list(None)?;
        match self.flaw {
            KeepsEverything => Ok(CleanUp::default()),
            KeepsTheOldest => {
                let goes = retention.superseded(&infos, truncated, now).len() as u64;
                let last = infos.iter().rev().take(goes as usize);
                last.for_each(|info| drop(self.store.delete(&info.key)));
                Ok(CleanUp {
                    removed: goes,
                    ..CleanUp::default()
                })
            }
            CleansTheNewest if retention.max_age.is_some_and(|age| age.is_zero()) => {
                infos
                    .iter()
                    .try_for_each(|info| self.store.delete(&info.key))?;
                Ok(CleanUp {
                    removed: 4,
                    ..CleanUp::default()
                })
            }
            CleansWithoutALimit if retention.is_unlimited() => {
                self.store
                    .clean_up(&Retention::keep_latest(1), truncated, now)
            }
            CleansWhatTheLogNeeds => self.store.clean_up(retention, &|_| None, now),
            Miscounts => {
                let mut done = self.store.clean_up(retention, truncated, now)?;
                done.removed += done.in_use;
                done.in_use = 0;
                Ok(done)
            }
            _ => self.store.clean_up(retention, truncated, now),
        }
    }
}

struct Writer {
    inner: Option<Box<dyn SnapshotWriter>>,
    flaw: Flaw,
}

impl Writer {
    fn inner(&mut self) -> &mut dyn SnapshotWriter {
        &mut **self.inner.as_mut().expect("it is not committed")
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

impl SnapshotWriter for Writer {
    fn count_entries(&mut self, count: u64) {
        if self.flaw != CountsNothing {
            self.inner().count_entries(count);
        }
    }
    fn commit(mut self: Box<Self>) -> Result<SnapshotInfo> {
        let mut info = self.inner.take().expect("it is not committed").commit()?;
        if self.flaw == GivesOneIdToAll {
            info.file_id = 1;
        }
        Ok(info)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take()
            && self.flaw == CommitsOnDrop
        {
            let _ = inner.commit();
        }
    }
}

fn own(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(|source| Error::Io {
        op: "copy",
        path: "(stream)".into(),
        source,
    })
}

/// The same content, in nobody's use.
fn copy_of(mut reader: Box<dyn SnapshotReader>) -> Result<Box<dyn SnapshotReader>> {
    let mut content = Vec::new();
    reader.read_to_end(&mut content).map_err(own)?;
    let info = reader.info().clone();
    Ok(Box::new(Copied(io::Cursor::new(content), info)))
}

struct Copied(io::Cursor<Vec<u8>>, SnapshotInfo);

impl Read for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for Copied {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl SnapshotReader for Copied {
    fn info(&self) -> &SnapshotInfo {
        &self.1
    }
}

struct Reader {
    inner: Box<dyn SnapshotReader>,
    flaw: Flaw,
    left: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.flaw != EndsEarly {
            return self.inner.read(buffer);
        }
        let most = buffer.len().min(self.left as usize);
        let count = self.inner.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match (self.flaw, to) {
            (CannotSeek, _) => self.inner.stream_position(),
            (SeeksFromTheStart, SeekFrom::Current(by)) => {
                self.inner.seek(SeekFrom::Start(by.unsigned_abs()))
            }
            _ => self.inner.seek(to),
        }
    }
}

impl SnapshotReader for Reader {
    fn info(&self) -> &SnapshotInfo {
        self.inner.info()
    }
}

struct Receiver {
    inner: Option<Box<dyn SnapshotReceiver>>,
    store: Broken,
}

impl Receiver {
    fn inner(&mut self) -> &mut dyn SnapshotReceiver {
        &mut **self.inner.as_mut().expect("it is not committed")
    }
}

impl Write for Receiver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

impl SnapshotReceiver for Receiver {
    fn offset(&self) -> u64 {
        let offset = self.inner.as_ref().map_or(0, |inner| inner.offset());
        match self.store.flaw {
            ResumesTooFar if offset > 0 => offset + 1,
            ResumesElsewhere => 0,
            _ => offset,
        }
    }

    fn commit(mut self: Box<Self>) -> Result<SnapshotInfo> {
        let inner = self.inner.take().expect("it is not committed");
        match inner.commit() {
            Err(_) if self.store.is(TrustsEveryFile) => {
                let meta = SnapshotMeta::default();
                self.store.store.create(meta)?.commit()
            }
            other => other,
        }
    }
}

impl Harness<dyn RaftSnapshotStorage> for Box<Broken> {
    fn store(&self) -> &(dyn RaftSnapshotStorage + 'static) {
        &**self
    }
    fn reopen(&mut self) -> Result<bool> {
        if self.is(LosesAllOnReopening) {
            self.store = MemorySnapshots::new();
        }
        Ok(true)
    }
    fn crash(&mut self) -> Result<bool> {
        if self.is(ForgetsOnePerCrash)
            && let Some(info) = self.store.list(None)?.first()
        {
            self.store.delete(&info.key)?;
        }
        Ok(true)
    }
}

#[test]
fn the_suite_catches_every_broken_snapshot_store() {
    for flaw in FLAWS {
        let store = || {
            Box::new(Broken {
                store: MemorySnapshots::new(),
                flaw,
            })
        };
        let failures = conformance::snapshots::check(store);
        assert!(!failures.is_empty(), "{flaw:?} goes unseen");
    }
}

#[test]
fn every_case_of_snapshots_fails_for_some_broken_store() {
    let mut silent: Vec<String> = (conformance::snapshots::cases().iter())
        .map(|case| case.name().to_string())
        .collect();
    for flaw in FLAWS {
        let store = || {
            Box::new(Broken {
                store: MemorySnapshots::new(),
                flaw,
            })
        };
        for failure in conformance::snapshots::check(store) {
            silent.retain(|case| *case != failure.case);
        }
    }
    assert_eq!(silent, [""; 0], "no broken store makes these fail");
}
