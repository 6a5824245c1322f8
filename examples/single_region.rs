//! One region of one voter: propose, persist, apply, stop, start again with everything it had.

use peerstore::{CompositeStorage, Config, PeerStorage, Region, raft_logger};
use raft::prelude::{Entry, EntryType};
use raft::{RawNode, Storage as _};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1);
    let dir = given.map_or_else(|| temporary.path().join("node"), Into::into);

    // The first start creates the region, the later ones find it.
    let node = CompositeStorage::open(&dir, Config::default())?;
    let storage = match node.regions()?.first() {
        None => node.create_region(&Region::single(1, 1))?,
        Some(state) => node.open_region(state.region.id)?,
    };
    // The config carries the durable applied index: nothing is applied twice or skipped.
    let mut raft = RawNode::new(&storage.raft_config(), storage, &raft_logger())?;
    raft.campaign()?;
    handle_ready(&mut raft)?;
    for word in ["one", "two", "three"] {
        raft.propose(Vec::new(), word.into())?;
        handle_ready(&mut raft)?;
    }
    let (count, last) = (words(raft.store())?, raft.store().last_index()?);
    println!(
        "{count} words so far, the log ends at {last}, in {}",
        dir.display()
    );
    Ok(())
}

/// Until raft has nothing more to do. With other voters, messages are sent where the comments say.
fn handle_ready(raft: &mut RawNode<PeerStorage>) -> Result<()> {
    while raft.has_ready() {
        let mut ready = raft.ready();
        // ready.take_messages(): a leader's, which need not wait for its disk.
        apply(raft.mut_store(), &ready.take_committed_entries())?;
        raft.mut_store().persist(&mut ready)?; // One atomic batch, one fsync.
        // ready.take_persisted_messages(): all others.
        let mut light = raft.advance_append(ready);
        // light.take_messages()
        apply(raft.mut_store(), &light.take_committed_entries())?;
        raft.advance_apply_to(raft.store().applied_index());
    }
    Ok(())
}

/// Keeps each word under its number, in one batch with the applied index: no crash parts them.
fn apply(storage: &mut PeerStorage, committed: &[Entry]) -> Result<()> {
    let mut count = words(storage)?;
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

fn words(storage: &PeerStorage) -> Result<u64> {
    let count = storage.get(b"count")?.map(|bytes| bytes[..].try_into());
    Ok(count.transpose()?.map_or(0, u64::from_be_bytes))
}
