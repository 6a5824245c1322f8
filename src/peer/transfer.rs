//! Leadership that is handed over, to a peer that has at hand what its followers will want. Uses: ticket,
//! transport, peer_storage.

use raft::StateRole;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, Entry};

use super::{Outbox, Peer};
use crate::error::{Error, Result};
use crate::proto::{Peer as PeerMeta, Region};
use crate::ticket::Completer;
use crate::transport::PeerBody;
use crate::types::PeerId;
use crate::workers::SlowTask;

/// A transfer that is under way.
#[derive(Debug)]
pub(super) struct Transfer {
    to: u64,
    age_ticks: usize,
    step: Step,
    done: Completer<Region>,
}

impl Transfer {
    pub fn fail(self, error: Error) {
        self.done.answer(Err(error));
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    // The other one fills its cache; it is given so many ticks.
    Preparing,
    // raft is at it.
    Asked,
}

/// A peer that was told that it may lead soon: it keeps what was asked for.
#[derive(Debug)]
pub(super) struct Preparation {
    leader: PeerMeta,
    low: u64,
    ticks_left: usize,
}

impl Peer {
    /// Hands the leadership to `to`, once it has caught up, and has the entries in memory that others
    /// still miss, or some time has passed.
    pub fn transfer_leader(&mut self, to: PeerId, done: Completer<Region>, out: &mut Outbox) {
        if to == self.id() {
            return done.answer(Ok(self.region().clone()));
        }
        let votes = self.storage().conf_state().voters.contains(&to.0);
        if !votes || self.transfer.is_some() {
            let reason = match votes {
                true => "another transfer is under way".to_owned(),
                false => format!("peer {to} is no voter of the region"),
            };
            return done.answer(Err(self.refused_transfer(reason)));
        }
        self.busy();
        let to = to.0;
        let low = self.slowest_of_all() + 1;
        let known = self.peer_meta(to);
        self.transfer = Some(Transfer {
            to,
            age_ticks: 0,
            step: Step::Preparing,
            done,
        });
        match known.filter(|_| low <= self.raft.raft.raft_log.last_index()) {
            Some(meta) => self.say(meta, PeerBody::Prepare { low }, out),
            // Nobody misses anything.
            None => self.target_prepared(to),
        }
    }

    fn slowest_of_all(&self) -> u64 {
        let own = self.id().0;
        let others = self.raft.raft.prs().iter().filter(|(id, _)| **id != own);
        let last = self.raft.raft.raft_log.last_index();
        others.map(|(_, p)| p.matched).min().unwrap_or(last)
    }

    /// The other one has what it will need.
    pub fn target_prepared(&mut self, from: u64) {
        if let Some(transfer) = &mut self.transfer
            && transfer.to == from
            && transfer.step == Step::Preparing
        {
            transfer.step = Step::Asked;
            self.propose_gathered();
            self.raft.transfer_leader(from);
        }
    }

    /// This peer may lead soon: what is in the log from `low` on is read into its cache.
    pub fn prepare_to_lead(&mut self, leader: PeerMeta, low: u64, out: &mut Outbox) {
        if self.check_active("preparation").is_err() {
            return;
        }
        self.busy();
        self.preparation = Some(Preparation {
            leader,
            low,
            ticks_left: 2 * self.options.election_ticks,
        });
        match self.storage().missing_in_cache(low) {
            Some(range) => out.slow.push(SlowTask::Warm(self.key, range)),
            None => self.say(leader, PeerBody::Prepared, out),
        }
    }

    /// What was read for the cache. Whether or not it could be, the transfer may go on.
    pub fn warmed(&mut self, entries: Result<Vec<Entry>>, out: &mut Outbox) {
        match entries {
            Ok(entries) => self.storage().warm_cache(entries),
            Err(error) => tracing::warn!(region = %self.region_id(), %error, "cache not warmed"),
        }
        if let Some(leader) = self.preparation.as_ref().map(|p| p.leader) {
            self.say(leader, PeerBody::Prepared, out);
        }
    }

    /// Below this index nothing needs to stay in the cache, as far as a transfer goes.
    pub(super) fn prepared_from(&self) -> Option<u64> {
        self.preparation.as_ref().map(|p| p.low)
    }

    fn refused_transfer(&self, reason: String) -> Error {
        let (region, what) = (self.region_id(), "transfer of the leadership");
        Error::Refused {
            region,
            what,
            reason,
        }
    }

    /// Answers whoever waits when it is known how it went. raft gives up after an election's time.
    pub(super) fn tick_transfer(&mut self) {
        let election_ticks = self.options.election_ticks;
        if let Some(preparation) = &mut self.preparation {
            preparation.ticks_left = preparation.ticks_left.saturating_sub(1);
            if preparation.ticks_left == 0 {
                self.preparation = None;
            }
        }
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        transfer.age_ticks += 1;
        let late = transfer.step == Step::Preparing && transfer.age_ticks > election_ticks / 2;
        let given_up = transfer.age_ticks > 3 * election_ticks;
        let (to, leader) = (transfer.to, self.raft.raft.leader_id);
        if leader != to && !given_up {
            if late {
                self.target_prepared(to);
            }
            return;
        }
        if let Some(transfer) = self.transfer.take() {
            let result = match leader == to {
                true => Ok(self.region().clone()),
                false => {
                    let reason = format!("peer {to} did not take it in time; try again");
                    Err(self.refused_transfer(reason))
                }
            };
            transfer.done.answer(result);
        }
    }

    /// Whether the change at `index` may be applied here, as far as the lead goes. A leader that loses its
    /// vote by it waits until a majority of those who stay know that it is committed: when it is gone they
    /// would ask for its vote for ever.
    pub fn may_leave_lead(&self, change: &ConfChangeV2, index: u64) -> bool {
        let own = self.id().0;
        let voters = &self.storage().conf_state().voters;
        let loses_vote = match change.get_changes() {
            [] => !voters.contains(&own),
            [one] => one.node_id == own && one.get_change_type() != ConfChangeType::AddNode,
            // The way into a joint configuration, in which its vote counts still.
            _ => false,
        };
        if !self.is_leader() || !loses_vote {
            return true;
        }
        let staying = voters.iter().filter(|id| **id != own).count();
        let prs = self.raft.raft.prs();
        let knows = |id: u64| prs.get(id).is_some_and(|p| p.committed_index >= index);
        let knowing = voters
            .iter()
            .filter(|id| **id != own && knows(**id))
            .count();
        staying == 0 || knowing * 2 > staying
    }

    /// Ends the lead of a peer that a change has left without a vote. raft lets it lead on, and fails
    /// when it is not even a member any more.
    pub fn step_down_without_vote(&mut self) {
        let own = self.id().0;
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(own) {
            raft.become_follower(raft.term, 0);
        }
    }

    /// Asks for votes now.
    ///
    /// # Errors
    /// `Refused` if it may not: its own writes are on their way, or it does not vote.
    pub fn campaign(&mut self) -> Result<()> {
        self.check_active("campaign")?;
        let (region, what) = (self.region_id(), "campaign");
        let refuse = |reason: &str| {
            let reason = reason.to_owned();
            Err(Error::Refused {
                region,
                what,
                reason,
            })
        };
        if !self.in_flight.is_empty() {
            return refuse("its own writes are on their way; try again");
        }
        if !self.raft.raft.promotable() {
            return refuse("it does not vote");
        }
        if let Err(error) = self.raft.campaign() {
            return refuse(&error.to_string());
        }
        self.busy();
        Ok(())
    }
}
