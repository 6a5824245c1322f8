//! Ticks, and the sleep of a region that has nothing to do: it then costs nothing. Uses: transport,
//! command, peer_storage.
//!
//! A leader whose followers have everything says so to them, and all of them stop ticking. What keeps
//! them safe meanwhile is one sign of life from store to store: when a store falls silent, the regions
//! led from there are woken, and elect. A message or a proposal wakes a region at any time. A follower
//! that missed the word stays awake, asks for votes after a while, and thereby wakes its leader.

use raft::{ProgressState, StateRole};

use super::{Outbox, Peer, Stage};
use crate::command::{AdminCommand, CompactLog};
use crate::transport::PeerBody;
use crate::types::mix;

/// How long there has been nothing to do.
#[derive(Debug, Default)]
pub(super) struct Rest {
    idle_ticks: u32,
    ticks: u32,
    asleep: bool,
}

impl Peer {
    /// Whether it needs no ticks.
    pub fn is_asleep(&self) -> bool {
        self.rest.asleep
    }

    /// There is something to do: the time without starts again.
    pub fn busy(&mut self) {
        self.rest.idle_ticks = 0;
    }

    /// Ends the sleep; whether it slept. The time that was slept through does not count for an election.
    pub fn wake(&mut self) -> bool {
        if !std::mem::replace(&mut self.rest.asleep, false) {
            return false;
        }
        self.rest.idle_ticks = 0;
        self.raft.raft.election_elapsed = 0;
        if self.is_leader() && matches!(self.stage, Stage::Active) {
            // Whoever does not answer is to be known before the quorum is counted.
            self.raft.ping();
        }
        true
    }

    /// One unit of time has passed.
    pub fn tick(&mut self, out: &mut Outbox) {
        if !matches!(self.stage, Stage::Active) || self.rest.asleep {
            return;
        }
        self.rest.ticks = self.rest.ticks.wrapping_add(1);
        self.rest.idle_ticks = self.rest.idle_ticks.saturating_add(1);
        // A follower whose own writes are on their way does not campaign: raft takes it that what a
        // new leader has is durable.
        if self.is_leader() || self.in_flight.is_empty() {
            let timeout = self.election_timeout();
            self.raft.raft.set_randomized_election_timeout(timeout);
            self.raft.tick();
        }
        self.tick_reads();
        self.tick_transfer();
        self.ask_whether_gone(out);
        if (self.rest.ticks).is_multiple_of(self.options.gc_ticks.max(1))
            && let Err(error) = self.raft.mut_store().snapshot_by_policy()
        {
            tracing::warn!(region = %self.region_id(), %error, "snapshot by policy not made");
        }
        if self.is_leader() {
            if (self.rest.ticks).is_multiple_of(self.options.gc_ticks.max(1)) {
                self.compact_log();
            }
            self.fall_asleep(out);
        }
    }

    /// A peer that has no vote and hears no leader cannot find out by asking for votes that it was
    /// removed: it says that it is awake, now and then, and whoever knows better says so.
    fn ask_whether_gone(&mut self, out: &mut Outbox) {
        let every = 4 * self.options.election_ticks as u32;
        let raft = &self.raft.raft;
        if raft.promotable() || raft.leader_id != 0 && !self.is_silent() {
            return;
        }
        if !self.rest.ticks.is_multiple_of(every) {
            return;
        }
        let own = self.id().0;
        let known = self.known.clone().into_iter();
        let peers: Vec<_> = known.chain(self.region().peers.clone()).collect();
        for to in peers.into_iter().filter(|p| p.id != own) {
            self.say(to, PeerBody::Wake, out);
        }
    }

    /// Whether the leader was not heard for an election's time.
    fn is_silent(&self) -> bool {
        self.raft.raft.election_elapsed >= 2 * self.options.election_ticks
    }

    /// Whether it has something for the store since the tick.
    pub fn has_work(&self) -> bool {
        matches!(self.stage, Stage::Active)
            && (self.raft.has_ready() || !self.reads.is_empty() || self.snapshot.is_some())
    }

    /// Between once and twice the base, told from who asks and in which term: peers differ, and a
    /// second try differs from the first.
    fn election_timeout(&self) -> usize {
        let base = self.options.election_ticks;
        let raft = &self.raft.raft;
        let mut hash = self.options.seed;
        for part in [self.key.region.0, self.id().0, raft.term] {
            hash = mix(hash ^ part);
        }
        base + (hash % base as u64) as usize
    }

    /// Proposes to drop the front of the log, if the policy wants it.
    fn compact_log(&mut self) {
        if self.is_merging() || self.check_proposal("log compaction", None).is_err() {
            return;
        }
        let slowest = self.slowest_follower();
        let first_index = match self.storage().first_index_by_policy(slowest) {
            Ok(Some(first_index)) => first_index,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(region = %self.region_id(), %error, "size of the log not known");
                return;
            }
        };
        let index = first_index - 1;
        // One that drops no more than the last one's own entry would be followed by another, for ever.
        if index <= self.compaction_proposed {
            return;
        }
        if let Ok(term) = self.raft.raft.raft_log.term(index) {
            let command = CompactLog { index, term };
            self.propose_admin(AdminCommand::CompactLog(command), None);
            self.compaction_proposed = self.raft.raft.raft_log.last_index();
        }
    }

    /// What the slowest follower has that is still heard of.
    fn slowest_follower(&self) -> Option<u64> {
        let own = self.id().0;
        let prs = self.raft.raft.prs();
        let heard = prs.iter().filter(|(id, p)| **id != own && p.recent_active);
        heard.map(|(_, p)| p.matched).min()
    }

    fn fall_asleep(&mut self, out: &mut Outbox) {
        let after = self.options.sleep_after_ticks;
        if after == 0 || self.rest.idle_ticks < after || !self.may_sleep() {
            return;
        }
        self.rest.asleep = true;
        self.raft.raft.maybe_free_inflight_buffers();
        let raft = &self.raft.raft;
        let (term, commit, own) = (raft.term, raft.raft_log.committed, self.id().0);
        let peers = self.region().peers.clone();
        for to in peers.into_iter().filter(|p| p.id != own) {
            self.say(to, PeerBody::Sleep { term, commit }, out);
        }
    }

    fn may_sleep(&self) -> bool {
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        let has_all = |progress: &raft::Progress| {
            progress.matched == last && progress.state == ProgressState::Replicate
        };
        let own = self.id().0;
        self.is_still()
            && raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && !self.is_merging()
            && self.region_is_simple()
            && (raft.prs().iter()).all(|(id, p)| *id == own || has_all(p))
    }

    fn region_is_simple(&self) -> bool {
        let conf = self.storage().conf_state();
        conf.voters_outgoing.is_empty()
    }

    /// Whether everything is committed, applied and durable, and nobody waits.
    fn is_still(&self) -> bool {
        let log = &self.raft.raft.raft_log;
        let last = log.last_index();
        self.is_idle()
            && self.proposals.is_empty()
            && self.reads.is_empty()
            && self.transfer.is_none()
            && self.snapshot.is_none()
            && !self.raft.has_ready()
            && log.committed == last
            && self.storage().applied_index() == last
    }

    /// The leader sleeps; so does this peer, if it has what the leader has.
    pub fn told_to_sleep(&mut self, from: u64, term: u64, commit: u64) {
        let raft = &self.raft.raft;
        let agrees = raft.state == StateRole::Follower
            && raft.term == term
            && raft.leader_id == from
            && raft.raft_log.last_index() == commit;
        if agrees && matches!(self.stage, Stage::Active) && self.is_still() {
            self.rest.asleep = true;
        }
    }

    /// Tells the store if leader or role are others than before.
    pub(super) fn note_role(&mut self, out: &mut Outbox) {
        let raft = &self.raft.raft;
        let (leader, role) = (raft.leader_id, raft.state);
        if (leader, role) == (self.leader, self.role) {
            return;
        }
        if self.role == StateRole::Leader {
            // Nobody is sure of these any more, except raft.
            let region = self.region_id();
            let of = self.leader();
            self.reads
                .fail(|| crate::error::Error::NotLeader { region, leader: of });
        }
        (self.leader, self.role) = (leader, role);
        self.busy();
        out.changed.push(self.key);
    }
}
