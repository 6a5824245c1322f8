//! Leadership that is handed over. Uses: ticket.

use raft::StateRole;

use super::Peer;
use crate::error::{Error, Result};
use crate::proto::Region;
use crate::ticket::Completer;
use crate::types::PeerId;

/// A transfer that is under way.
#[derive(Debug)]
pub(super) struct Transfer {
    to: u64,
    age_ticks: usize,
    done: Completer<Region>,
}

impl Peer {
    /// Hands the leadership to `to`, once it has caught up.
    pub fn transfer_leader(&mut self, to: PeerId, done: Completer<Region>) {
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
        self.propose_gathered();
        let age_ticks = 0;
        let to = to.0;
        self.transfer = Some(Transfer {
            to,
            age_ticks,
            done,
        });
        self.raft.transfer_leader(to);
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
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        transfer.age_ticks += 1;
        let given_up = transfer.age_ticks > 2 * self.options.election_ticks;
        let (to, leader) = (transfer.to, self.raft.raft.leader_id);
        if leader != to && !given_up {
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
