//! A Ready, step by step, and what became of its writes. Uses: peer_storage.

use raft::eraftpb::HardState;
use raft::{LightReady, Ready};

use super::{InFlight, Installing, MergeElsewhere, Outbox, Peer, Stage, stopped};
use crate::app_store::AppBatch;
use crate::error::{Error, Result};
use crate::peer_storage::{AppliedStates, Installed};
use crate::proto::RaftApplyState;
use crate::workers::{Applied, ApplyTask, ApplyWork, SlowTask};

impl Peer {
    /// Takes everything out of raft that it wants done.
    ///
    /// # Errors
    /// Those of the storage: the region cannot go on then.
    pub fn collect(&mut self, out: &mut Outbox) -> Result<()> {
        if !matches!(self.stage, Stage::Active) {
            return Ok(());
        }
        self.propose_gathered();
        self.ask_reads();
        while self.raft.has_ready() {
            self.handle_ready(out)?;
            if !matches!(self.stage, Stage::Active) {
                return Ok(());
            }
        }
        for peer in std::mem::take(&mut self.unsent) {
            self.raft.report_unreachable(peer);
        }
        self.note_role(out);
        self.hand_over(out);
        Ok(())
    }

    /// The snapshot that waits, if everything that came before it is done (rule 23).
    pub fn snapshot_to_install(&mut self) -> Option<raft::eraftpb::Message> {
        let settled = matches!(self.stage, Stage::Active)
            && self.is_settled()
            && !self.raft.has_ready()
            && !self.handover.is_handed();
        if settled {
            self.snapshot.take().map(|m| *m)
        } else {
            None
        }
    }

    /// Gives raft a snapshot, and begins to install it if raft takes it.
    ///
    /// # Errors
    /// Those of the storage's checks: the region has to be opened again then.
    pub fn install(
        &mut self,
        message: raft::eraftpb::Message,
        also: AppBatch,
        out: &mut Outbox,
    ) -> Result<()> {
        assert!(self.in_flight.is_empty(), "a snapshot is taken alone");
        let region = self.key.region;
        self.raft
            .step(message)
            .map_err(|e| stopped(region, format!("raft refused a snapshot: {e}")))?;
        if self
            .raft
            .snap()
            .is_none_or(raft::eraftpb::Snapshot::is_empty)
        {
            return Ok(());
        }
        let mut ready = self.raft.ready();
        self.send(ready.take_messages(), out);
        let messages = ready.take_persisted_messages();
        let task = self.raft.mut_store().begin_install_task(&mut ready, also)?;
        out.slow.push(SlowTask::Install(self.key, Box::new(task)));
        out.changed.push(self.key);
        self.installing = true;
        let installing = Installing { ready, messages };
        self.stage.go(Stage::Installing(Box::new(installing)));
        Ok(())
    }

    /// The snapshot is in: raft may go on. One that was told to leave meanwhile, or was stopped, knows
    /// what it has now, and no more.
    pub fn installed(&mut self, installed: Installed, out: &mut Outbox) {
        self.installing = false;
        self.raft.mut_store().accept_installed(installed);
        if !matches!(self.stage, Stage::Installing(_)) {
            self.handover.restart_at(self.storage().applied_index());
            return;
        }
        let Stage::Installing(installing) = self.stage.go(Stage::Active) else {
            return;
        };
        let Installing { ready, messages } = *installing;
        self.send(messages, out);
        let light = self.raft.advance_append(ready);
        self.handle_light(light, out);
        let index = self.storage().applied_index();
        self.raft.advance_apply_to(index);
        let region = self.key.region;
        self.proposals
            .drop_through(index, || Error::Uncertain { region });
        self.handover.restart_at(index);
        if self.handover.has_begun() {
            let states = (
                self.storage().region_state().clone(),
                self.storage().apply_state().clone(),
            );
            out.apply.push(ApplyTask {
                peer: self.key,
                work: ApplyWork::Installed(Box::new(states)),
            });
        }
        self.merge_elsewhere = MergeElsewhere::Unknown;
        self.known.clear();
        self.leave_if_removed();
        self.note_role(out);
        out.changed.push(self.key);
    }

    fn handle_ready(&mut self, out: &mut Outbox) -> Result<()> {
        let mut ready = self.raft.ready();
        assert!(
            ready.snapshot().is_empty(),
            "a snapshot reaches raft by `install` only"
        );
        // A leader's: they may leave before its own disk has what they speak of (thesis 10.2.1).
        self.send(ready.take_messages(), out);
        self.reads.confirmed(ready.take_read_states());
        self.handover.committed(ready.take_committed_entries());
        let messages = ready.take_persisted_messages();
        let number = ready.number();
        if ready.must_sync() || !ready.entries().is_empty() {
            let before = out.write.batch.ops().len();
            out.write.bytes += entry_bytes(&ready);
            let staged = self
                .raft
                .mut_store()
                .stage(&mut ready, &mut out.write.batch)?;
            assert!(out.write.batch.ops().len() > before);
            self.in_flight.push_back(InFlight {
                number,
                up_to: number,
                staged,
                messages,
            });
            out.write.readies.push((self.key, number));
            self.raft.advance_append_async(ready);
            return Ok(());
        }
        self.note_commit(ready.hs());
        if let Some(last) = self.in_flight.back_mut() {
            // Nothing to write, but what it says may build on what is being written.
            last.up_to = number;
            last.messages.extend(messages);
            self.raft.advance_append_async(ready);
        } else {
            self.send(messages, out);
            let light = self.raft.advance_append(ready);
            self.handle_light(light, out);
        }
        Ok(())
    }

    fn handle_light(&mut self, mut light: LightReady, out: &mut Outbox) {
        if light.commit_index().is_some() {
            let hard_state = self.raft.raft.hard_state();
            self.note_commit(Some(&hard_state));
        }
        self.send(light.take_messages(), out);
        self.handover.committed(light.take_committed_entries());
    }

    /// A commit that moved on by itself is not written: it goes along with the next write, and if there
    /// is none before a crash, the applied index says as much.
    fn note_commit(&mut self, hard_state: Option<&HardState>) {
        if let Some(hard_state) = hard_state {
            self.raft.mut_store().accept_commit(hard_state.commit);
        }
    }

    /// Everything up to the ready `number` is durable.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn persisted(&mut self, number: u64, out: &mut Outbox) -> Result<()> {
        let mut up_to = None;
        while self.in_flight.front().is_some_and(|f| f.number <= number)
            && let Some(done) = self.in_flight.pop_front()
        {
            self.raft.mut_store().persisted(done.staged)?;
            up_to = Some(done.up_to);
            self.send(done.messages, out);
        }
        if let Some(up_to) = up_to
            && matches!(self.stage, Stage::Active)
        {
            self.raft.on_persist_ready(up_to);
        }
        Ok(())
    }

    /// Entries were applied.
    pub fn applied(&mut self, applied: Applied, out: &mut Outbox) {
        let Applied {
            state,
            region,
            bytes,
            ..
        } = applied;
        let changed = region.is_some();
        let RaftApplyState { applied_index, .. } = state;
        self.raft.mut_store().accept_applied(AppliedStates {
            apply: state,
            region: region.map(|r| (*r).clone()),
        });
        self.raft.advance_apply_to(applied_index);
        self.handover.wrote(bytes);
        self.compact_cache();
        if changed {
            self.merge_elsewhere = MergeElsewhere::Unknown;
            out.changed.push(self.key);
            self.leave_if_removed();
        }
    }

    /// Begins to leave if the region is known not to have this peer: also where that was applied before
    /// a crash, or came by a snapshot.
    pub fn leave_if_removed(&mut self) {
        let id = self.id().0;
        let region = self.region();
        if region.is_initialized() && region.peers.iter().all(|p| p.id != id) {
            self.leave();
        }
    }

    /// Lets go of cached entries that every follower has which is heard of.
    fn compact_cache(&mut self) {
        let mut keep = self.storage().applied_index() + 1;
        keep = keep.min(self.prepared_from().unwrap_or(keep));
        if self.is_leader() {
            for (_, progress) in self.raft.raft.prs().iter() {
                if progress.recent_active {
                    keep = keep.min(progress.matched + 1);
                }
            }
        }
        self.storage().compact_cache(keep);
    }
}

fn entry_bytes(ready: &Ready) -> usize {
    const PER_ENTRY: usize = 32;
    let bytes = ready.entries().iter().map(|e| e.data.len() + PER_ENTRY);
    bytes.sum::<usize>() + PER_ENTRY
}
