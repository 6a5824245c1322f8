//! Proposes, where a region is led, that what has expired goes. Uses: core, options, workers.
//!
//! A look is a task of the slow worker, one at a time for all regions that are led here: it reads data,
//! which the raft thread never does, and wakes nobody. The time is read once a look, and travels in the
//! commands.

use super::core::StoreCore;
use crate::error::Result;
use crate::peer::{ProposeData, Stage};
use crate::ticket::Ticket;
use crate::workers::{ExpiryLook, PeerKey, Permit, SlowTask};

/// When the store looks.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    ticks_since_look: u32,
    // A worker is at it.
    looking: bool,
}

impl StoreCore {
    /// Looks, if it is time.
    pub(super) fn look_for_expired(&mut self) {
        let Some(options) = &self.options.expiry else {
            return;
        };
        let expiry = &mut self.expiry;
        expiry.ticks_since_look = expiry.ticks_since_look.saturating_add(1);
        if expiry.looking || expiry.ticks_since_look < options.every_ticks {
            return;
        }
        expiry.ticks_since_look = 0;
        let peers = self.peers.values();
        let led = peers.filter(|p| p.is_leader() && matches!(p.stage(), Stage::Active));
        let regions: Vec<_> = led.map(|p| (p.key(), p.region().range())).collect();
        if !regions.is_empty() {
            expiry.looking = true;
            let now_ms = (options.now_ms)();
            let look = ExpiryLook { now_ms, regions };
            self.out.slow.push(SlowTask::Expired(look));
        }
    }

    /// In these regions something has expired by `now_ms`. What cannot be proposed now is looked for
    /// again.
    pub(super) fn expired(&mut self, now_ms: u64, found: Result<Vec<PeerKey>>) {
        self.expiry.looking = false;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "what has expired was not found out; the next look will try again");
            Vec::new()
        });
        let options = std::sync::Arc::clone(&self.options);
        let Some(expiry) = &options.expiry else {
            return;
        };
        for key in found {
            if !self.is_current(key) {
                continue;
            }
            let data = (expiry.command)(now_ms);
            let (waiting, limit) = (&self.shared.waiting_bytes, options.waiting_bytes_max);
            let Ok(permit) = Permit::take(waiting, data.len() as u64, limit) else {
                return;
            };
            let (_, done) = Ticket::new();
            let proposal = ProposeData {
                data,
                version: None,
                done,
                permit,
            };
            self.with_peer(key.region, |peer, _| peer.propose(proposal));
        }
    }
}
