//! One store with its disks: started, killed, cut off from its power, started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peerstore::memory::{MemoryData, MemoryNetwork, MemorySnapshots};
use peerstore::{
    ApplicationDataStorage, ApplyBatch, CompositeStorage, Config, Error, KvStateMachine, Parts,
    RaftLogStorage, Region, StateMachine, SteppedStore, SteppedWorkers, StoreOptions, StorePart,
};
use raft::eraftpb::Entry;

use crate::broken::{BrokenData, BrokenLog, Flaw};
use crate::dice::Dice;
use crate::disk_log::{DiskLog, LogKind};

/// What can be stepped of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    Store(StorePart),
    Fetch,
    Snapshot,
}

pub struct Running {
    pub store: SteppedStore,
    pub workers: SteppedWorkers,
    pub parts: Vec<Part>,
}

pub struct Node {
    pub id: u64,
    pub log: Arc<DiskLog>,
    pub data: Arc<MemoryData>,
    snapshots: MemorySnapshots,
    pub running: Option<Running>,
    runs: u64,
    flaw: Flaw,
    /// Until this round it is not given any time.
    pub paused_until: u64,
    /// Until this round its clock lags behind the others'.
    pub slow_clock_until: u64,
    /// When it is to be started, or restarted because it is broken.
    pub restart_at: Option<u64>,
    /// A fault of its disk was asked for: whatever it says of itself now is no wonder.
    pub faulty: bool,
    /// The next entry that is applied fails.
    pub apply_fails: Arc<AtomicBool>,
    /// That has happened: a region is stopped.
    pub apply_failed: Arc<AtomicBool>,
}

impl Node {
    pub fn new(id: u64, flaw: Flaw, log: LogKind) -> Node {
        Node {
            id,
            log: Arc::new(DiskLog::new(log)),
            data: Arc::default(),
            snapshots: MemorySnapshots::new(),
            running: None,
            runs: 0,
            flaw,
            paused_until: 0,
            slow_clock_until: 0,
            restart_at: None,
            faulty: false,
            apply_fails: Arc::default(),
            apply_failed: Arc::default(),
        }
    }

    pub fn start(
        &mut self,
        network: &MemoryNetwork,
        config: &Config,
        options: &StoreOptions,
    ) -> Result<(), Error> {
        self.runs += 1;
        let config = Config {
            store_id: self.id,
            ..config.clone()
        };
        let (log, app): (Arc<dyn RaftLogStorage>, Arc<dyn ApplicationDataStorage>) = match self.flaw
        {
            Flaw::None => (self.log.clone(), self.data.clone()),
            Flaw::ApplyStateApart => (self.log.clone(), Arc::new(BrokenData(self.data.clone()))),
            flaw => (
                Arc::new(BrokenLog::new(self.log.clone(), flaw)),
                self.data.clone(),
            ),
        };
        let parts = Parts {
            log,
            app,
            snapshots: Arc::new(self.snapshots.clone()),
        };
        let (node, workers) = CompositeStorage::from_parts_stepped(parts, &config)?;
        let (fails, failed) = (self.apply_fails.clone(), self.apply_failed.clone());
        let machine = move |_: &Region| -> Box<dyn StateMachine> {
            Box::new(Frail {
                fails: fails.clone(),
                failed: failed.clone(),
            })
        };
        let transport = network.transport(self.id);
        let nonce = self.runs << 8 | self.id;
        let store = SteppedStore::start(node, machine, transport, options.clone(), nonce)?;
        let mut parts: Vec<Part> = store.parts().into_iter().map(Part::Store).collect();
        parts.extend([Part::Fetch, Part::Snapshot]);
        self.running = Some(Running {
            store,
            workers,
            parts,
        });
        self.faulty = false;
        self.restart_at = None;
        Ok(())
    }

    /// Ends the process; with `power` what the disks have not synced goes as well, up to some point.
    pub fn kill(&mut self, power: bool, dice: &mut Dice) {
        self.running = None;
        let mut kept = |unsynced: usize| match power {
            true => dice.below(unsynced + 1),
            false => usize::MAX,
        };
        self.log = Arc::new(self.log.crash_copy(kept(self.log.unsynced())));
        self.data = Arc::new(self.data.crash_copy(kept(self.data.unsynced())));
        self.apply_fails.store(false, Ordering::Relaxed);
        self.apply_failed.store(false, Ordering::Relaxed);
    }

    pub fn store(&self) -> Option<&peerstore::Store> {
        self.running.as_ref().map(|r| r.store.store())
    }
}

impl Running {
    pub fn step(&mut self, part: Part) -> bool {
        match part {
            Part::Store(part) => self.store.step(part),
            Part::Fetch => self.workers.step_fetch(),
            Part::Snapshot => self.workers.step_snapshot(),
        }
    }
}

/// Keys and values, until it is told to fail.
struct Frail {
    fails: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl StateMachine for Frail {
    fn apply(&mut self, entry: &Entry, batch: &mut ApplyBatch<'_>) -> peerstore::Result<Vec<u8>> {
        if self.fails.swap(false, Ordering::Relaxed) {
            self.failed.store(true, Ordering::Relaxed);
            return Err(Error::StoreStopped);
        }
        KvStateMachine.apply(entry, batch)
    }
}
