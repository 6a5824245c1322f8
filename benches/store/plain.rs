//! What the driver is held against: the same replicas driven by hand over raft-rs's own memory, and the
//! same batches written by hand to the same stores.

use peerstore::{
    AppBatch, CompositeStorage, Config, Durability, Keyspace, LogBatch, RaftLocalState, RegionId,
};
use raft::eraftpb::{ConfState, Entry, Message};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use crate::support::{Args, Outcome, noise, process_cpu};
use crate::throughput::Run;

/// The processor time that raft-rs takes for an entry: three replicas of each of `regions` regions,
/// `together` entries in a round.
pub fn raft_on_memory(regions: u64, together: u64, entries: u64, bytes: usize) -> Outcome<f64> {
    let payload = noise(bytes);
    let mut groups: Vec<Group> = (0..regions).map(|_| Group::new()).collect::<Outcome<_>>()?;
    for group in &mut groups {
        group.nodes[0].campaign()?;
        group.settle()?;
        assert_eq!(group.nodes[0].raft.state, StateRole::Leader);
    }
    let started = process_cpu();
    let mut done = 0;
    let mut next = 0;
    while done < entries {
        for _ in 0..together {
            let group = &mut groups[(next % regions) as usize];
            group.nodes[0].propose(Vec::new(), payload.clone())?;
            (next, done) = (next + 1, done + 1);
        }
        let touched = together.min(regions);
        for at in next - touched..next {
            groups[(at % regions) as usize].settle()?;
        }
    }
    Ok((process_cpu() - started).as_secs_f64() / done as f64)
}

struct Group {
    nodes: Vec<RawNode<MemStorage>>,
}

impl Group {
    fn new() -> Outcome<Group> {
        let nodes = (1..=3).map(|id| {
            let mut conf = ConfState::default();
            conf.voters = vec![1, 2, 3];
            let storage = MemStorage::new_with_conf_state(conf);
            let config = raft::Config::new(id);
            let logger = slog::Logger::root(slog::Discard, slog::o!());
            Ok(RawNode::new(&config, storage, &logger)?)
        });
        Ok(Group {
            nodes: nodes.collect::<Outcome<_>>()?,
        })
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) -> Outcome {
        let mut messages: Vec<Message> = Vec::new();
        loop {
            for node in &mut self.nodes {
                while node.has_ready() {
                    messages.extend(handle_ready(node)?);
                }
            }
            if messages.is_empty() {
                return Ok(());
            }
            for message in std::mem::take(&mut messages) {
                self.nodes[message.to as usize - 1].step(message)?;
            }
        }
    }
}

fn handle_ready(node: &mut RawNode<MemStorage>) -> Outcome<Vec<Message>> {
    let mut ready = node.ready();
    let mut messages = ready.take_messages();
    let _ = ready.take_committed_entries();
    node.mut_store().wl().append(ready.entries())?;
    if let Some(hard_state) = ready.hs() {
        node.mut_store().wl().set_hardstate(hard_state.clone());
    }
    messages.extend(ready.take_persisted_messages());
    let mut light = node.advance(ready);
    messages.extend(light.take_messages());
    let _ = light.take_committed_entries();
    node.advance_apply();
    // A log that only grows is not what is measured.
    let applied = node.raft.raft_log.applied;
    if applied > node.mut_store().rl().hard_state().commit.saturating_sub(1)
        && applied.is_multiple_of(512)
    {
        node.mut_store().wl().compact(applied)?;
    }
    Ok(messages)
}

/// The processor time an entry of `run` would have taken if its batches had been written by hand: for
/// each of the three stores, as many log writes and data writes, with as many entries in each.
pub fn bare_writes(args: &Args, run: &Run, bytes: usize) -> Outcome<f64> {
    let dir = args.disk()?;
    let node = CompositeStorage::open(dir.path(), Config::default())?;
    let payload = noise(bytes);
    let replicas = 3.0;
    let per_log = (replicas * run.entries as f64 / run.log_writes.max(1) as f64)
        .round()
        .max(1.0);
    let per_app = (replicas * run.entries as f64 / run.app_writes.max(1) as f64)
        .round()
        .max(1.0);
    let synced = run.log_syncs * 10 >= run.log_writes * 9;
    let log = log_writes(
        &node,
        args.pick(100, 1_000),
        per_log as u64,
        &payload,
        synced,
    )?;
    let app = app_writes(&node, args.pick(1_000, 20_000), per_app as u64, &payload)?;
    Ok(replicas * (log + app))
}

/// The processor time of an entry in a synced log batch, spread over regions.
fn log_writes(
    node: &CompositeStorage,
    batches: usize,
    entries: u64,
    payload: &[u8],
    synced: bool,
) -> Outcome<f64> {
    let durability = if synced {
        Durability::Synced
    } else {
        Durability::Buffered
    };
    let mut index = vec![0; 64];
    let started = process_cpu();
    for batch in 0..batches as u64 {
        let mut ops = LogBatch::default();
        for at in 0..entries {
            let region = (batch * entries + at) % 64;
            let mut entry = Entry::default();
            index[region as usize] += 1;
            (entry.index, entry.term) = (index[region as usize], 6);
            entry.data = payload.to_vec().into();
            let last_index = entry.index;
            ops.append(RegionId(region + 1), vec![entry]);
            let mut state = RaftLocalState::default();
            (state.hard_state.term, state.last_index) = (6, last_index);
            ops.state(RegionId(region + 1), state);
        }
        node.log().write(&ops, durability)?;
    }
    Ok((process_cpu() - started).as_secs_f64() / (batches as u64 * entries) as f64)
}

/// The processor time of an entry's data and applied index in a batch.
fn app_writes(
    node: &CompositeStorage,
    batches: usize,
    entries: u64,
    payload: &[u8],
) -> Outcome<f64> {
    let started = process_cpu();
    for number in 0..batches as u64 {
        let mut batch = AppBatch::default();
        for at in 0..entries {
            let region = (number * entries + at) % 64;
            let key = [
                region.to_be_bytes(),
                ((number * entries + at) % 1000).to_be_bytes(),
            ]
            .concat();
            batch.put(Keyspace::Data, key, payload);
            batch.put(Keyspace::ApplyState, region.to_be_bytes(), [7; 20]);
        }
        node.app().write(&batch, Durability::Buffered)?;
    }
    Ok((process_cpu() - started).as_secs_f64() / (batches as u64 * entries) as f64)
}
