//! The threads of a store, and what connects them. Uses: core, workers, transport.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};

use super::core::{StoreCore, Tasks};
use super::message::StoreMsg;
use super::metrics::StoreMetrics;
use super::options::random;
use super::shared::Shared;
use super::{Handle, Run, Store, StoreOptions};
use crate::composite::CompositeStorage;
use crate::error::{Error, Result};
use crate::mailbox::{Received, Receiver, Sender, mailbox};
use crate::metrics::Stopwatch;
use crate::peer::{Machines, Outbox};
use crate::proto::Region;
use crate::state_machine::StateMachine;
use crate::transport::{Inbox, PeerMessage, Placement, StoreMessage, Transport};
use crate::types::{PeerId, RegionId};
use crate::workers::{ApplyWorker, Done, DoneSender, SlowWorker, WriteWorker, spawn};

/// A store before anything of it runs.
pub struct Assembly {
    pub core: StoreCore,
    pub handle: Handle,
    pub messages: Receiver<StoreMsg>,
    pub write: WriteWorker,
    pub apply: Vec<ApplyWorker>,
    pub slow: SlowWorker,
}

impl Store {
    /// Starts driving every region of `node`, and whatever comes to it later. `machines` makes the state
    /// machine of a region when it first applies something.
    ///
    /// A region that cannot be opened is shown by [`Store::regions`] as stopped, with its error; the
    /// others serve. It waits for the disk.
    ///
    /// # Errors
    /// Those of the data store, and of the transport's start; `Io` if the system gives no thread.
    pub fn start<M>(
        node: CompositeStorage,
        machines: M,
        transport: Arc<dyn Transport>,
        options: StoreOptions,
    ) -> Result<Store>
    where
        M: Fn(&Region) -> Box<dyn StateMachine> + Send + Sync + 'static,
    {
        let tick = options.tick;
        let snapshots = Arc::clone(node.snapshots());
        let (wanted, splits) = unbounded();
        let run_as = Run {
            nonce: random(),
            split_wanted: Box::new(move |split| drop(wanted.send(split))),
        };
        let machines = Arc::new(machines);
        let assembly = Assembly::new(node, machines, Arc::clone(&transport), options, run_as)?;
        let Assembly {
            mut core,
            handle,
            messages,
            write,
            apply,
            slow,
        } = assembly;
        core.open_all()?;
        core.flush();
        transport.start(Arc::new(handle.clone()), snapshots)?;
        let mut threads = vec![
            spawn("peerstore-write", move || write.run())?,
            spawn("peerstore-slow", move || slow.run())?,
        ];
        for worker in apply {
            threads.push(spawn("peerstore-apply", move || worker.run())?);
        }
        // Allocating ids may take long: not on the raft thread.
        let splitter = handle.clone();
        threads.push(spawn("peerstore-split", move || {
            for wanted in splits {
                drop(splitter.split(wanted));
            }
        })?);
        let metrics = Arc::clone(&handle.metrics);
        threads.push(spawn("peerstore-raft", move || {
            run(core, &messages, tick, &metrics);
        })?);
        Ok(Store {
            handle,
            threads: Mutex::new(threads),
            transport,
        })
    }

    /// Stops every thread, and waits for them. What is in the log and was acknowledged is durable.
    pub fn stop(&self) {
        self.transport.stop();
        self.handle.send(StoreMsg::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(|p| p.into_inner()));
        for thread in threads {
            join(thread);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the store had panicked");
    }
}

/// After about so many messages what they ask for is handed over, though more may wait.
const GATHER_MAX: usize = 4096;

/// The raft thread.
fn run(mut core: StoreCore, messages: &Receiver<StoreMsg>, tick: Duration, metrics: &StoreMetrics) {
    let mut next_tick = Instant::now() + tick;
    let mut waiting = Vec::new();
    loop {
        // Whatever waits goes into the same readies, and the same write; so does what comes meanwhile.
        if messages.receive(&mut waiting, Some(next_tick)) == Received::Closed {
            return;
        }
        let start = Stopwatch::start();
        let mut handled = 0;
        loop {
            handled += waiting.len();
            for message in waiting.drain(..) {
                if !core.handle(message) {
                    return;
                }
            }
            if handled >= GATHER_MAX || !messages.try_receive(&mut waiting) {
                break;
            }
        }
        let now = Instant::now();
        if now >= next_tick {
            core.tick();
            // One that comes late is not made up for: time that did not pass here proves nothing.
            next_tick = now + tick;
        }
        core.flush();
        metrics.round(handled, start);
    }
}

impl Assembly {
    pub fn new(
        node: CompositeStorage,
        machines: Arc<Machines>,
        transport: Arc<dyn Transport>,
        options: StoreOptions,
        run: Run,
    ) -> Result<Assembly> {
        let (sender, messages) = mailbox();
        let shared = Arc::new(Shared::default());
        let placement = match &options.placement {
            Some(placement) => Arc::clone(placement),
            None => Arc::new(OwnIds::default()),
        };
        let handle = Handle {
            messages: sender.clone(),
            shared: Arc::clone(&shared),
            placement: Arc::clone(&placement),
            engines: Arc::downgrade(node.engines()),
            waiting_bytes_max: options.waiting_bytes_max,
            store_id: node.store_id(),
            metrics: Arc::new(StoreMetrics::new(node.store_id())),
            health: Arc::downgrade(node.health_checker()),
        };
        node.health_checker().add_source({
            let shared = Arc::downgrade(&shared);
            Box::new(move || shared.upgrade()?.stopped_regions())
        });
        let done = done_sender(sender.clone());
        node.set_waker({
            let done = Arc::clone(&done);
            Arc::new(move |region| done(Done::Woken(region)))
        });
        let engines = node.engines();
        let (write, write_tasks) = mailbox();
        let (slow, slow_tasks) = mailbox();
        let mut apply = Vec::new();
        let mut appliers = Vec::new();
        for _ in 0..options.apply_threads.max(1) {
            let (sender, tasks) = mailbox();
            apply.push(sender);
            let (engines, done) = (Arc::clone(engines), Arc::clone(&done));
            appliers.push(ApplyWorker::new(engines, tasks, done));
        }
        let tasks = Tasks { write, apply, slow };
        let out = Outbox::new(node.store_id(), machines);
        let write = WriteWorker::new(Arc::clone(engines), write_tasks, Arc::clone(&done));
        let slow = SlowWorker::new(Arc::clone(engines), slow_tasks, done);
        let parts = (transport, placement, shared);
        let core = StoreCore::new(node, out, Arc::new(options), parts, tasks, run);
        Ok(Assembly {
            core,
            handle,
            messages,
            write,
            apply: appliers,
            slow,
        })
    }
}

fn done_sender(messages: Sender<StoreMsg>) -> DoneSender {
    Arc::new(move |done| messages.send(StoreMsg::Done(done)))
}

impl Inbox for Handle {
    fn message(&self, from: u64, message: StoreMessage) {
        self.send(StoreMsg::Message(from, message));
    }

    fn unreachable(&self, region: RegionId, peer: PeerId) {
        self.send(StoreMsg::Unreachable(region, peer));
    }

    fn snapshot_sent(&self, region: RegionId, peer: PeerId, arrived: bool) {
        self.send(StoreMsg::SnapshotSent(region, peer, arrived));
    }

    fn accepts_snapshot(&self, from: u64, message: &PeerMessage) -> Result<()> {
        let (reply, answer) = bounded(1);
        self.send(StoreMsg::Offer(from, Box::new(message.clone()), reply));
        answer.recv().unwrap_or(Err(Error::StoreStopped))
    }
}

/// The ids of a store that is alone.
#[derive(Default)]
struct OwnIds(AtomicU64);

impl Placement for OwnIds {
    fn address(&self, _store: u64) -> Option<String> {
        None
    }

    fn allocate_ids(&self, count: usize) -> Result<Vec<u64>> {
        let first = self.0.fetch_add(count as u64, Ordering::Relaxed) + 1;
        Ok((first..first + count as u64).collect())
    }

    fn observe_id(&self, id: u64) {
        self.0.fetch_max(id, Ordering::Relaxed);
    }

    fn max_id(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
