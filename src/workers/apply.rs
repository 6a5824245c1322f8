//! The apply worker: committed entries through the user's state machine into the data, with the applied
//! index in the same batch. Uses: peer_storage, state_machine, command.
//!
//! A region belongs to one worker, which applies its entries in their order; the regions of a worker
//! share a batch. What goes wrong in one region's state machine stops that region, with nothing of the
//! task written, and the others go on.

use std::collections::HashMap;
use std::sync::Arc;

use raft::eraftpb::Entry;

use super::task::Proposal;
use super::task::{AdminWork, Applied, Applier, ApplyTask, ApplyWork, Done, DoneSender, PeerKey};
use crate::app_store::{AppBatch, Keyspace};
use crate::command::{EntryHeader, position_of};
use crate::error::{Error, Result, catch_panic};
use crate::expiry::carry_clock;
use crate::index::carry_indexes;
use crate::keys::region_key;
use crate::mailbox::{Received, Receiver};
use crate::metrics::Stopwatch;
use crate::peer_storage::{Engines, next_apply_state};
use crate::proto::PeerState;
use crate::reader::Reader;
use crate::state_machine::ApplyBatch;
use crate::ticket::Completer;
use crate::types::Durability;

/// Regions are gathered up to about this much before they are written.
const BATCH_BYTES: usize = 1 << 20;

type Answer = (Completer<Vec<u8>>, Result<Vec<u8>>);

/// Applies the regions that are given to it.
pub struct ApplyWorker {
    engines: Arc<Engines>,
    tasks: Receiver<ApplyTask>,
    done: DoneSender,
    regions: HashMap<PeerKey, Applier>,
    group: Group,
}

/// What is applied but not written yet.
#[derive(Default)]
struct Group {
    batch: AppBatch,
    applied: Vec<Applied>,
    answers: Vec<Answer>,
    entries: usize,
    // When the first of it was begun.
    start: Option<Stopwatch>,
}

impl ApplyWorker {
    /// A worker for `tasks`.
    pub fn new(engines: Arc<Engines>, tasks: Receiver<ApplyTask>, done: DoneSender) -> Self {
        ApplyWorker {
            engines,
            tasks,
            done,
            regions: HashMap::new(),
            group: Group::default(),
        }
    }

    /// Works until every sender is gone.
    pub fn run(mut self) {
        let mut tasks = Vec::new();
        while self.tasks.receive(&mut tasks, None) == Received::Some {
            self.work(&mut tasks);
        }
    }

    /// Applies what waits; whether there was anything.
    pub fn step(&mut self) -> bool {
        let mut tasks = Vec::new();
        let any = self.tasks.try_receive(&mut tasks);
        self.work(&mut tasks);
        any
    }

    fn work(&mut self, tasks: &mut Vec<ApplyTask>) {
        for task in tasks.drain(..) {
            self.take(task);
            if self.group.batch.bytes() >= BATCH_BYTES {
                self.flush();
            }
        }
        self.flush();
    }

    fn take(&mut self, task: ApplyTask) {
        let peer = task.peer;
        // A state machine reads what was written, so its region is not applied twice into one group.
        let plain = matches!(task.work, ApplyWork::Entries { .. });
        if !plain || self.group.applied.iter().any(|a| a.peer == peer) {
            self.flush();
        }
        match task.work {
            ApplyWork::Begin(applier) => {
                self.regions.insert(peer, *applier);
            }
            ApplyWork::Entries { entries, proposals } => {
                if let Err(error) = self.apply(peer, &entries, proposals) {
                    self.stop(peer, error);
                }
            }
            ApplyWork::Admin(work) => self.apply_admin(peer, *work),
            ApplyWork::Read(readers) => self.read(peer, readers),
            ApplyWork::Installed(states) => {
                if let Some(applier) = self.regions.get_mut(&peer) {
                    applier.region = Arc::new(states.0);
                    applier.state = states.1;
                }
            }
            ApplyWork::End => {
                self.regions.remove(&peer);
            }
            ApplyWork::Destroy(task) => {
                self.regions.remove(&peer);
                (self.done)(Done::Destroyed(peer, task.run()));
            }
        }
    }

    fn stop(&mut self, peer: PeerKey, error: Error) {
        self.regions.remove(&peer);
        (self.done)(Done::Failed(peer, error));
    }

    /// Applies entries into the group.
    fn apply(&mut self, peer: PeerKey, entries: &[Entry], proposals: Vec<Proposal>) -> Result<()> {
        // One that was stopped: its proposals learn from the raft thread why.
        let Some(applier) = self.regions.get_mut(&peer) else {
            return Ok(());
        };
        let state = next_apply_state(peer.region, &applier.state, entries.iter().map(position_of))?;
        let range = applier.region.region.range();
        self.group.start.get_or_insert_with(Stopwatch::start);
        let mut batch = ApplyBatch::new(&*self.engines.app, &range);
        batch.reserve_for(entries);
        let mut answers = Vec::with_capacity(proposals.len());
        let mut proposals = proposals.into_iter().peekable();
        for entry in entries {
            let answer = apply_entry(applier, peer, entry, &mut batch)?;
            while let Some(proposal) = proposals.next_if(|p| p.position.index <= entry.index) {
                let result = match proposal.position == position_of(entry) {
                    true => answer_of(applier, peer, &answer),
                    false => Err(Error::ProposalDropped {
                        region: peer.region,
                    }),
                };
                answers.push((proposal.done, result));
            }
        }
        let batch = batch.into_checked(peer.region)?;
        applier.state = state;
        self.group.batch.append(&batch);
        let bytes = batch.bytes() as u64;
        let key = region_key(peer.region);
        let state = applier.state.encode_to_vec();
        self.group.batch.put(Keyspace::ApplyState, key, state);
        self.group.entries += entries.len();
        self.group.answers.extend(answers);
        self.group.applied.push(Applied {
            peer,
            state: applier.state.clone(),
            region: None,
            bytes,
        });
        Ok(())
    }

    /// Applies one entry of the store's own: what it does is known already.
    fn apply_admin(&mut self, peer: PeerKey, work: AdminWork) {
        let Some(applier) = self.regions.get_mut(&peer) else {
            return;
        };
        match next_apply_state(peer.region, &applier.state, [work.position]) {
            Ok(state) => applier.state = state,
            Err(error) => return self.stop(peer, error),
        }
        if let Some(truncated) = work.truncated {
            applier.state.truncated_state = truncated;
        }
        let key = region_key(peer.region);
        let mut batch = AppBatch::new();
        if let Some(new) = &work.region {
            let (old, new) = (applier.region.region.range(), new.region.range());
            // Before the rest: where this store has no peer of the right half, its keys are removed.
            match carry_clock(&*self.engines.app, &old, &new) {
                Ok(Some((key, record))) => batch.put(Keyspace::Ttl, key, record),
                Ok(None) => {}
                Err(error) => return self.stop(peer, error),
            }
            if let Err(error) = carry_indexes(&*self.engines.app, &old, &new, &mut batch) {
                return self.stop(peer, error);
            }
        }
        batch.append(&work.also);
        if let Some(region) = &work.region {
            applier.region = Arc::clone(region);
            batch.put(Keyspace::RegionState, key, region.encode_to_vec());
        }
        batch.put(Keyspace::ApplyState, key, applier.state.encode_to_vec());
        let durability = match work.sync {
            true => self.engines.options.durability,
            false => Durability::Buffered,
        };
        if let Err(error) = self.engines.app.write(&batch, durability) {
            (self.done)(Done::Poisoned(error));
            return;
        }
        (self.done)(Done::Applied(vec![Applied {
            peer,
            state: applier.state.clone(),
            region: work.region,
            bytes: 0,
        }]));
    }

    fn read(&mut self, peer: PeerKey, readers: Vec<Completer<Reader>>) {
        let region = peer.region;
        for reader in readers {
            let Some(applier) = self.regions.get(&peer) else {
                reader.answer(Err(Error::RegionNotFound { region }));
                continue;
            };
            // One that is being merged away may have been taken in elsewhere already, and written there.
            if applier.region.state != PeerState::Normal {
                let (what, reason) = (
                    "read",
                    "the region is being merged; ask its neighbour".into(),
                );
                reader.answer(Err(Error::Refused {
                    region,
                    what,
                    reason,
                }));
                continue;
            }
            let view = self.engines.app.view();
            reader.answer(view.map(|view| Reader::new(view, Arc::clone(&applier.region))));
        }
    }

    /// Writes the group, then answers, then tells the raft thread.
    fn flush(&mut self) {
        if self.group.applied.is_empty() {
            return;
        }
        let written = (self.engines.app).write(&self.group.batch, Durability::Buffered);
        let entries = std::mem::take(&mut self.group.entries);
        if let Some(start) = self.group.start.take() {
            (self.engines.metrics).applied(entries, self.group.batch.bytes(), start);
        }
        self.group.batch.clear();
        let answers = self.group.answers.drain(..);
        let applied = std::mem::take(&mut self.group.applied);
        if let Err(error) = written {
            // Whether they are applied is for the log to say, when the store is opened again.
            let uncertain = |region| Err(Error::Uncertain { region });
            let region = applied[0].peer.region;
            answers.for_each(|(done, _)| done.answer(uncertain(region)));
            (self.done)(Done::Poisoned(error));
            return;
        }
        answers.for_each(|(done, result)| done.answer(result));
        (self.done)(Done::Applied(applied));
    }
}

/// What became of an entry.
enum Outcome {
    Empty,
    Stale { version: u64 },
    Answered(Vec<u8>),
}

fn apply_entry(
    applier: &mut Applier,
    peer: PeerKey,
    entry: &Entry,
    batch: &mut ApplyBatch<'_>,
) -> Result<Outcome> {
    if entry.data.is_empty() && entry.context.is_empty() {
        return Ok(Outcome::Empty);
    }
    let version = EntryHeader::of(peer.region, entry)?.version;
    let region = &applier.region;
    let current = region.region.region_epoch.version;
    // What stands behind the last entry before a merge does not go along into the target.
    if version != 0 && version != current || region.state != PeerState::Normal {
        return Ok(Outcome::Stale { version });
    }
    let machine = &mut applier.machine;
    catch_panic("apply", || machine.apply(entry, batch))
        .map(Outcome::Answered)
        .map_err(|error| Error::StateMachine {
            region: peer.region,
            index: entry.index,
            source: Box::new(error),
        })
}

fn answer_of(applier: &Applier, peer: PeerKey, outcome: &Outcome) -> Result<Vec<u8>> {
    match outcome {
        Outcome::Answered(answer) => Ok(answer.clone()),
        Outcome::Empty => Ok(Vec::new()),
        Outcome::Stale { version } => {
            let current = &applier.region.region;
            let mut got = current.region_epoch;
            got.version = *version;
            Err(Error::StaleEpoch {
                region: peer.region,
                got,
                current: Box::new(current.clone()),
            })
        }
    }
}
