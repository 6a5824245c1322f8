//! Entries and what is done with them.

use std::collections::BTreeMap;

use openraft::storage::RaftLogStorageExt as _;
use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, LogId, Membership};
use peerstore::KvCommand;
use peerstore::openraft::{DataReader, LogStore, TypeConfig};

use crate::support::StorageResult;

pub fn log_id(term: u64, node: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, node), index)
}

pub fn put(log_id: LogId<u64>, key: &str, value: &str) -> Entry<TypeConfig> {
    entry(log_id, EntryPayload::Normal(KvCommand::put(key, value)))
}

pub fn blank(log_id: LogId<u64>) -> Entry<TypeConfig> {
    entry(log_id, EntryPayload::Blank)
}

pub fn members(log_id: LogId<u64>, ids: &[u64]) -> Entry<TypeConfig> {
    let nodes: BTreeMap<u64, BasicNode> = ids
        .iter()
        .map(|id| (*id, BasicNode::new(format!("node {id}"))))
        .collect();
    let voters = vec![ids.iter().copied().collect()];
    entry(
        log_id,
        EntryPayload::Membership(Membership::new(voters, nodes)),
    )
}

pub fn entry(log_id: LogId<u64>, payload: EntryPayload<TypeConfig>) -> Entry<TypeConfig> {
    Entry { log_id, payload }
}

/// Appends, and waits until that is durable.
pub async fn append(log: &mut LogStore, entries: Vec<Entry<TypeConfig>>) -> StorageResult<()> {
    log.blocking_append(entries).await
}

/// Every key with its value.
pub fn everything(reader: &DataReader) -> BTreeMap<String, String> {
    let view = reader.view().expect("nothing is being installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = BTreeMap::new();
    let range = peerstore::KeyRange::all();
    view.scan(&range, &mut |key, value| {
        found.insert(text(key), text(value));
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .expect("the data can be read");
    found
}
