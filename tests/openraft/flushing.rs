//! When the log says that it is durable, and who waits for that.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use openraft::storage::RaftLogStorage as _;
use openraft::{RaftLogReader as _, Vote};
use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots, WriteFault};
use peerstore::openraft::{Groups, LogStore};
use peerstore::{
    Durability, LogBatch, LogStats, Parts, RaftLocalState, RaftLogStorage, RegionId, Result,
};
use raft::eraftpb::Entry;

use crate::entries::{append, blank, log_id};
use crate::support::{StorageResult, run_with};

/// A log whose fsyncs wait until they are let go.
#[derive(Default)]
struct HeldLog {
    log: MemoryLog,
    is_held: Mutex<bool>,
    let_go: Condvar,
    // How many writes have come to the fsync.
    arrived: Mutex<u64>,
    has_arrived: Condvar,
}

impl HeldLog {
    /// Lets go when it is dropped: a test that fails must not hang.
    fn hold(self: &Arc<Self>) -> Hold {
        *self.is_held.lock().unwrap() = true;
        Hold(Arc::clone(self))
    }

    /// Waits until a write stands before its fsync.
    fn wait_for_writes(&self, count: u64) {
        let arrived = self.arrived.lock().unwrap();
        let patience = crate::support::PATIENCE;
        let waited = self
            .has_arrived
            .wait_timeout_while(arrived, patience, |arrived| *arrived < count);
        assert!(*waited.unwrap().0 >= count, "the writer never came");
    }
}

struct Hold(Arc<HeldLog>);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.is_held.lock().unwrap() = false;
        self.0.let_go.notify_all();
    }
}

impl RaftLogStorage for HeldLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if durability == Durability::Synced {
            self.log.write(batch, Durability::Buffered)?;
            *self.arrived.lock().unwrap() += 1;
            self.has_arrived.notify_all();
            let held = self.is_held.lock().unwrap();
            drop(self.let_go.wait_while(held, |held| *held).unwrap());
            return self.log.sync();
        }
        self.log.write(batch, durability)
    }

    fn read_entries(&self, region: RegionId, range: Range<u64>, max: u64) -> Result<Vec<Entry>> {
        self.log.read_entries(region, range, max)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.log.read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.log.read_state(region)
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        self.log.regions()
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.log.approximate_bytes(region, range)
    }

    fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}

fn groups(log: Arc<dyn RaftLogStorage>) -> Groups {
    let parts = Parts {
        log,
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    Groups::from_parts(parts).expect("a thread")
}

/// Whether the future is there already; it is not woken.
fn is_ready<F: Future<Output = StorageResult<()>>>(future: std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(future.poll(&mut context), Poll::Ready(_))
}

/// On one thread: if an append or a vote waited for the disk there, nothing would ever let it go.
fn run_on_one_thread<F: Future<Output = StorageResult<()>>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    if let Err(error) = runtime.expect("a runtime").block_on(test) {
        panic!("{error}");
    }
}

#[test]
fn an_append_can_be_read_at_once_and_is_reported_when_it_is_durable() {
    run_on_one_thread(async {
        let held = Arc::new(HeldLog::default());
        let (mut log, _machine) = groups(held.clone()).open(1).expect("a new group opens");
        let mut reader = log.get_log_reader().await;
        let hold = held.hold();
        let mut appended = pin!(append(&mut log, vec![blank(log_id(1, 1, 0))]));
        assert!(!is_ready(appended.as_mut()));
        assert_eq!(
            reader.try_get_log_entries(..).await?,
            [blank(log_id(1, 1, 0))]
        );
        // The writer stands before the fsync now, however long that takes.
        held.wait_for_writes(1);
        assert!(!is_ready(appended.as_mut()), "reported before the fsync");
        assert_eq!(
            held.log.crash_copy(0).regions().unwrap(),
            [],
            "nothing is durable"
        );
        drop(hold);
        appended.await?;
        let after = held.log.crash_copy(0);
        assert!(
            after.read_entry(RegionId(1), 0).unwrap().is_some(),
            "reported, and not durable"
        );
        Ok(())
    });
}

#[test]
fn a_vote_is_durable_when_it_is_answered() {
    run_on_one_thread(async {
        let held = Arc::new(HeldLog::default());
        let (mut log, _machine) = groups(held.clone()).open(1).expect("a new group opens");
        let hold = held.hold();
        {
            let vote = Vote::new(7, 3);
            let mut saved = pin!(log.save_vote(&vote));
            assert!(!is_ready(saved.as_mut()));
            held.wait_for_writes(1);
            assert!(!is_ready(saved.as_mut()), "answered before the fsync");
            drop(hold);
            saved.await?;
        }
        let after = Arc::new(held.log.crash_copy(0));
        let (mut log, _machine) = groups(after).open(1).expect("it opens again");
        assert_eq!(log.read_vote().await?, Some(Vote::new(7, 3)));
        Ok(())
    });
}

#[test]
fn appends_of_many_groups_share_an_fsync() {
    const GROUPS: u64 = 20;
    run_on_one_thread(async {
        let held = Arc::new(HeldLog::default());
        let groups = groups(held.clone());
        let open = |id: u64| groups.open(id).expect("a new group opens").0;
        let mut logs: Vec<LogStore> = (1..=GROUPS).map(open).collect();
        let hold = held.hold();
        let mut appends: Vec<_> = logs
            .iter_mut()
            .map(|log| Box::pin(append(log, vec![blank(log_id(1, 1, 0))])))
            .collect();
        // The first one is alone; the others gather while it is at its fsync.
        assert!(!is_ready(appends[0].as_mut()));
        held.wait_for_writes(1);
        for append in &mut appends[1..] {
            assert!(!is_ready(append.as_mut()));
        }
        drop(hold);
        for append in appends {
            append.await?;
        }
        assert_eq!(held.log.stats().syncs, 2);
        assert_eq!(
            held.log.crash_copy(0).regions().unwrap().len() as u64,
            2 * GROUPS
        );
        Ok(())
    });
}

#[test]
fn a_failed_fsync_is_reported_and_never_retried() {
    run_with(async {
        let memory = Arc::new(MemoryLog::new());
        let (mut log, _machine) = groups(memory.clone()).open(1).expect("a new group opens");
        append(&mut log, vec![blank(log_id(1, 1, 0))]).await?;
        memory.fail_next_write(WriteFault::SyncFailed);
        let failed = append(&mut log, vec![blank(log_id(1, 1, 1))]).await;
        assert!(failed.is_err(), "an fsync that failed was reported as done");
        let refused = log
            .save_vote(&Vote::new(2, 2))
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("poisoned"), "{refused}");
        assert!(log.truncate(log_id(1, 1, 1)).await.is_err());
        assert!(
            append(&mut log, vec![blank(log_id(1, 1, 2))])
                .await
                .is_err()
        );
        Ok(())
    });
}
