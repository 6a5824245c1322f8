//! One store: its node, its regions, and one write at a time for all of them together.

use std::collections::BTreeMap;
use std::mem::take;
use std::path::Path;
use std::sync::Arc;

use peerstore::{
    CompositeStorage, Config, GcPolicy, LogBatch, LogStats, RaftSnapshotData, Region, RocksConfig,
};
use raft::eraftpb::Snapshot;

use super::Outcome;
use super::peer::{Outbox, Part, Peer, Snapshots};
use super::writer::Writer;

pub struct Store {
    pub id: u64,
    pub peers: BTreeMap<u64, Peer>,
    // What is staged while the write before it is under way: the next write. However many regions
    // have something, it is one batch and one fsync.
    next: Round,
    in_flight: Option<Vec<Part>>,
    writer: Writer,
    pub node: Arc<CompositeStorage>,
}

#[derive(Default)]
struct Round {
    batch: LogBatch,
    parts: Vec<Part>,
}

/// What a store has done, over its restarts.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    pub log: LogStats,
    pub data_syncs: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cold_reads: u64,
    pub snapshots: Snapshots,
}

fn config(store_id: u64) -> Config {
    Config {
        cluster_id: 1,
        store_id,
        // Small, so that a load of a minute shows what happens to a large one in a day.
        entry_cache_bytes: 8 << 20,
        rocksdb: RocksConfig {
            block_cache_bytes: 16 << 20,
            write_buffer_bytes: 16 << 20,
        },
        gc: GcPolicy {
            entries_trailing: 256,
            ..GcPolicy::default()
        },
        ..Config::default()
    }
}

impl Store {
    /// Opens the store in `dir`; one that is new gets `regions`.
    pub fn open(dir: &Path, id: u64, regions: &[Region]) -> Outcome<Store> {
        let node = Arc::new(CompositeStorage::open(dir, config(id))?);
        let found = node.regions()?;
        let mut peers = BTreeMap::new();
        for region in regions {
            let is_there = found.iter().any(|state| state.region.id == region.id);
            let storage = if is_there {
                node.open_region(region.id)?
            } else {
                node.create_region(region)?
            };
            peers.insert(region.id, Peer::new(storage)?);
        }
        Ok(Store {
            id,
            peers,
            next: Round::default(),
            in_flight: None,
            writer: Writer::start(Arc::clone(&node))?,
            node,
        })
    }

    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Takes in what the workers have done, then every region's next Ready, then starts the next
    /// write. Whether anything happened.
    pub fn step(&mut self, out: &mut Outbox) -> Outcome<bool> {
        let mut happened = false;
        if let Some(result) = self.writer.written() {
            result?;
            let parts = self.in_flight.take().unwrap_or_default();
            self.on_durable(parts, out)?;
            happened = true;
        }
        for peer in self.peers.values_mut() {
            peer.take_fetched();
            if let Some(part) = peer.take_ready(&mut self.next.batch, out)? {
                self.next.parts.push(part);
                happened = true;
            }
        }
        if self.in_flight.is_none() && !self.next.parts.is_empty() {
            let Round { batch, parts } = take(&mut self.next);
            if batch.is_empty() {
                // Messages only, and everything before them is durable.
                self.on_durable(parts, out)?;
            } else {
                self.in_flight = Some(parts);
                self.writer.write(batch);
            }
        }
        Ok(happened)
    }

    fn on_durable(&mut self, parts: Vec<Part>, out: &mut Outbox) -> Outcome<()> {
        for part in parts {
            if let Some(peer) = self.peers.get_mut(&part.region) {
                peer.on_durable(part, out)?;
            }
        }
        Ok(())
    }

    /// Copies the file of `snapshot` from the store `from`, unless the message itself has it. Returns
    /// the bytes of the file.
    pub fn receive_snapshot(&self, from: &Store, snapshot: &Snapshot, region: u64) -> Outcome<u64> {
        let data = RaftSnapshotData::of_snapshot(region.into(), snapshot)?;
        let data = data.ok_or("a snapshot without data")?;
        if data.needs_transfer() {
            let mut file = from.node.snapshots().send(&data.key(snapshot))?;
            let mut receiver = self.node.snapshots().receive()?;
            std::io::copy(&mut file, &mut receiver)?;
            receiver.commit()?;
        }
        Ok(data.file_size)
    }

    /// Adds what the store has done since it was opened.
    pub fn add_to(&self, figures: &mut Figures) {
        let (log, cache) = (self.node.log_stats(), self.node.cache_stats());
        figures.log.writes += log.writes;
        figures.log.syncs += log.syncs;
        figures.log.entries += log.entries;
        figures.log.bytes += log.bytes;
        figures.data_syncs += self.node.app_stats().syncs;
        figures.cache_hits += cache.hits;
        figures.cache_misses += cache.misses;
        for peer in self.peers.values() {
            figures.cold_reads += peer.cold_reads;
            figures.snapshots.installed += peer.snapshots.installed;
            figures.snapshots.bytes += peer.snapshots.bytes;
            figures.snapshots.time += peer.snapshots.time;
        }
    }
}
