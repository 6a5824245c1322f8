//! The proposals of one region: several in flight, again when leadership moves.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::Entry;

use super::Outcome;
use super::command::Command;
use super::input::Input;
use super::peer::Peer;

/// More than this is not under way at once: what is proposed waits in memory until it is applied.
const IN_FLIGHT_BYTES: u64 = 2 << 20;
const IN_FLIGHT_ITEMS: usize = 256;

/// Who leads: its store and term.
pub type Leadership = (u64, u64);

pub struct Lane {
    // Items by their number in the input.
    waiting: VecDeque<usize>,
    in_flight: BTreeMap<usize, u64>,
    in_flight_bytes: u64,
    leadership: Option<Leadership>,
    /// How many were proposed again.
    pub retries: u64,
}

impl Lane {
    pub fn new(items: impl Iterator<Item = usize>) -> Lane {
        Lane {
            waiting: items.collect(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            leadership: None,
            retries: 0,
        }
    }

    /// What was proposed to another leader may be lost: it is proposed again. It may be applied twice
    /// then; the second put writes what is there.
    pub fn follow(&mut self, leadership: Leadership) {
        if self.leadership.replace(leadership) == Some(leadership) {
            return;
        }
        self.retries += self.in_flight.len() as u64;
        self.in_flight_bytes = 0;
        let again = std::mem::take(&mut self.in_flight).into_keys();
        for item in again.rev() {
            self.waiting.push_front(item);
        }
    }

    /// Proposes as much as may be in flight, in one message.
    pub fn propose(&mut self, leader: &mut Peer, input: &Input) -> Outcome<()> {
        let mut entries = Vec::new();
        let mut proposed = Vec::new();
        while self.in_flight_bytes < IN_FLIGHT_BYTES && self.in_flight.len() < IN_FLIGHT_ITEMS {
            let Some(number) = self.waiting.pop_front() else {
                break;
            };
            let item = &input.items[number];
            let value = input.read(item)?;
            let (key, value) = (&item.key[..], &value[..]);
            entries.push(Entry {
                data: Command::Put { key, value }.encode().into(),
                context: (number as u64).to_be_bytes().to_vec().into(),
                ..Default::default()
            });
            proposed.push(number);
            self.in_flight.insert(number, item.bytes);
            self.in_flight_bytes += item.bytes;
        }
        if entries.is_empty() || leader.propose(entries)? {
            return Ok(());
        }
        for number in proposed.into_iter().rev() {
            self.in_flight_bytes -= self.in_flight.remove(&number).unwrap_or_default();
            self.waiting.push_front(number);
        }
        Ok(())
    }

    /// The item was applied.
    pub fn done(&mut self, number: usize) {
        self.in_flight_bytes -= self.in_flight.remove(&number).unwrap_or_default();
        // It may wait to be proposed again; that is near the front, where retries are put.
        if let Some(at) = self
            .waiting
            .iter()
            .take(IN_FLIGHT_ITEMS)
            .position(|n| *n == number)
        {
            self.waiting.remove(at);
        }
    }
}
