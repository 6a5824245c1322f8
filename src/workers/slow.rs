//! The worker for what takes long and holds up nobody: installs, syncs of the data, looking for a key to
//! split at, or for what has expired. Uses: peer_storage, app_store, expiry.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::task::{Done, DoneSender, ExpiryLook, NewPeer, PeerKey, SlowTask, SplitCheck};
use crate::app_store::Keyspace;
use crate::error::{Result, catch_panic};
use crate::expiry::has_expired;
use crate::mailbox::{Received, Receiver};
use crate::peer_storage::{Engines, PeerStorage};

/// More is not read for the cache of a peer that is about to lead.
const WARM_BYTES_MAX: u64 = 16 << 20;

/// Does what takes long.
pub struct SlowWorker {
    engines: Arc<Engines>,
    tasks: Receiver<SlowTask>,
    done: DoneSender,
}

impl SlowWorker {
    /// A worker for `tasks`.
    pub fn new(engines: Arc<Engines>, tasks: Receiver<SlowTask>, done: DoneSender) -> Self {
        SlowWorker {
            engines,
            tasks,
            done,
        }
    }

    /// Works until every sender is gone.
    pub fn run(self) {
        let mut tasks = Vec::new();
        while self.tasks.receive(&mut tasks, None) == Received::Some {
            for task in tasks.drain(..) {
                (self.done)(self.work(task));
            }
        }
    }

    /// Does what waits; whether there was anything.
    pub fn step(&self) -> bool {
        let mut tasks = Vec::new();
        let any = self.tasks.try_receive(&mut tasks);
        for task in tasks {
            (self.done)(self.work(task));
        }
        any
    }

    fn work(&self, task: SlowTask) -> Done {
        match task {
            SlowTask::Install(peer, task) => {
                let result = catch_panic("install", || task.run());
                Done::Installed(peer, result.map(Box::new))
            }
            SlowTask::Sync(number) => match self.engines.app.sync() {
                Ok(()) => Done::Synced(number),
                Err(error) => Done::Poisoned(error),
            },
            SlowTask::Open(region, new) => {
                let engines = &self.engines;
                let opened = catch_panic("open", || match new {
                    NewPeer::Known => PeerStorage::open(engines, region),
                    NewPeer::Waiting(peer) => {
                        PeerStorage::create_uninitialized(engines, region, peer)
                    }
                    NewPeer::Created(region, peer) => PeerStorage::create(engines, &region, peer),
                });
                Done::Opened(region, opened.map(Box::new))
            }
            SlowTask::Warm(peer, range) => {
                let log = &self.engines.log;
                Done::Warmed(peer, log.read_entries(peer.region, range, WARM_BYTES_MAX))
            }
            SlowTask::Expired(look) => Done::Expired(look.now_ms, self.expired(&look)),
            SlowTask::SplitCheck(check) => {
                let key = self.middle_key(&check);
                Done::SplitKey(check.peer, key)
            }
        }
    }

    /// The regions in which something has expired.
    fn expired(&self, look: &ExpiryLook) -> Result<Vec<PeerKey>> {
        let view = self.engines.app.view()?;
        let mut found = Vec::new();
        for (peer, range) in &look.regions {
            if has_expired(&*view, range, look.now_ms)? {
                found.push(*peer);
            }
        }
        Ok(found)
    }

    /// The key behind which half of the bytes lie, if there are more than the limit.
    fn middle_key(&self, check: &SplitCheck) -> Result<Option<Vec<u8>>> {
        let view = self.engines.app.view()?;
        let mut bytes = 0;
        view.scan(Keyspace::Data, &check.range, &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            Ok(ControlFlow::Continue(()))
        })?;
        if bytes <= check.bytes_max {
            return Ok(None);
        }
        let (mut passed, mut middle) = (0, None);
        view.scan(Keyspace::Data, &check.range, &mut |key, value| {
            // Never the first key: nothing would be left below it.
            if passed * 2 >= bytes && passed > 0 {
                middle = Some(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            passed += (key.len() + value.len()) as u64;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(middle)
    }
}
