//! Committed entries on their way to the applier. Uses: command. Never does I/O.
//!
//! Entries with the user's bytes are handed over as they come. An admin entry is a barrier: it waits
//! until everything before it is applied, so that the raft thread sees the region as it is at that
//! entry, works out what it does, and hands that over. Only then do the entries behind it follow.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::Entry;

use super::{Outbox, Peer};
use crate::command::{EntryHeader, is_conf_change};
use crate::error::Result;
use crate::state_machine::StateMachine;
use crate::workers::{Applier, ApplyTask, ApplyWork};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Handover {
    waiting: VecDeque<Entry>,
    // The last entry that the applier has.
    handed: u64,
    barrier: Barrier,
    begun: bool,
    failed: bool,
    // Since somebody last looked.
    written_bytes: u64,
}

#[derive(Debug, Default, PartialEq)]
enum Barrier {
    #[default]
    None,
    // The entry at the front is being worked out.
    Asked,
    // It is with the applier.
    Handed,
}

/// An admin entry whose turn has come.
pub struct AdminEntry {
    /// The entry.
    pub entry: Entry,
    /// Its header.
    pub header: EntryHeader,
}

impl Handover {
    pub fn from(applied: u64) -> Self {
        Handover {
            handed: applied,
            ..Default::default()
        }
    }

    pub fn committed(&mut self, entries: Vec<Entry>) {
        self.waiting.extend(entries);
    }

    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn restart_at(&mut self, index: u64) {
        // What is committed below the snapshot is part of it.
        self.waiting.clear();
        (self.handed, self.barrier) = (index, Barrier::None);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The applier does nothing for it any more.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether an admin entry is with the applier.
    pub fn is_handed(&self) -> bool {
        self.barrier == Barrier::Handed
    }

    pub fn handed(&self) -> u64 {
        self.handed
    }

    pub fn wrote(&mut self, bytes: u64) {
        self.written_bytes += bytes;
    }
}

/// Whether an entry is one of the store's own.
pub(super) fn is_admin(entry: &Entry) -> bool {
    // The smallest admin header is longer than the largest plain one is by its version alone, so
    // most entries are told apart without being decoded. What does not decode is left to the
    // applier, which stops the region for it.
    const PLAIN_BYTES_MAX: usize = 3;
    is_conf_change(entry)
        || entry.context.len() > PLAIN_BYTES_MAX
            && EntryHeader::of(0.into(), entry).is_ok_and(|h| h.admin.is_some())
}

impl Peer {
    /// Hands over what can be handed over, and the reads that have waited for it.
    pub(super) fn hand_over(&mut self, out: &mut Outbox) {
        let handover = &mut self.handover;
        if handover.barrier == Barrier::None {
            let plain = handover.waiting.iter().take_while(|e| !is_admin(e)).count();
            if plain > 0 {
                let entries: Vec<Entry> = handover.waiting.drain(..plain).collect();
                self.hand_entries(entries, out);
            }
            let handover = &mut self.handover;
            let applied = self.raft.store().applied_index();
            if !handover.waiting.is_empty() && handover.handed == applied {
                handover.barrier = Barrier::Asked;
                out.admin.push(self.key);
            }
        }
        let ready = self.reads.take_servable(self.handover.handed);
        if !ready.is_empty() {
            self.begin(out);
            out.apply.push(ApplyTask {
                peer: self.key,
                work: ApplyWork::Read(ready),
            });
        }
    }

    fn hand_entries(&mut self, entries: Vec<Entry>, out: &mut Outbox) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        assert_eq!(
            first.index,
            self.handover.handed + 1,
            "entries are handed over in order"
        );
        let last = last.index;
        let proposals = self.proposals.take_through(last);
        self.proposals.drop_admin_through(last, self.key.region);
        self.begin(out);
        self.handover.handed = last;
        out.apply.push(ApplyTask {
            peer: self.key,
            work: ApplyWork::Entries { entries, proposals },
        });
    }

    /// Tells the applier about the region before the first task.
    fn begin(&mut self, out: &mut Outbox) {
        if std::mem::replace(&mut self.handover.begun, true) {
            return;
        }
        let storage = self.raft.store();
        let applier = Applier {
            region: Arc::new(storage.region_state().clone()),
            state: storage.apply_state().clone(),
            machine: (out.machines)(storage.region()),
        };
        out.apply.push(ApplyTask {
            peer: self.key,
            work: ApplyWork::Begin(Box::new(applier)),
        });
    }

    /// The admin entry whose turn has come; it stays at the front until it is handed over.
    ///
    /// # Errors
    /// `Corruption` if its header does not decode.
    pub fn admin_entry(&self) -> Result<Option<AdminEntry>> {
        if self.handover.barrier != Barrier::Asked {
            return Ok(None);
        }
        let Some(entry) = self.handover.waiting.front() else {
            return Ok(None);
        };
        let header = EntryHeader::of(self.key.region, entry)?;
        Ok(Some(AdminEntry {
            entry: entry.clone(),
            header,
        }))
    }

    /// Hands over what the admin entry at the front does.
    pub fn hand_admin(&mut self, work: crate::workers::AdminWork, out: &mut Outbox) {
        assert_eq!(
            self.handover.barrier,
            Barrier::Asked,
            "one admin entry at a time"
        );
        let entry = self.handover.waiting.pop_front();
        assert_eq!(entry.map(|e| e.index), Some(work.position.index));
        self.begin(out);
        self.handover.handed = work.position.index;
        self.handover.barrier = Barrier::Handed;
        // Proposals whose place it took.
        let region = self.key.region;
        self.proposals.drop_through(work.position.index, || {
            crate::error::Error::ProposalDropped { region }
        });
        out.apply.push(ApplyTask {
            peer: self.key,
            work: ApplyWork::Admin(Box::new(work)),
        });
    }

    /// Whether the applier has an admin entry; true once, when it is applied.
    pub fn admin_applied(&mut self) -> bool {
        let applied = self.raft.store().applied_index();
        let done = self.handover.barrier == Barrier::Handed && applied == self.handover.handed;
        if done {
            self.handover.barrier = Barrier::None;
        }
        done
    }

    /// Whether an admin entry has its turn and was not handed over yet: it waits for another region.
    pub fn waits_at_admin(&self) -> bool {
        self.handover.barrier == Barrier::Asked
    }

    /// The applier has stopped the region.
    pub fn applier_failed(&mut self) {
        self.handover.fail();
    }

    /// The bytes that were written since this was last asked.
    pub fn take_written_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.handover.written_bytes)
    }

    /// The same, to be looked at.
    pub fn written_bytes(&self) -> u64 {
        self.handover.written_bytes
    }
}

/// Makes the user's state machine for a region.
pub type Machines = dyn Fn(&crate::proto::Region) -> Box<dyn StateMachine> + Send + Sync;
