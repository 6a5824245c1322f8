//! The one snapshot of a region: asked for, built by a worker from a pinned view, kept while it is of
//! use. Uses: the seams, snapshot_content. Never waits, except in `wait_snapshot`.
//!
//! TiKV sends the request behind the committed entries to its applier, which pins the view. Here the
//! view says itself what it covers, because the apply state is written in the batch that carries the
//! data: whenever it is pinned, it is consistent.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use raft::eraftpb::Snapshot;

use super::coordinated::{Counts, MakeTask};
use super::retain::CleanUpTask;
use super::snapshot_content::{Cancel, write_content};
use super::snapshot_data::read_states;
use super::{NeededFiles, PeerStorage};
use crate::app_store::{ApplicationDataStorage, DataView};
use crate::error::{Error, Result, catch_panic};
use crate::proto::{PeerState, RegionEpoch};
use crate::snapshot_data::{RaftSnapshotData, position};
use crate::snapshot_store::{
    CleanUp, RaftSnapshotStorage, SnapshotInfo, SnapshotKey, SnapshotMeta,
};
use crate::types::{LogPosition, RegionId};

/// No pause and no wait is longer; a point in time further away may not exist.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Work for the snapshot worker.
pub enum SnapshotTask {
    /// Build one.
    Build(Box<BuildTask>),
    /// Remove one that is of no more use.
    Remove(SnapshotKey),
    /// Remove those that the policy does not keep.
    CleanUp(CleanUpTask),
    /// Make one that the region keeps.
    Make(Box<MakeTask>),
    /// Make the data durable, and say so.
    Sync(SyncTask),
}

/// The data that is to be durable before entries go.
pub struct SyncTask {
    pub(super) region: RegionId,
    pub(super) app: Arc<dyn ApplicationDataStorage>,
    pub(super) reply: Sender<Result<()>>,
}

/// A snapshot to be built.
pub struct BuildTask {
    meta: SnapshotMeta,
    view: Box<dyn DataView>,
    inline_bytes_max: u64,
    cancel: Arc<Cancel>,
    reply: Sender<Result<Built>>,
}

/// A snapshot that was built: as raft sends it, and as the store knows it.
#[derive(Clone, Debug)]
pub(super) struct Built {
    snapshot: Snapshot,
    info: SnapshotInfo,
}

impl SnapshotTask {
    /// The region that waits for an answer, if one does.
    pub fn asker(&self) -> Option<RegionId> {
        match self {
            SnapshotTask::Build(task) => Some(task.meta.region.region_id()),
            SnapshotTask::Make(task) => Some(task.region()),
            SnapshotTask::Sync(task) => Some(task.region),
            SnapshotTask::Remove(_) | SnapshotTask::CleanUp(_) => None,
        }
    }

    /// Does the work. Runs on the worker. Hands back what has to be tried again later: a file that is
    /// still being sent cannot be removed yet.
    pub fn run(
        self,
        store: &dyn RaftSnapshotStorage,
        needed: &NeededFiles,
    ) -> Option<SnapshotTask> {
        match self {
            SnapshotTask::Build(task) => task.run(store, needed).map(SnapshotTask::Remove),
            SnapshotTask::Remove(key) => match needed.remove(store, &key) {
                Ok(()) => None,
                Err(Error::SnapshotInUse { .. }) => Some(SnapshotTask::Remove(key)),
                Err(error) => {
                    // It is an orphan now, and is removed when its region is next opened.
                    tracing::warn!(%key, %error, "snapshot file not removed");
                    None
                }
            },
            SnapshotTask::Make(task) => {
                task.run(store, needed);
                None
            }
            SnapshotTask::Sync(task) => {
                // Whoever asked may be gone.
                let _ = task.reply.send(task.app.sync());
                None
            }
            SnapshotTask::CleanUp(task) => {
                match task.run(store, needed) {
                    Ok(CleanUp { removed: 0, .. }) => {}
                    Ok(done) => tracing::info!(?done, "snapshots cleaned up"),
                    Err(error) => tracing::warn!(%error, "snapshots not cleaned up"),
                }
                None
            }
        }
    }
}

impl BuildTask {
    /// Answers the region; hands back the file if the region is gone, and nobody will ask for it.
    fn run(self, store: &dyn RaftSnapshotStorage, needed: &NeededFiles) -> Option<SnapshotKey> {
        let result = catch_panic("snapshot", || self.build(store));
        if let Ok(built) = &result {
            needed.offer(built.info.key);
            Counts::add(&needed.counts().snapshots_created);
        }
        let unsent = self.reply.send(result).err()?;
        unsent.0.ok().map(|built| built.info.key)
    }

    fn build(&self, store: &dyn RaftSnapshotStorage) -> Result<Built> {
        let region = self.meta.region.region_id();
        self.cancel.check(region)?;
        let mut writer = store.create(self.meta.clone())?;
        let range = self.meta.region.range();
        write_content(region, &*self.view, &range, &self.cancel, &mut *writer)?;
        let info = writer.commit()?;
        let mut file = Vec::new();
        if info.file_bytes <= self.inline_bytes_max {
            let key = &info.key;
            (store.send(key)?.take(info.file_bytes))
                .read_to_end(&mut file)
                .map_err(|e| {
                    Error::corruption(Some(region), format!("snapshot {key}"), e.to_string())
                })?;
        }
        let snapshot = RaftSnapshotData::of(&info, file).into_snapshot(&info);
        Ok(Built { snapshot, info })
    }
}

/// How the snapshot of a region stands, as [`PeerStorage::snapshot_state`] shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotState {
    /// None, and none asked for.
    Idle,
    /// A worker builds one of the data as of this position.
    Generating {
        /// What it covers.
        position: LogPosition,
    },
    /// There is one, and `snapshot()` answers it as long as it is valid.
    Ready {
        /// What it covers.
        position: LogPosition,
        /// The bytes of its file.
        file_bytes: u64,
    },
    /// The last try failed; the next one waits for a while.
    Failed {
        /// How often in a row.
        failures: u32,
        /// The error.
        reason: String,
    },
    /// One that came from a leader is being installed; none is built meanwhile.
    Applying,
}

/// The transitions between the [`SnapshotState`]s: from, what happens, to. Each change is checked
/// against this table, and `dot/snapshot_states.dot` is drawn from it.
pub const SNAPSHOT_TRANSITIONS: [(&str, &str, &str); 11] = [
    ("Idle", "asked for: view pinned at applied", "Generating"),
    ("Generating", "worker done", "Ready"),
    (
        "Generating",
        "cancelled: compacted, reconfigured, unreachable",
        "Idle",
    ),
    ("Generating", "worker failed", "Failed"),
    ("Ready", "no longer valid", "Idle"),
    ("Failed", "asked for after the pause", "Generating"),
    ("Idle", "install", "Applying"),
    ("Generating", "install", "Applying"),
    ("Ready", "install", "Applying"),
    ("Failed", "install", "Applying"),
    ("Applying", "data restored", "Idle"),
];

impl SnapshotState {
    /// The name of the state, as the diagram has it.
    pub fn name(&self) -> &'static str {
        match self {
            SnapshotState::Idle => "Idle",
            SnapshotState::Generating { .. } => "Generating",
            SnapshotState::Ready { .. } => "Ready",
            SnapshotState::Failed { .. } => "Failed",
            SnapshotState::Applying => "Applying",
        }
    }
}

impl fmt::Display for SnapshotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotState::Generating { position } => write!(f, "Generating {position}"),
            SnapshotState::Ready {
                position,
                file_bytes,
            } => write!(f, "Ready {position}, {file_bytes} bytes"),
            SnapshotState::Failed { failures, reason } => {
                write!(f, "Failed {failures} times: {reason}")
            }
            state => f.write_str(state.name()),
        }
    }
}

/// The state with what it needs to go on.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Idle,
    Generating(Generating),
    Ready(Box<Built>),
    Failed {
        failures: u32,
        reason: String,
        // As the node's clock shows it.
        retry_at: Duration,
    },
    Applying,
}

#[derive(Debug)]
pub(super) struct Generating {
    position: LogPosition,
    conf_ver: u64,
    // How often it had failed before, in a row.
    failures: u32,
    cancel: Arc<Cancel>,
    reply: Receiver<Result<Built>>,
}

/// What a snapshot must satisfy to be of use.
#[derive(Clone, Copy, Debug)]
struct Demand {
    index_min: u64,
    conf_ver_min: u64,
}

impl Built {
    fn conf_ver(&self) -> u64 {
        self.info.meta.region.region_epoch.conf_ver
    }
}

impl Slot {
    fn state(&self) -> SnapshotState {
        match self {
            Slot::Idle => SnapshotState::Idle,
            Slot::Generating(g) => SnapshotState::Generating {
                position: g.position,
            },
            Slot::Ready(built) => SnapshotState::Ready {
                position: position(&built.snapshot),
                file_bytes: built.info.file_bytes,
            },
            Slot::Failed {
                failures, reason, ..
            } => SnapshotState::Failed {
                failures: *failures,
                reason: reason.clone(),
            },
            Slot::Applying => SnapshotState::Applying,
        }
    }

    /// Goes to `next`, which must be an edge of [`SNAPSHOT_TRANSITIONS`]; hands back what was there.
    fn go(&mut self, next: Slot) -> Slot {
        let (from, to) = (self.state().name(), next.state().name());
        assert!(
            SNAPSHOT_TRANSITIONS
                .iter()
                .any(|(f, _, t)| (*f, *t) == (from, to)),
            "snapshot state: {from} does not lead to {to}"
        );
        std::mem::replace(self, next)
    }
}

impl PeerStorage {
    /// How the snapshot of the region stands.
    pub fn snapshot_state(&self) -> SnapshotState {
        self.slot.borrow().state()
    }

    /// Answers `Storage::snapshot`: the snapshot that is ready, or `SnapshotTemporarilyUnavailable`
    /// after having asked for one.
    pub(super) fn answer_snapshot(&self, request_index: u64) -> Result<Snapshot> {
        let region = self.region_id();
        let demand = self.demand(request_index);
        self.poll_snapshot();
        self.drop_useless_snapshot(demand);
        let mut slot = self.slot.borrow_mut();
        let failures = match &*slot {
            Slot::Ready(built) => return Ok(built.snapshot.clone()),
            Slot::Idle => 0,
            Slot::Failed {
                failures, retry_at, ..
            } if self.engines.clock.now() >= *retry_at => *failures,
            _ => return Err(Error::SnapshotTemporarilyUnavailable { region }),
        };
        match self.start_snapshot(failures, demand) {
            Ok(Some(generating)) => drop(slot.go(Slot::Generating(generating))),
            Ok(None) => {}
            Err(error) => tracing::warn!(%region, %error, "snapshot not started"),
        }
        Err(Error::SnapshotTemporarilyUnavailable { region })
    }

    /// What `snapshot` will answer, once the worker is done: asks for a snapshot of the present
    /// applied index, waits for at most `timeout`, and leaves it ready for raft.
    ///
    /// # Errors
    /// `Timeout`, `SnapshotFailed` with the worker's error, or `InvalidArgument` if nothing was
    /// applied yet: raft has no snapshot at index 0.
    pub fn wait_snapshot(&self, timeout: Duration) -> Result<Snapshot> {
        let region = self.region_id();
        if self.applied_index() == 0 {
            let expected = "an applied entry";
            return Err(Error::invalid(
                region,
                "snapshot",
                "applied index 0",
                expected,
            ));
        }
        let clock = &self.engines.clock;
        let deadline = clock.now() + timeout.min(PAUSE_MAX);
        loop {
            let demand = self.demand(self.applied_index());
            self.drop_useless_snapshot(demand);
            let mut slot = self.slot.borrow_mut();
            let failures = match &*slot {
                Slot::Ready(built) => return Ok(built.snapshot.clone()),
                Slot::Applying => {
                    return Err(Error::SnapshotTemporarilyUnavailable { region });
                }
                Slot::Generating(generating) => {
                    let left = deadline.saturating_sub(clock.now());
                    let result = generating.reply.recv_timeout(left);
                    let result = match result {
                        Ok(result) => result,
                        Err(RecvTimeoutError::Timeout) => {
                            let limit_ms = timeout.as_millis() as u64;
                            let what = "the snapshot";
                            return Err(Error::Timeout { what, limit_ms });
                        }
                        Err(RecvTimeoutError::Disconnected) => Err(worker_gone()),
                    };
                    self.finish_snapshot(&mut slot, result);
                    if let Slot::Failed {
                        failures, reason, ..
                    } = &*slot
                    {
                        let (failures, reason) = (*failures, reason.clone());
                        return Err(Error::SnapshotFailed {
                            region,
                            failures,
                            reason,
                        });
                    }
                    continue;
                }
                Slot::Idle => 0,
                Slot::Failed { failures, .. } => *failures,
            };
            let started = self.start_snapshot(failures, demand)?;
            let Some(generating) = started else {
                return Err(Error::SnapshotTemporarilyUnavailable { region });
            };
            slot.go(Slot::Generating(generating));
        }
    }

    /// Gives up a snapshot that is being built or kept: the peer that wanted it is gone. Another one
    /// is built when it is asked for again.
    pub fn cancel_snapshot(&self) {
        let slot = &mut *self.slot.borrow_mut();
        if matches!(slot, Slot::Generating(_) | Slot::Ready(_)) {
            self.discard(slot.go(Slot::Idle));
        }
    }

    /// Takes in the worker's answer, if it has come.
    fn poll_snapshot(&self) {
        let mut slot = self.slot.borrow_mut();
        let Slot::Generating(generating) = &*slot else {
            return;
        };
        match generating.reply.try_recv() {
            Ok(result) => self.finish_snapshot(&mut slot, result),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                self.finish_snapshot(&mut slot, Err(worker_gone()));
            }
        }
    }

    fn finish_snapshot(&self, slot: &mut Slot, result: Result<Built>) {
        let Slot::Generating(generating) = &*slot else {
            return;
        };
        let failures = generating.failures + 1;
        match result {
            Ok(built) => drop(slot.go(Slot::Ready(Box::new(built)))),
            Err(Error::Cancelled { .. }) => drop(slot.go(Slot::Idle)),
            Err(error) => {
                tracing::warn!(region = %self.region_id(), failures, %error, "snapshot failed");
                let backoff = self.engines.options.retry_backoff;
                let pause = backoff.saturating_mul(1 << (failures - 1).min(6));
                slot.go(Slot::Failed {
                    failures,
                    reason: error.to_string(),
                    retry_at: self.engines.clock.now() + pause.min(PAUSE_MAX),
                });
            }
        }
    }

    /// Pins a view and sends it to the worker. None if what it covers is not enough yet.
    fn start_snapshot(&self, failures: u32, demand: Demand) -> Result<Option<Generating>> {
        let view = self.engines.app.view()?;
        let (apply_state, region_state) = read_states(&*view, self.region_id())?;
        let applied = apply_state.applied_index;
        let epoch = region_state.region.region_epoch;
        // A region that waits for a merge is not to be copied: the copy would not wait.
        if region_state.state != PeerState::Normal {
            return Ok(None);
        }
        if applied == 0 || applied < demand.index_min || epoch.conf_ver < demand.conf_ver_min {
            return Ok(None);
        }
        let position = LogPosition::new(self.term_of(applied)?, applied);
        let cancel = Arc::new(Cancel::default());
        let (reply, receiver) = crossbeam_channel::bounded(1);
        let task = BuildTask {
            meta: SnapshotMeta {
                region: region_state.region,
                position,
                conf_state: region_state.conf_state,
            },
            view,
            inline_bytes_max: self.engines.options.inline_bytes_max,
            cancel: Arc::clone(&cancel),
            reply,
        };
        let sender = &self.engines.tasks.snapshot;
        (sender.send(SnapshotTask::Build(Box::new(task)))).map_err(|_| worker_gone())?;
        // Behind it in the queue: it counts the new one.
        self.engines.clean_up_snapshots();
        Ok(Some(Generating {
            position,
            conf_ver: epoch.conf_ver,
            failures,
            cancel,
            reply: receiver,
        }))
    }

    /// What a snapshot must satisfy now. It may not end before the log starts, and it may not be from
    /// before a change of the members: raft would refuse or misuse it.
    fn demand(&self, request_index: u64) -> Demand {
        let RegionEpoch { conf_ver, .. } = self.region().region_epoch;
        Demand {
            index_min: self.truncated_index().max(request_index),
            conf_ver_min: conf_ver,
        }
    }

    /// Gives up what does not satisfy `demand` any more. One that is being built is only given up if
    /// it never will: if it does not reach a request, it is finished first.
    fn drop_useless_snapshot(&self, demand: Demand) {
        let slot = &mut *self.slot.borrow_mut();
        let useless = match slot {
            Slot::Generating(g) => {
                g.position.index < self.truncated_index() || g.conf_ver < demand.conf_ver_min
            }
            Slot::Ready(built) => {
                position(&built.snapshot).index < demand.index_min
                    || built.conf_ver() < demand.conf_ver_min
                    || self.is_gone(built)
            }
            _ => false,
        };
        if useless {
            self.discard(slot.go(Slot::Idle));
        }
    }

    /// Whether the file that a snapshot needs was removed by somebody.
    fn is_gone(&self, built: &Built) -> bool {
        let is_inline = built.info.file_bytes <= self.engines.options.inline_bytes_max;
        let file = || self.engines.snapshots.send(&built.info.key);
        !is_inline && matches!(file(), Err(Error::SnapshotNotFound { .. }))
    }

    /// After the log was compacted or the members changed: gives up what has become useless.
    pub(super) fn recheck_snapshot(&self) {
        self.drop_useless_snapshot(self.demand(0));
    }

    /// From here on a snapshot of a leader is installed; ours is of no more use.
    pub(super) fn begin_applying(&self) {
        let discarded = self.slot.borrow_mut().go(Slot::Applying);
        self.discard(discarded);
    }

    pub(super) fn end_applying(&self) {
        self.slot.borrow_mut().go(Slot::Idle);
    }

    fn discard(&self, slot: Slot) {
        self.engines.tasks.needed.withdraw(self.region_id());
        match slot {
            Slot::Generating(generating) => {
                generating.cancel.cancel();
                // It may be done already, and then nobody else would know of the file.
                if let Ok(Ok(built)) = generating.reply.try_recv() {
                    self.engines.remove_snapshot_file(built.info.key);
                }
            }
            Slot::Ready(built) => self.engines.remove_snapshot_file(built.info.key),
            _ => {}
        }
    }
}

/// What is being built ends with its region.
impl Drop for Generating {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn worker_gone() -> Error {
    let worker = "snapshot";
    Error::WorkerGone { worker }
}
