//! What a client asks of a store. Uses: message, shared, ticket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{AdminRequest, StoreMsg};
use super::{ChangePeer, Handle, RegionProgress, RegionStatus, SplitWanted, Store, StoreStats};
use crate::error::{Error, Result};
use crate::health::NodeHealth;
use crate::peer::ProposeData;
use crate::proto::{Region, RegionEpoch};
use crate::reader::Reader;
use crate::ticket::{Completer, Ticket};
use crate::types::{PeerId, RegionId};
use crate::workers::Permit;

impl Store {
    /// Creates a region on this store: every store that has a peer of it has to, with the same region.
    /// Durable on return. It waits for the disk.
    ///
    /// # Errors
    /// Those of [`CompositeStorage::create_region`](crate::CompositeStorage::create_region); `Refused`
    /// if another region of this store holds some of its keys.
    pub fn create_region(&self, region: &Region) -> Result<()> {
        self.handle.create_region(region)
    }

    /// Proposes `data` to the region, which must be led from here. The ticket answers what the state
    /// machine answered, after the entry is durable on a majority and applied here.
    ///
    /// # Errors
    /// The ticket's: `NotLeader`, `RegionNotFound`, `StaleEpoch` if the region was split or merged
    /// meanwhile, `ProposalDropped`, `Refused`, `Busy`, `RegionStopped`: it was not applied and will not
    /// be. `Uncertain`, `StoreStopped`: it may have been.
    pub fn propose(
        &self,
        region: impl Into<RegionId>,
        data: impl Into<Vec<u8>>,
    ) -> Ticket<Vec<u8>> {
        self.handle.propose(region.into(), None, data.into())
    }

    /// The same, for the region as of `epoch`: if it has been split or merged since, nothing is done.
    pub fn propose_at(
        &self,
        region: impl Into<RegionId>,
        epoch: RegionEpoch,
        data: impl Into<Vec<u8>>,
    ) -> Ticket<Vec<u8>> {
        (self.handle).propose(region.into(), Some(epoch.version), data.into())
    }

    /// A linearizable read: the reader sees everything that was acknowledged before this call, by
    /// whichever store. A majority confirms the leader; no clock is trusted. A follower can be asked
    /// too: it asks the leader for the index, and reads its own data.
    ///
    /// # Errors
    /// The ticket's: `NotLeader` if no leader is known or it changed, `RegionNotFound`, `Refused`.
    pub fn read(&self, region: impl Into<RegionId>) -> Ticket<Reader> {
        let (ticket, done) = Ticket::new();
        self.handle.send(StoreMsg::Read(region.into(), done));
        ticket
    }

    /// The value of `key`, by a linearizable read of the region that holds it here. Waits for at most
    /// `timeout`.
    ///
    /// # Errors
    /// As [`Store::read`]; `RegionNotFound` if no region here holds the key; `Timeout`.
    pub fn get(&self, key: &[u8], timeout: Duration) -> Result<Option<Vec<u8>>> {
        let region = self.region_of(key).ok_or(Error::RegionNotFound {
            region: RegionId(0),
        })?;
        self.read(region.region.region_id()).wait(timeout)?.get(key)
    }

    /// Changes the members of the region: one change in one step, several through a joint
    /// configuration that raft leaves by itself. The ticket answers the region when it is applied here.
    ///
    /// # Errors
    /// The ticket's: as [`Store::propose`]; `Refused` if another change is not done, or it cannot be.
    pub fn change_peers(
        &self,
        region: impl Into<RegionId>,
        changes: impl Into<Vec<ChangePeer>>,
    ) -> Ticket<Region> {
        let request = AdminRequest::ChangePeers(None, changes.into());
        self.admin(region.into(), request)
    }

    /// The same, for the region as of `epoch`: if it has changed since, nothing is done, and the answer
    /// is `StaleEpoch`. For whoever works out the changes from what he has seen of the region: a peer
    /// that was removed meanwhile must not be taken for one that may learn or vote, because its store
    /// never takes it back.
    pub fn change_peers_at(
        &self,
        region: impl Into<RegionId>,
        epoch: RegionEpoch,
        changes: impl Into<Vec<ChangePeer>>,
    ) -> Ticket<Region> {
        let request = AdminRequest::ChangePeers(Some(epoch), changes.into());
        self.admin(region.into(), request)
    }

    /// Cuts the region at `key`: it keeps what is below, and a new region of the same stores gets the
    /// rest. Ids come from the placement, which may do I/O. The ticket answers what the region is then.
    ///
    /// # Errors
    /// Those of the placement; the ticket's as [`Store::propose`], `Refused` if the key is not inside.
    pub fn split(&self, region: impl Into<RegionId>, key: impl Into<Vec<u8>>) -> Ticket<Region> {
        let region = region.into();
        let Some(status) = self.region(region) else {
            return Ticket::answered(Err(Error::RegionNotFound { region }));
        };
        self.handle.split(SplitWanted {
            region,
            key: key.into(),
            peers: status.region.peers.len(),
        })
    }

    /// Merges the region `source` into its neighbour `target`, which must live on the same stores. The
    /// ticket answers when the source has stopped; the target takes it in soon after, or, if it has
    /// changed meanwhile, the source goes on by itself.
    ///
    /// # Errors
    /// The ticket's: as [`Store::propose`]; `Refused` if the two cannot be merged (now).
    pub fn merge(
        &self,
        source: impl Into<RegionId>,
        target: impl Into<RegionId>,
    ) -> Ticket<Region> {
        self.admin(source.into(), AdminRequest::Merge(target.into()))
    }

    /// Hands the leadership to `peer`, once it has caught up. The ticket answers when it leads.
    ///
    /// # Errors
    /// The ticket's: `NotLeader`, `Refused` if the peer cannot lead or did not within an election's time.
    pub fn transfer_leader(
        &self,
        region: impl Into<RegionId>,
        peer: impl Into<PeerId>,
    ) -> Ticket<Region> {
        self.admin(region.into(), AdminRequest::TransferLeader(peer.into()))
    }

    /// Drops the log up to `index`, inclusive, on every replica. The policy of the config does so by
    /// itself; this is for an operator.
    ///
    /// # Errors
    /// The ticket's: as [`Store::propose`]; `Refused` if it is dropped already, or not applied.
    pub fn compact(&self, region: impl Into<RegionId>, index: u64) -> Ticket<Region> {
        self.admin(region.into(), AdminRequest::Compact(index))
    }

    /// Asks the other peers for their votes now.
    ///
    /// # Errors
    /// The ticket's: `RegionNotFound`, `Refused`.
    pub fn campaign(&self, region: impl Into<RegionId>) -> Ticket<Region> {
        self.admin(region.into(), AdminRequest::Campaign)
    }

    /// Removes this store's peer of the region for ever, with its data: for one that was stopped by an
    /// error, so that a new one can come in its place. Take it out of its region as well, by
    /// [`Store::change_peers`] where that is led. The ticket answers the region as it was, when the
    /// removal is durable.
    ///
    /// # Errors
    /// The ticket's: `RegionNotFound`; `RegionStopped` if it could not be removed.
    pub fn destroy(&self, region: impl Into<RegionId>) -> Ticket<Region> {
        self.admin(region.into(), AdminRequest::Destroy)
    }

    /// The region as this store knows it.
    pub fn region(&self, region: impl Into<RegionId>) -> Option<RegionStatus> {
        self.handle.region(region.into())
    }

    /// How far the region has come here, as of when the raft thread gets to it.
    ///
    /// # Errors
    /// The ticket's: `RegionNotFound`.
    pub fn progress(&self, region: impl Into<RegionId>) -> Ticket<RegionProgress> {
        let region = region.into();
        let (ticket, done) = Ticket::new();
        self.handle.send(StoreMsg::Call(Box::new(move |core| {
            done.answer(core.progress(region));
        })));
        ticket
    }

    /// Every region of this store, ascending by id. Those that were stopped by an error are among them.
    pub fn regions(&self) -> Vec<RegionStatus> {
        let shown = self.handle.shared.regions.read();
        shown
            .unwrap_or_else(|p| p.into_inner())
            .values()
            .cloned()
            .collect()
    }

    /// The region that holds `key` here.
    pub fn region_of(&self, key: &[u8]) -> Option<RegionStatus> {
        let shown = self.handle.shared.regions.read();
        let shown = shown.unwrap_or_else(|p| p.into_inner());
        let holds = |s: &&RegionStatus| s.region.is_initialized() && s.region.range().contains(key);
        shown.values().find(holds).cloned()
    }

    /// Waits until a leader of the region is known here, and answers it.
    ///
    /// # Errors
    /// `Timeout`.
    pub fn wait_for_leader(
        &self,
        region: impl Into<RegionId>,
        timeout: Duration,
    ) -> Result<crate::proto::Peer> {
        let region = region.into();
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(leader) = self.region(region).and_then(|s| s.leader) {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                let limit_ms = timeout.as_millis() as u64;
                let what = "a leader";
                return Err(Error::Timeout { what, limit_ms });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The id of this store.
    pub fn store_id(&self) -> u64 {
        self.handle.store_id
    }

    /// What the store has done since it was started; what its node has done is 0 once it is stopped.
    pub fn stats(&self) -> StoreStats {
        let mut stats = self.handle.shared.stats();
        if let Some(engines) = self.handle.engines.upgrade() {
            stats.log = engines.log.stats();
            stats.app = engines.app.stats();
            stats.cache = engines.cache.stats();
        }
        stats
    }

    /// How the node stood when it was last checked, at once: see
    /// [`CompositeStorage::health`](crate::CompositeStorage::health).
    ///
    /// # Errors
    /// `StoreStopped`.
    pub fn health(&self) -> Result<NodeHealth> {
        let checker = self.handle.health.upgrade();
        checker.map(|c| c.last()).ok_or(Error::StoreStopped)
    }

    /// Checks now; it waits for the disk, so not on a thread that must not.
    ///
    /// # Errors
    /// `StoreStopped`.
    pub fn check_health(&self) -> Result<NodeHealth> {
        let checker = self.handle.health.upgrade();
        checker.map(|c| c.check()).ok_or(Error::StoreStopped)
    }

    /// From now on `changed` is called when a layer has become better or worse, as
    /// [`CompositeStorage::on_health_change`](crate::CompositeStorage::on_health_change) says.
    ///
    /// # Errors
    /// `StoreStopped`.
    pub fn on_health_change(
        &self,
        changed: impl Fn(&NodeHealth) + Send + Sync + 'static,
    ) -> Result<()> {
        let checker = self.handle.health.upgrade().ok_or(Error::StoreStopped)?;
        checker.subscribe(Arc::new(changed));
        Ok(())
    }

    fn admin(&self, region: RegionId, request: AdminRequest) -> Ticket<Region> {
        let (ticket, done) = Ticket::new();
        self.handle.send(StoreMsg::Admin(region, request, done));
        ticket
    }
}

impl Handle {
    /// To the raft thread. What it carries answers for itself if nobody is there.
    pub fn send(&self, message: StoreMsg) {
        self.messages.send(message);
    }

    pub fn region(&self, region: RegionId) -> Option<RegionStatus> {
        let shown = self.shared.regions.read();
        shown
            .unwrap_or_else(|p| p.into_inner())
            .get(&region)
            .cloned()
    }

    pub fn propose(
        &self,
        region: RegionId,
        version: Option<u64>,
        data: Vec<u8>,
    ) -> Ticket<Vec<u8>> {
        // What a proposal takes beside its bytes.
        const OVERHEAD: u64 = 256;
        let bytes = data.len() as u64 + OVERHEAD;
        let counter = &self.shared.waiting_bytes;
        let permit = match Permit::take(counter, bytes, self.waiting_bytes_max) {
            Ok(permit) => permit,
            Err(error) => return Ticket::answered(Err(error)),
        };
        let (ticket, done) = Ticket::new();
        let proposal = ProposeData {
            data,
            version,
            done,
            permit,
        };
        self.send(StoreMsg::Propose(region, proposal));
        ticket
    }

    pub fn split(&self, wanted: SplitWanted) -> Ticket<Region> {
        let (ticket, done) = Ticket::new();
        self.split_for(wanted, done);
        ticket
    }

    pub fn split_for(&self, wanted: SplitWanted, done: Completer<Region>) {
        let ids = match self.placement.allocate_ids(1 + wanted.peers) {
            Ok(ids) => ids,
            Err(error) => return done.answer(Err(error)),
        };
        let Some((region_id, peer_ids)) = ids.split_first() else {
            let region = wanted.region;
            return done.answer(Err(Error::Refused {
                region,
                what: "split",
                reason: "the placement gave no ids".into(),
            }));
        };
        let request = AdminRequest::Split {
            key: wanted.key,
            region_id: *region_id,
            peer_ids: peer_ids.to_vec(),
        };
        self.send(StoreMsg::Admin(wanted.region, request, done));
    }

    pub fn create_region(&self, region: &Region) -> Result<()> {
        let (ticket, done) = Ticket::new();
        let region = region.clone();
        self.send(StoreMsg::Call(Box::new(move |core| {
            core.create_region(&region, done);
        })));
        ticket.wait(Duration::MAX)
    }
}
