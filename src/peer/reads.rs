//! Linearizable reads by read index: no clock, no lease. Uses: ticket, reader.
//!
//! A read is asked of the leader, which confirms with a majority that it still is one; what it had
//! committed by then is what the read has to see. All reads that come before the next ready share one
//! question. A question without an answer is asked again with a new context, because raft forgets it
//! with a change of the leader.

use raft::ReadState;

use super::Peer;
use crate::error::Error;
use crate::reader::Reader;
use crate::ticket::Completer;

/// See the module.
#[derive(Debug)]
pub(super) struct Reads {
    // What makes a context one that no other peer and no earlier run has used.
    nonce: u64,
    peer: u64,
    asked: u64,
    // Not asked yet.
    gathered: Vec<Completer<Reader>>,
    // Asked, in the order of the questions.
    waiting: Vec<Question>,
    // Answered: wait until the index is applied.
    confirmed: Vec<(u64, Vec<Completer<Reader>>)>,
}

#[derive(Debug)]
struct Question {
    context: [u8; 24],
    age_ticks: u32,
    readers: Vec<Completer<Reader>>,
}

impl Reads {
    pub fn new(nonce: u64, peer: u64) -> Self {
        Reads {
            nonce,
            peer,
            asked: 0,
            gathered: Vec::new(),
            waiting: Vec::new(),
            confirmed: Vec::new(),
        }
    }

    fn context(&mut self) -> [u8; 24] {
        self.asked += 1;
        let mut context = [0; 24];
        context[..8].copy_from_slice(&self.peer.to_be_bytes());
        context[8..16].copy_from_slice(&self.nonce.to_be_bytes());
        context[16..].copy_from_slice(&self.asked.to_be_bytes());
        context
    }

    /// The leader's answers.
    pub fn confirmed(&mut self, states: Vec<ReadState>) {
        for state in states {
            let known = |q: &Question| q.context[..] == state.request_ctx[..];
            if let Some(at) = self.waiting.iter().position(known) {
                // raft answers in order: a question before this one was lost, and a later answer
                // serves it, because it was asked before.
                let readers = self.waiting.drain(..=at).flat_map(|q| q.readers);
                self.confirmed.push((state.index, readers.collect()));
            }
        }
    }

    /// The reads whose index the applier has.
    pub fn take_servable(&mut self, handed: u64) -> Vec<Completer<Reader>> {
        let mut servable = Vec::new();
        self.confirmed.retain_mut(|(index, readers)| {
            let is_ready = *index <= handed;
            if is_ready {
                servable.append(readers);
            }
            !is_ready
        });
        servable
    }

    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.waiting.is_empty() && self.confirmed.is_empty()
    }

    /// Answers everybody.
    pub fn fail(&mut self, error: impl Fn() -> Error) {
        let waiting = self.waiting.drain(..).flat_map(|q| q.readers);
        let confirmed = self.confirmed.drain(..).flat_map(|(_, readers)| readers);
        for reader in self.gathered.drain(..).chain(waiting).chain(confirmed) {
            reader.answer(Err(error()));
        }
    }

    /// A tick has passed: questions that are too old are asked again.
    fn tick(&mut self, age_ticks_max: u32) {
        for question in &mut self.waiting {
            question.age_ticks += 1;
        }
        if self
            .waiting
            .first()
            .is_some_and(|q| q.age_ticks >= age_ticks_max)
        {
            let readers = self.waiting.drain(..).flat_map(|q| q.readers);
            let readers: Vec<_> = readers.collect();
            self.gathered.splice(0..0, readers);
        }
    }
}

impl Peer {
    /// Takes a read.
    pub fn read(&mut self, done: Completer<Reader>) {
        match self.check_active("read") {
            Ok(()) if self.is_merging() => done.answer(Err(Error::Refused {
                region: self.region_id(),
                what: "read",
                reason: "the region is being merged into its neighbour; ask that one later".into(),
            })),
            Ok(()) if self.raft.raft.leader_id == 0 => done.answer(Err(self.not_leader())),
            Ok(()) => {
                self.reads.gathered.push(done);
                self.busy();
            }
            Err(error) => done.answer(Err(error)),
        }
    }

    /// Asks for what was gathered, if the leader can answer: it must have committed an entry of its
    /// own term, or it drops the question.
    pub(super) fn ask_reads(&mut self) {
        if self.reads.gathered.is_empty() {
            return;
        }
        if self.raft.raft.leader_id == 0 {
            let region = self.region_id();
            let gathered = std::mem::take(&mut self.reads.gathered);
            for reader in gathered {
                let leader = None;
                reader.answer(Err(Error::NotLeader { region, leader }));
            }
            return;
        }
        if self.is_leader() && !self.raft.raft.commit_to_current_term() {
            return;
        }
        let context = self.reads.context();
        let readers = std::mem::take(&mut self.reads.gathered);
        self.reads.waiting.push(Question {
            context,
            age_ticks: 0,
            readers,
        });
        self.raft.read_index(context.to_vec());
    }

    pub(super) fn tick_reads(&mut self) {
        self.reads.tick(self.options.election_ticks as u32);
    }
}
