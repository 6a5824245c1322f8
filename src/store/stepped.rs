//! A store without threads: every step is the caller's, in the caller's order, and time passes when the
//! caller says so. For simulations that can be repeated. Uses: start, core, workers.

use std::sync::{Arc, Mutex};

use super::start::Assembly;
use super::{Handle, Run, SplitWanted, Store, StoreOptions};
use crate::composite::CompositeStorage;
use crate::error::{Error, Result};
use crate::proto::Region;
use crate::state_machine::StateMachine;
use crate::ticket::Ticket;
use crate::transport::{Inbox, PeerMessage, StoreMessage, Transport};
use crate::types::{PeerId, RegionId};

/// The parts of a store that do something, each on a thread of its own in a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePart {
    /// Takes in what waits, and hands over what it asks for.
    Raft,
    /// Writes the log.
    Write,
    /// Applies; the number of the worker.
    Apply(usize),
    /// Installs snapshots, syncs the data, looks at sizes.
    Slow,
    /// Proposes the splits that the looking at sizes has found.
    Split,
}

/// A [`Store`] that runs on its caller's thread, a step at a time. It is dropped as a process is killed:
/// what waits is lost.
///
/// `CompositeStorage::from_parts_stepped` makes a node for it whose own workers are stepped as well.
pub struct SteppedStore {
    assembly: Assembly,
    store: Store,
    splits: Arc<Mutex<Vec<SplitWanted>>>,
}

impl SteppedStore {
    /// As [`Store::start`], without threads. `nonce` must differ between the runs of one store.
    ///
    /// # Errors
    /// As [`Store::start`].
    pub fn start<M>(
        node: CompositeStorage,
        machines: M,
        transport: Arc<dyn Transport>,
        options: StoreOptions,
        nonce: u64,
    ) -> Result<SteppedStore>
    where
        M: Fn(&Region) -> Box<dyn StateMachine> + Send + Sync + 'static,
    {
        let splits = Arc::new(Mutex::new(Vec::new()));
        let wanted = Arc::clone(&splits);
        let run = Run {
            nonce,
            split_wanted: Box::new(move |split| lock(&wanted).push(split)),
        };
        let snapshots = Arc::clone(node.snapshots());
        let mut assembly = Assembly::new(
            node,
            Arc::new(machines),
            Arc::clone(&transport),
            options,
            run,
        )?;
        assembly.core.open_all()?;
        assembly.core.flush();
        let handle = assembly.handle.clone();
        transport.start(Arc::new(Unasked(handle.clone())), snapshots)?;
        let store = Store {
            handle,
            threads: Mutex::default(),
            transport,
        };
        Ok(SteppedStore {
            assembly,
            store,
            splits,
        })
    }

    /// What clients use. Its tickets are answered by steps; calls that wait would wait for ever.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Creates a region, at once.
    ///
    /// # Errors
    /// As [`Store::create_region`].
    pub fn create_region(&mut self, region: &Region) -> Result<()> {
        let (mut ticket, done) = Ticket::new();
        self.assembly.core.create_region(region, done);
        self.assembly.core.flush();
        loop {
            if let Some(created) = ticket.try_take() {
                return created;
            }
            if !self.step(StorePart::Slow) && !self.step(StorePart::Raft) {
                return Err(Error::StoreStopped);
            }
        }
    }

    /// Lets one unit of time pass.
    pub fn tick(&mut self) {
        self.assembly.core.tick();
        self.assembly.core.flush();
    }

    /// The parts, for a caller that chooses among them.
    pub fn parts(&self) -> Vec<StorePart> {
        let apply = (0..self.assembly.apply.len()).map(StorePart::Apply);
        let others = [
            StorePart::Raft,
            StorePart::Write,
            StorePart::Slow,
            StorePart::Split,
        ];
        others.into_iter().chain(apply).collect()
    }

    /// Lets one part do what waits for it, once; whether there was anything.
    pub fn step(&mut self, part: StorePart) -> bool {
        match part {
            StorePart::Raft => self.step_raft(),
            StorePart::Write => self.assembly.write.step(),
            StorePart::Apply(worker) => match self.assembly.apply.get_mut(worker) {
                Some(worker) => worker.step(),
                None => false,
            },
            StorePart::Slow => self.assembly.slow.step(),
            StorePart::Split => {
                let wanted = lock(&self.splits).pop();
                wanted
                    .map(|split| drop(self.store.handle.split(split)))
                    .is_some()
            }
        }
    }

    fn step_raft(&mut self) -> bool {
        let mut waiting = Vec::new();
        let any = self.assembly.messages.try_receive(&mut waiting);
        for message in waiting {
            self.assembly.core.handle(message);
        }
        self.assembly.core.flush();
        any
    }
}

/// The inbox of a stepped store. Whether a snapshot is wanted cannot be asked of a raft thread that is
/// the caller's own: every file is taken in, and looked at when its message is.
struct Unasked(Handle);

impl Inbox for Unasked {
    fn message(&self, from: u64, message: StoreMessage) {
        self.0.message(from, message);
    }

    fn unreachable(&self, region: RegionId, peer: PeerId) {
        self.0.unreachable(region, peer);
    }

    fn snapshot_sent(&self, region: RegionId, peer: PeerId, arrived: bool) {
        self.0.snapshot_sent(region, peer, arrived);
    }

    fn accepts_snapshot(&self, _from: u64, _message: &PeerMessage) -> Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}
