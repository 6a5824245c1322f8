//! Proposals: gathered while the raft thread is at it, proposed together, answered when applied. Uses:
//! command, ticket.

use std::collections::VecDeque;

use raft::eraftpb::{ConfChangeV2, Entry, Message, MessageType};

use super::Peer;
use crate::command::{AdminCommand, EntryHeader};
use crate::error::{Error, Result};
use crate::proto::Region;
use crate::ticket::Completer;
use crate::types::{LogPosition, RegionId};
use crate::workers::{Permit, Proposal};

/// The user's bytes on their way into the log.
#[derive(Debug)]
pub struct ProposeData {
    /// The bytes.
    pub data: Vec<u8>,
    /// The version of the region that they are meant for, if that matters.
    pub version: Option<u64>,
    /// Who is answered.
    pub done: Completer<Vec<u8>>,
    /// Counts their bytes.
    pub permit: Permit,
}

/// Whoever waits for an admin entry.
#[derive(Debug)]
pub struct AdminWait {
    /// Where its entry stands, if nothing takes its place.
    pub position: LogPosition,
    /// Who is answered.
    pub done: Completer<Region>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    gathered: Vec<ProposeData>,
    // Ascending by index.
    waiting: VecDeque<Proposal>,
    // Ascending by index.
    admin: VecDeque<AdminWait>,
}

impl Proposals {
    /// Those that wait for an entry up to `index`.
    pub fn take_through(&mut self, index: u64) -> Vec<Proposal> {
        let count = self
            .waiting
            .iter()
            .take_while(|p| p.position.index <= index)
            .count();
        self.waiting.drain(..count).collect()
    }

    /// Answers those that wait for an entry up to `index` with an error.
    pub fn drop_through(&mut self, index: u64, error: impl Fn() -> Error) {
        for proposal in self.take_through(index) {
            proposal.done.answer(Err(error()));
        }
    }

    /// Answers admin proposals whose place up to `index` was taken by other entries.
    pub fn drop_admin_through(&mut self, index: u64, region: RegionId) {
        while self
            .admin
            .front()
            .is_some_and(|w| w.position.index <= index)
            && let Some(wait) = self.admin.pop_front()
        {
            wait.done.answer(Err(Error::ProposalDropped { region }));
        }
    }

    /// Entries from `index` on are new: those that stood there were replaced, and whoever leads now does
    /// not have them. Nobody here will hear of them again; but they may be on other replicas, one of
    /// which may lead next and commit them.
    fn drop_from(&mut self, index: u64, region: RegionId) {
        while self
            .waiting
            .back()
            .is_some_and(|p| p.position.index >= index)
            && let Some(proposal) = self.waiting.pop_back()
        {
            proposal.done.answer(Err(Error::Uncertain { region }));
        }
        while self.admin.back().is_some_and(|w| w.position.index >= index)
            && let Some(wait) = self.admin.pop_back()
        {
            wait.done.answer(Err(Error::Uncertain { region }));
        }
    }

    /// Answers everybody. What is in the log already may have left it for other replicas, and be
    /// applied there; only what was not proposed yet has the error's own word that it never will be.
    pub fn stop(&mut self, region: RegionId, error: impl Fn() -> Error) {
        for proposal in self.gathered.drain(..) {
            proposal.done.answer(Err(error()));
        }
        self.fail(|| Error::Uncertain { region });
    }

    /// Answers everybody the same.
    pub fn fail(&mut self, error: impl Fn() -> Error) {
        for proposal in self.gathered.drain(..) {
            proposal.done.answer(Err(error()));
        }
        for proposal in self.waiting.drain(..) {
            proposal.done.answer(Err(error()));
        }
        for wait in self.admin.drain(..) {
            wait.done.answer(Err(error()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.waiting.is_empty() && self.admin.is_empty()
    }
}

impl Peer {
    /// Takes a proposal; it is proposed with what else comes before the next ready.
    pub fn propose(&mut self, proposal: ProposeData) {
        if let Err(error) = self.check_proposal("proposal", proposal.version) {
            proposal.done.answer(Err(error));
            return;
        }
        self.proposals.gathered.push(proposal);
    }

    /// Whether a proposal may be made now.
    ///
    /// # Errors
    /// `NotLeader`, `StaleEpoch`, `Refused`, `RegionStopped`.
    pub fn check_proposal(&self, what: &'static str, version: Option<u64>) -> Result<()> {
        let region = self.region_id();
        self.check_active(what)?;
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let current = self.region().region_epoch;
        if let Some(version) = version
            && version != current.version
        {
            let mut got = current;
            got.version = version;
            return Err(Error::StaleEpoch {
                region,
                got,
                current: Box::new(self.region().clone()),
            });
        }
        let refused = |reason: &str| {
            let reason = reason.to_owned();
            Err(Error::Refused {
                region,
                what,
                reason,
            })
        };
        if self.is_merging() {
            return refused("the region is being merged into its neighbour; ask that one later");
        }
        if self.raft.raft.lead_transferee.is_some() {
            return refused("its leadership is being transferred; try again");
        }
        Ok(())
    }

    /// That somebody else leads, and who, if that is known.
    pub fn not_leader(&self) -> Error {
        Error::NotLeader {
            region: self.region_id(),
            leader: self.leader().filter(|_| !self.is_leader()),
        }
    }

    /// Proposes what was gathered, as one message to raft.
    pub(super) fn propose_gathered(&mut self) {
        if self.proposals.gathered.is_empty() {
            return;
        }
        // Since they were gathered the region may have been split, or the lead lost; or its last entry
        // before a merge may have been applied, behind which nothing may be acknowledged any more.
        let mut gathered = Vec::new();
        for proposal in std::mem::take(&mut self.proposals.gathered) {
            match self.check_proposal("proposal", proposal.version) {
                Ok(()) => gathered.push(proposal),
                Err(error) => proposal.done.answer(Err(error)),
            }
        }
        if gathered.is_empty() {
            return;
        }
        let version = self.region().region_epoch.version;
        let context = EntryHeader::data(version).to_context();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id().0;
        let mut waits = Vec::with_capacity(gathered.len());
        let mut entries = Vec::with_capacity(gathered.len());
        for proposal in gathered {
            let mut entry = Entry::default();
            entry.data = proposal.data.into();
            entry.context = context.clone().into();
            entries.push(entry);
            waits.push((proposal.done, proposal.permit));
        }
        message.set_entries(entries.into());
        let first = self.raft.raft.raft_log.last_index() + 1;
        if let Err(error) = self.raft.raft.step(message) {
            let reason = format!("raft does not take it now: {error}; try again");
            let region = self.region_id();
            for (done, _) in waits {
                let (what, reason) = ("proposal", reason.clone());
                done.answer(Err(Error::Refused {
                    region,
                    what,
                    reason,
                }));
            }
            return;
        }
        let term = self.raft.raft.term;
        self.proposals.drop_from(first, self.key.region);
        for ((done, permit), index) in waits.into_iter().zip(first..) {
            let position = LogPosition::new(term, index);
            let proposal = Proposal {
                position,
                done,
                _permit: permit,
            };
            self.proposals.waiting.push_back(proposal);
        }
        self.busy();
    }

    /// Proposes an admin entry. What was gathered goes first.
    pub fn propose_admin(&mut self, command: AdminCommand, done: Option<Completer<Region>>) {
        let proposed = self.try_admin(|peer| {
            let version = peer.region().region_epoch.version;
            let context = EntryHeader::admin(version, command).to_context();
            peer.raft.propose(context, Vec::new())
        });
        self.await_admin(proposed, done);
    }

    /// Proposes a change of the configuration, which raft takes only if no other is on its way.
    pub fn propose_conf_change(
        &mut self,
        change: &ConfChangeV2,
        command: AdminCommand,
        done: Completer<Region>,
    ) {
        let proposed = self.try_admin(|peer| {
            let version = peer.region().region_epoch.version;
            let context = EntryHeader::admin(version, command).to_context();
            peer.raft.propose_conf_change(context, change.clone())
        });
        let last = self.raft.raft.raft_log.last_index();
        let taken = self.raft.raft.pending_conf_index == last;
        let region = self.region_id();
        let proposed = proposed.and_then(|position| match taken {
            true => Ok(position),
            false => Err(Error::Refused {
                region,
                what: "change of peers",
                reason: "another change is not applied yet; try again".into(),
            }),
        });
        self.await_admin(proposed, Some(done));
    }

    fn try_admin(
        &mut self,
        propose: impl FnOnce(&mut Peer) -> raft::Result<()>,
    ) -> Result<LogPosition> {
        self.propose_gathered();
        self.busy();
        propose(self).map_err(|error| Error::Refused {
            region: self.region_id(),
            what: "admin command",
            reason: format!("raft does not take it now: {error}; try again"),
        })?;
        let index = self.raft.raft.raft_log.last_index();
        Ok(LogPosition::new(self.raft.raft.term, index))
    }

    fn await_admin(&mut self, proposed: Result<LogPosition>, done: Option<Completer<Region>>) {
        match (proposed, done) {
            (Ok(position), Some(done)) => {
                let region = self.key.region;
                self.proposals.drop_from(position.index, region);
                self.proposals.admin.push_back(AdminWait { position, done });
            }
            (Err(error), Some(done)) => done.answer(Err(error)),
            (_, None) => {}
        }
    }

    /// Whoever waits for the admin entry at `position`. Those before it waited in vain.
    pub fn take_admin_wait(&mut self, position: LogPosition) -> Option<Completer<Region>> {
        let region = self.region_id();
        self.proposals
            .drop_admin_through(position.index - 1, region);
        let front = self.proposals.admin.front()?;
        if front.position == position {
            return self.proposals.admin.pop_front().map(|w| w.done);
        }
        self.proposals.drop_admin_through(position.index, region);
        None
    }
}
