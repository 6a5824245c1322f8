//! One region of one voter: propose, persist, apply, stop, start again.
//!
//! `cargo run --example single_region [directory]`

use peerstore::{CompositeStorage, Config, PeerStorage, Region, raft_logger};
use raft::prelude::{Entry, EntryType};
use raft::{RawNode, Storage as _};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1);
    let dir = given.map_or_else(|| temporary.path().join("node"), Into::into);

    // The first start creates the region, the later ones find it with everything it had.
    let node = CompositeStorage::open(&dir, Config::default())?;
    let storage = match node.regions()?.first() {
        None => node.create_region(&Region::single(1, 1))?,
        Some(region) => node.open_region(region.region.id)?,
    };
    // The config carries the durable applied index: nothing is applied twice or skipped.
    let mut raft = RawNode::new(&storage.raft_config(), storage, &raft_logger())?;
    raft.campaign()?;
    handle_ready(&mut raft)?;
    for word in ["one", "two", "three"] {
        raft.propose(Vec::new(), word.into())?;
        handle_ready(&mut raft)?;
    }
    let storage = raft.store();
    let count = storage.get(b"count")?.unwrap_or_default();
    let last = storage.last_index()?;
    println!("{} words so far, the log ends at {last}", u64_of(&count));
    println!("in {}", dir.display());
    Ok(())
}

/// Persist, then send, then apply: until raft has nothing more to do.
fn handle_ready(raft: &mut RawNode<PeerStorage>) -> Result<()> {
    while raft.has_ready() {
        let mut ready = raft.ready();
        // A leader's messages may leave now: ready.take_messages().
        apply(raft.mut_store(), &ready.take_committed_entries())?;
        raft.mut_store().persist(&mut ready)?; // one batch, one fsync
        // All others may leave now: ready.take_persisted_messages().
        let mut light = raft.advance_append(ready);
        apply(raft.mut_store(), &light.take_committed_entries())?;
        raft.advance_apply_to(raft.store().applied_index());
    }
    Ok(())
}

/// What the entries do to the data: each word is kept under its number. In one batch with the
/// applied index, so that a crash repeats or loses nothing.
fn apply(storage: &mut PeerStorage, committed: &[Entry]) -> Result<()> {
    let mut count = u64_of(&storage.get(b"count")?.unwrap_or_default());
    storage.apply(committed, |entry, batch| {
        if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            count += 1;
            batch.put(format!("word {count}"), &entry.data);
            batch.put("count", count.to_be_bytes());
        }
        Ok(())
    })?;
    Ok(())
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}
