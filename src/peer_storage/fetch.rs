//! Cold entries, read by a worker so that the raft thread does not wait for the disk.
//! Uses: raft_log, error. Never does I/O on the caller's thread, except where it says so.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use crate::error::{Error, Result, catch_panic};
use crate::raft_log::RaftLogStorage;
use crate::types::RegionId;

/// A request for the entries of `[low, high)` of a region's log.
#[derive(Debug)]
pub struct FetchTask {
    region: RegionId,
    low: u64,
    high: u64,
    bytes_max: u64,
    generation: u64,
    reply: Sender<Fetched>,
}

/// What the worker read.
#[derive(Debug)]
struct Fetched {
    low: u64,
    generation: u64,
    result: Result<Vec<Entry>>,
}

impl FetchTask {
    /// The region that asks.
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// Reads the entries and answers. Runs on the worker.
    pub fn run(self, log: &dyn RaftLogStorage) {
        let range = self.low..self.high;
        let read = || log.read_entries(self.region, range, self.bytes_max);
        let result = catch_panic("fetch", read);
        // The region may be gone by now; then nobody waits for the answer.
        let _ = self.reply.send(Fetched {
            low: self.low,
            generation: self.generation,
            result,
        });
    }
}

/// How one fetch, named by its lowest index, stands.
#[derive(Debug)]
enum Fetch {
    /// The worker has it; these asked for it.
    InFlight { contexts: Vec<GetEntriesContext> },
    /// Read, and kept until it was asked for as often as there were contexts.
    Ready {
        result: Result<Vec<Entry>>,
        askers: usize,
    },
}

/// What a region answers to raft's question for cold entries.
#[derive(Debug)]
pub(crate) enum FetchAnswer {
    /// They were read; not empty and from the index asked for.
    Entries(Vec<Entry>),
    /// They are being read.
    Later,
    /// Reading them failed on the worker.
    Failed(Error),
    /// The worker is gone, or its answers came too late three times in a row: read them here.
    ReadHere,
}

/// How often an answer may come too late before the entries are read on the spot (TiKV's limit).
const MISSES_MAX: u32 = 3;

/// How many contexts one fetch, and one region, remembers: raft asks again by itself at the next
/// heartbeat, so that one which is not called back only waits longer.
const CONTEXTS_MAX: usize = 64;
/// How many results are kept for raft. One that it does not ask for, because the follower has paused or
/// got on, would stay for as long as the term does.
const READY_MAX: usize = 16;

/// The fetches of one region.
#[derive(Debug)]
pub(crate) struct Fetches {
    by_low: BTreeMap<u64, Fetch>,
    // How often in a row the answer to a fetch from this index came too late to be used.
    misses: BTreeMap<u64, u32>,
    // Grows when the log or the term changes: what was asked for before is of no use then.
    generation: u64,
    // What was asked for below this index is of no use: the log was compacted.
    floor: u64,
    // Their entries have come, and raft was not called back yet.
    arrived: Vec<GetEntriesContext>,
    sender: Sender<Fetched>,
    receiver: Receiver<Fetched>,
}

impl Default for Fetches {
    fn default() -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Fetches {
            by_low: BTreeMap::new(),
            misses: BTreeMap::new(),
            generation: 0,
            floor: 0,
            arrived: Vec::new(),
            sender,
            receiver,
        }
    }
}

/// What raft asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub region: RegionId,
    pub low: u64,
    pub high: u64,
    pub bytes_max: u64,
}

impl Fetches {
    /// Answers from what was fetched, or starts a fetch. Looks itself whether the worker has answered:
    /// raft asks again at times, also where nobody calls it back.
    pub fn ask(
        &mut self,
        wanted: Wanted,
        context: GetEntriesContext,
        worker: &Sender<FetchTask>,
    ) -> FetchAnswer {
        self.receive_all();
        match self.by_low.get_mut(&wanted.low) {
            Some(Fetch::InFlight { contexts }) => {
                if contexts.len() < CONTEXTS_MAX {
                    contexts.push(context);
                }
                return FetchAnswer::Later;
            }
            Some(Fetch::Ready { .. }) => {
                if let Some(result) = self.take_ready(wanted) {
                    self.misses.remove(&wanted.low);
                    return result.map_or_else(FetchAnswer::Failed, FetchAnswer::Entries);
                }
            }
            None => {}
        }
        if self
            .misses
            .get(&wanted.low)
            .is_some_and(|n| *n >= MISSES_MAX)
        {
            self.misses.remove(&wanted.low);
            return FetchAnswer::ReadHere;
        }
        let task = FetchTask {
            region: wanted.region,
            low: wanted.low,
            high: wanted.high,
            bytes_max: wanted.bytes_max,
            generation: self.generation,
            reply: self.sender.clone(),
        };
        if worker.send(task).is_err() {
            return FetchAnswer::ReadHere;
        }
        let contexts = vec![context];
        self.by_low.insert(wanted.low, Fetch::InFlight { contexts });
        FetchAnswer::Later
    }

    /// Uses up one asking of a result. None if it is no use for what is wanted now.
    fn take_ready(&mut self, wanted: Wanted) -> Option<Result<Vec<Entry>>> {
        let Some(Fetch::Ready { result, askers }) = self.by_low.remove(&wanted.low) else {
            return None;
        };
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => return Some(Err(error)),
        };
        let mut wanted_entries: Vec<Entry> = (entries.iter())
            .filter(|e| e.index < wanted.high)
            .cloned()
            .collect();
        raft::util::limit_size(&mut wanted_entries, Some(wanted.bytes_max));
        if askers > 1 {
            let (result, askers) = (Ok(entries), askers - 1);
            self.by_low
                .insert(wanted.low, Fetch::Ready { result, askers });
        }
        (!wanted_entries.is_empty()).then_some(Ok(wanted_entries))
    }

    /// Takes in what the worker has read so far; with a limit, waits that long for the first answer.
    /// Returns the contexts that raft now wants back.
    pub fn collect(&mut self, wait: Option<Duration>) -> Vec<GetEntriesContext> {
        self.receive_all();
        if let Some(limit) = wait.filter(|_| self.arrived.is_empty())
            && let Ok(first) = self.receiver.recv_timeout(limit)
        {
            self.receive(first);
            self.receive_all();
        }
        std::mem::take(&mut self.arrived)
    }

    fn receive_all(&mut self) {
        while let Ok(fetched) = self.receiver.try_recv() {
            self.receive(fetched);
        }
    }

    fn receive(&mut self, fetched: Fetched) {
        let Some(Fetch::InFlight { contexts }) = self.by_low.remove(&fetched.low) else {
            return;
        };
        if fetched.generation == self.generation && fetched.low >= self.floor {
            self.make_room();
            let (result, askers) = (fetched.result, contexts.len());
            self.by_low
                .insert(fetched.low, Fetch::Ready { result, askers });
        } else {
            *self.misses.entry(fetched.low).or_default() += 1;
        }
        self.arrived.extend(contexts);
        self.arrived.truncate(CONTEXTS_MAX);
    }

    /// Drops the lowest result if there are too many.
    fn make_room(&mut self) {
        let is_ready = |fetch: &Fetch| matches!(fetch, Fetch::Ready { .. });
        let mut ready = (self.by_low.iter()).filter(|(_, fetch)| is_ready(fetch));
        let (lowest, more) = (ready.next().map(|(low, _)| *low), ready.count());
        if let Some(low) = lowest.filter(|_| more + 1 >= READY_MAX) {
            self.by_low.remove(&low);
        }
    }

    /// The log starts at `first_index` now: drops what was read below it.
    pub fn compact_to(&mut self, first_index: u64) {
        self.floor = first_index;
        self.by_low
            .retain(|low, fetch| *low >= first_index || matches!(fetch, Fetch::InFlight { .. }));
        self.misses = self.misses.split_off(&first_index);
    }

    /// Whether an answer of the worker is still expected.
    pub fn in_flight(&self) -> bool {
        (self.by_low.values()).any(|fetch| matches!(fetch, Fetch::InFlight { .. }))
    }

    /// Drops every result: the log or the term changed under it. What is in flight calls raft back
    /// when it arrives, but its entries are not used.
    pub fn drop_results(&mut self) {
        self.generation += 1;
        self.by_low
            .retain(|_, fetch| matches!(fetch, Fetch::InFlight { .. }));
    }
}
