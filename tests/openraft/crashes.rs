//! A power cut at every point between two writes: what the next open finds.

use std::sync::{Arc, Mutex};

use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{RaftSnapshotBuilder as _, Snapshot, StorageHelper, Vote};
use peerstore::memory::{Lost, MemFs, MemoryData, MemoryLog, MemorySnapshots};
use peerstore::openraft::{Groups, LogStore, StateMachine, TypeConfig};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{
    AppBatch, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Durability,
    KeyRange, Keyspace, Parts, RaftSnapshotStorage, Result, Visit,
};

use crate::entries::{append, blank, everything, log_id, members, put};
use crate::support::{StorageResult, run_with};

/// The stores of a node, all in memory.
#[derive(Clone, Default)]
struct Stores {
    log: Arc<MemoryLog>,
    data: Arc<MemoryData>,
    snapshots: MemorySnapshots,
}

impl Stores {
    fn open(&self) -> Result<(LogStore, StateMachine)> {
        self.open_on(Arc::clone(&self.data) as Arc<dyn ApplicationDataStorage>)
    }

    fn open_on(&self, app: Arc<dyn ApplicationDataStorage>) -> Result<(LogStore, StateMachine)> {
        Groups::from_parts(Parts {
            log: self.log.clone(),
            app,
            snapshots: Arc::new(self.snapshots.clone()),
        })?
        .open(1)
    }

    /// What a power cut now leaves, of which so many unsynced batches were spared.
    fn cut(&self, kept_log: usize, kept_data: usize) -> Stores {
        let snapshots = MemorySnapshots::new();
        for info in self.snapshots.list(None).expect("memory lists") {
            let mut file = self.snapshots.send(&info.key).expect("it is listed");
            snapshots.install(&mut file).expect("it is whole");
        }
        Stores {
            log: Arc::new(self.log.crash_copy(kept_log)),
            data: Arc::new(self.data.crash_copy(kept_data)),
            snapshots,
        }
    }
}

/// What openraft does first: it applies what is committed, and purges what a snapshot covers.
async fn start(log: &mut LogStore, machine: &mut StateMachine) -> StorageResult<()> {
    StorageHelper::new(log, machine).get_initial_state().await?;
    Ok(())
}

#[test]
fn a_cut_between_vote_and_append_keeps_the_vote() {
    run_with(async {
        let stores = Stores::default();
        let (mut log, _machine) = stores.open().expect("a new group opens");
        log.save_vote(&Vote::new(5, 2)).await?;
        for kept in [0, usize::MAX] {
            let (mut log, mut machine) = stores.cut(kept, 0).open().expect("it opens again");
            assert_eq!(log.read_vote().await?, Some(Vote::new(5, 2)));
            assert_eq!(log.get_log_state().await?.last_log_id, None);
            start(&mut log, &mut machine).await?;
        }
        log.save_vote(&Vote::new_committed(5, 2)).await?;
        append(
            &mut log,
            vec![blank(log_id(5, 2, 0)), blank(log_id(5, 2, 1))],
        )
        .await?;
        let (mut log, _machine) = stores.cut(0, 0).open().expect("it opens again");
        assert_eq!(log.read_vote().await?, Some(Vote::new_committed(5, 2)));
        assert_eq!(
            log.get_log_state().await?.last_log_id,
            Some(log_id(5, 2, 1))
        );
        Ok(())
    });
}

#[test]
fn applied_and_data_are_never_apart_wherever_the_power_is_cut() {
    run_with(async {
        let stores = Stores::default();
        let (mut log, mut machine) = stores.open().expect("a new group opens");
        log.save_vote(&Vote::new_committed(1, 1)).await?;
        let mut entries = vec![members(log_id(1, 1, 0), &[1])];
        entries.extend((1..8).map(|i| put(log_id(1, 1, i), "last", &i.to_string())));
        append(&mut log, entries.clone()).await?;
        for entry in entries {
            machine.apply([entry]).await?;
        }
        assert_eq!(stores.data.unsynced(), 8, "data is not synced by itself");
        for kept in 0..=8 {
            let (mut log, mut machine) = stores.cut(0, kept).open().expect("it opens again");
            let (applied, membership) = machine.applied_state().await?;
            assert_eq!(applied.map_or(0, |id| id.index + 1), kept as u64);
            let last = everything(&machine.reader()).remove("last");
            let expected = (kept > 1).then(|| (kept - 1).to_string());
            assert_eq!(last, expected, "applied is {applied:?}");
            assert_eq!(membership.log_id().is_some(), kept > 0);
            // What was lost is in the log.
            let rest = applied.map_or(0, |id| id.index + 1)..8;
            let entries = openraft::RaftLogReader::try_get_log_entries(&mut log, rest).await?;
            machine.apply(entries).await?;
            let last = everything(&machine.reader()).remove("last");
            assert_eq!(last.as_deref(), Some("7"));
        }
        Ok(())
    });
}

/// A snapshot of the first ten entries of a leader: key0 to key8, and the members.
async fn leaders_snapshot() -> StorageResult<Snapshot<TypeConfig>> {
    let (_log, mut machine) = Stores::default().open().expect("a new group opens");
    machine
        .apply([members(log_id(2, 1, 0), &[1, 2, 3])])
        .await?;
    for i in 1..10 {
        let key = format!("key{}", i - 1);
        machine
            .apply([put(log_id(2, 1, i), &key, "leader's")])
            .await?;
    }
    machine.get_snapshot_builder().await.build_snapshot().await
}

/// A follower that has the first three entries, two of them applied.
async fn follower(log: &mut LogStore, machine: &mut StateMachine) -> StorageResult<()> {
    log.save_vote(&Vote::new_committed(2, 1)).await?;
    let entries = vec![
        members(log_id(2, 1, 0), &[1, 2, 3]),
        put(log_id(2, 1, 1), "old", "follower's"),
        put(log_id(2, 1, 2), "never", "applied"),
    ];
    append(log, entries.clone()).await?;
    machine.apply(entries[..2].to_vec()).await?;
    Ok(())
}

#[test]
fn a_purge_waits_for_the_snapshot_that_covers_it() {
    run_with(async {
        let stores = Stores::default();
        let (mut log, mut machine) = stores.open().expect("a new group opens");
        follower(&mut log, &mut machine).await?;
        // As openraft does it: the purge comes while the snapshot is being installed on another task.
        log.purge(log_id(2, 1, 9)).await?;
        let state = log.get_log_state().await?;
        assert_eq!(state.last_purged_log_id, Some(log_id(2, 1, 9)));
        assert_eq!(state.last_log_id, Some(log_id(2, 1, 9)));
        for kept in [0, usize::MAX] {
            let (mut log, mut machine) = stores.cut(kept, kept).open().expect("it opens again");
            let state = log.get_log_state().await?;
            assert_eq!(
                state.last_purged_log_id, None,
                "nothing covers what was purged"
            );
            assert_eq!(state.last_log_id, Some(log_id(2, 1, 2)));
            start(&mut log, &mut machine).await?;
        }
        // An entry behind the snapshot waits for it too: a cut would leave a hole.
        let behind = log.blocking_append(vec![blank(log_id(2, 1, 10))]);
        let mut behind = std::pin::pin!(behind);
        {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(behind.as_mut().poll(&mut context).is_pending());
        }
        let snapshot = leaders_snapshot().await?;
        machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await?;
        behind.await?;
        let (mut log, mut machine) = stores.cut(0, 0).open().expect("it opens again");
        let state = log.get_log_state().await?;
        assert_eq!(state.last_purged_log_id, Some(log_id(2, 1, 9)));
        assert_eq!(state.last_log_id, Some(log_id(2, 1, 10)));
        assert_eq!(machine.applied_state().await?.0, Some(log_id(2, 1, 9)));
        start(&mut log, &mut machine).await
    });
}

#[test]
fn what_a_snapshot_covers_is_durable_before_the_log_is_purged() {
    run_with(async {
        let stores = Stores::default();
        let (mut log, mut machine) = stores.open().expect("a new group opens");
        follower(&mut log, &mut machine).await?;
        machine
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await?;
        log.purge(log_id(2, 1, 1)).await?;
        let (mut log, mut machine) = stores.cut(usize::MAX, 0).open().expect("it opens again");
        assert_eq!(
            log.get_log_state().await?.last_purged_log_id,
            Some(log_id(2, 1, 1))
        );
        assert_eq!(machine.applied_state().await?.0, Some(log_id(2, 1, 1)));
        Ok(())
    });
}

/// Data that takes a picture of all stores before and after each of its writes.
#[derive(Clone)]
struct Pictured {
    stores: Stores,
    pictures: Arc<Mutex<Vec<(String, Stores)>>>,
}

impl Pictured {
    fn take(&self, what: &str) {
        for kept in [0, usize::MAX] {
            let picture = (format!("{what}, {kept} kept"), self.stores.cut(kept, kept));
            self.pictures.lock().unwrap().push(picture);
        }
    }
}

struct PicturedImport(Box<dyn DataImport>, Pictured);

impl DataImport for PicturedImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.put(keyspace, key, value)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let PicturedImport(import, pictured) = *self;
        // An import is not atomic: half of the old data may be gone, and nothing of the new one there.
        let half = pictured.stores.cut(usize::MAX, usize::MAX);
        let mut batch = AppBatch::new();
        batch.delete_range(Keyspace::Data, &KeyRange::new("", "old"));
        batch.put(Keyspace::Data, "key3", "half");
        half.data.write(&batch, Durability::Synced)?;
        pictured
            .pictures
            .lock()
            .unwrap()
            .push(("half of the import".into(), half));
        import.finish()?;
        pictured.take("behind the import");
        Ok(())
    }
}

impl DataRead for Pictured {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.stores.data.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.stores.data.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.stores.data.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.stores.data.scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for Pictured {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        self.take("before a write");
        self.stores.data.write(batch, durability)?;
        self.take("behind a write");
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.stores.data.view()
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        let import = self.stores.data.begin_import(range)?;
        Ok(Box::new(PicturedImport(import, self.clone())))
    }

    fn sync(&self) -> Result<()> {
        self.stores.data.sync()
    }

    fn stats(&self) -> AppStats {
        self.stores.data.stats()
    }
}

#[test]
fn an_install_that_is_cut_anywhere_is_all_or_nothing() {
    run_with(async {
        let stores = Stores::default();
        let pictured = Pictured {
            stores: stores.clone(),
            pictures: Arc::default(),
        };
        let opened = stores.open_on(Arc::new(pictured.clone()));
        let (mut log, mut machine) = opened.expect("a new group opens");
        follower(&mut log, &mut machine).await?;
        stores.data.sync().expect("memory syncs");
        let old = everything(&machine.reader());
        pictured.pictures.lock().unwrap().clear();
        log.purge(log_id(2, 1, 9)).await?;
        let snapshot = leaders_snapshot().await?;
        machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await?;
        pictured.take("at the end");
        let new = everything(&machine.reader());
        assert_eq!((old.len(), new.len()), (1, 9));

        let pictures = std::mem::take(&mut *pictured.pictures.lock().unwrap());
        let (mut olds, mut news) = (0, 0);
        assert!(pictures.len() > 8, "there are {} pictures", pictures.len());
        for (what, picture) in pictures {
            let opened = picture.open();
            let (mut log, mut machine) = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
            start(&mut log, &mut machine).await?;
            let data = everything(&machine.reader());
            let applied = machine.applied_state().await?.0.expect("it had something");
            let state = log.get_log_state().await?;
            let current = machine
                .get_current_snapshot()
                .await?
                .map(|s| s.meta.last_log_id);
            match applied.index {
                1 => {
                    assert_eq!(data, old, "{what}");
                    assert_eq!(state.last_log_id, Some(log_id(2, 1, 2)), "{what}");
                    assert_eq!(current, None, "{what}: a snapshot that was never installed");
                    olds += 1;
                }
                9 => {
                    assert_eq!(data, new, "{what}");
                    assert_eq!(state.last_log_id, Some(log_id(2, 1, 9)), "{what}");
                    assert_eq!(state.last_purged_log_id, Some(log_id(2, 1, 9)), "{what}");
                    assert_eq!(current, Some(Some(log_id(2, 1, 9))), "{what}");
                    news += 1;
                }
                other => panic!("{what}: applied is {other}"),
            }
            // The recovery itself may be cut: what it has served stays.
            let (_log, machine) = picture.cut(0, 0).open().expect("it opens once more");
            assert_eq!(everything(&machine.reader()), data, "{what}, and cut again");
        }
        assert!(olds > 1 && news > 4, "{olds} old, {news} new");
        Ok(())
    });
}

/// On the append-only log, with a cut of the power after each of its operations on files.
#[test]
fn nothing_that_was_answered_is_lost_by_the_append_log() {
    run_with(async {
        let fs = MemFs::new();
        let open = |fs: &MemFs| {
            let options = SegmentLogOptions {
                segment_bytes: 16 << 10,
                background: false,
                ..SegmentLogOptions::default()
            };
            Groups::from_parts(Parts {
                log: Arc::new(SegmentLog::open(Arc::new(fs.clone()), "log", options)?),
                app: Arc::new(MemoryData::new()),
                snapshots: Arc::new(MemorySnapshots::new()),
            })?
            .open_log(1)
        };
        let mut log = open(&fs).expect("a new log opens");
        let check = async |fs: &MemFs, vote, purged: Option<u64>, last: u64| {
            for (lost, seed) in [(Lost::Everything, 1), (Lost::Half, 2), (Lost::Nothing, 3)] {
                let after = fs.after_power_cut(lost, seed);
                let mut log = open(&after).expect("it opens again");
                assert_eq!(log.read_vote().await?, Some(vote), "{lost:?}");
                let state = log.get_log_state().await?;
                assert_eq!(state.last_log_id, Some(log_id(1, 300, last)), "{lost:?}");
                let seen = state.last_purged_log_id.map(|id| id.index);
                // A purge is not fsynced by itself: what was purged may be there again.
                assert!(seen == purged || seen < purged, "{seen:?}, {purged:?}");
            }
            StorageResult::Ok(())
        };
        let (mut purged, mut next) = (None, 0);
        for round in 0..12 {
            let vote = Vote::new_committed(1, 300 + round);
            log.save_vote(&vote).await?;
            let value = "v".repeat(700);
            let entries = (next..next + 5).map(|i| put(log_id(1, 300, i), "key", &value));
            append(&mut log, entries.collect()).await?;
            next += 5;
            check(&fs, vote, purged, next - 1).await?;
            if round % 3 == 2 {
                log.truncate(log_id(1, 300, next - 2)).await?;
                next -= 2;
                log.purge(log_id(1, 300, next - 3)).await?;
                purged = Some(next - 3);
                check(&fs, vote, purged, next - 1).await?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_reader_is_told_when_an_install_has_failed_half_way() {
    run_with(async {
        let stores = Stores::default();
        let failing = FailingImport(Pictured {
            stores: stores.clone(),
            pictures: Arc::default(),
        });
        let opened = stores.open_on(Arc::new(failing));
        let (mut log, mut machine) = opened.expect("a new group opens");
        follower(&mut log, &mut machine).await?;
        log.purge(log_id(2, 1, 9)).await?;
        let reader = machine.reader();
        let snapshot = leaders_snapshot().await?;
        let failed = machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await;
        assert!(failed.is_err());
        let refused = reader.view().unwrap_err().to_string();
        assert!(
            refused.contains("a snapshot is being installed"),
            "{refused}"
        );
        // Who waits for it is not left waiting.
        assert!(
            log.blocking_append(vec![blank(log_id(2, 1, 10))])
                .await
                .is_err()
        );
        // The next open goes on.
        let (_log, machine) = stores.cut(0, 0).open().expect("it opens again");
        assert_eq!(everything(&machine.reader()).len(), 9);
        Ok(())
    });
}

/// Data whose imports fail at their end.
struct FailingImport(Pictured);

struct NoImport;

impl DataImport for NoImport {
    fn put(&mut self, _: Keyspace, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let path = "data".into();
        Err(peerstore::Error::DiskFull { op: "import", path })
    }
}

impl DataRead for FailingImport {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.0.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for FailingImport {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        self.0.stores.data.write(batch, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.0.view()
    }

    fn begin_import(&self, _: &KeyRange) -> Result<Box<dyn DataImport>> {
        Ok(Box::new(NoImport))
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn stats(&self) -> AppStats {
        self.0.stats()
    }
}
