//! The key layout of both stores, written once. Uses: types. Never does I/O.
//!
//! All integers are big-endian, so that the order of the bytes is the order of the numbers. The
//! table in `docs/data-model.md` and the diagram `dot/keyspaces.dot` are drawn from [`KEYSPACES`].

use crate::types::RegionId;

/// The bytes of a key of the log: region, then index.
pub const LOG_KEY_BYTES: usize = 16;

/// The key of one entry: region u64 BE, index u64 BE.
pub fn log_key(region: RegionId, index: u64) -> [u8; LOG_KEY_BYTES] {
    let mut key = [0; LOG_KEY_BYTES];
    key[..8].copy_from_slice(&region.0.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The region and index of a [`log_key`], or nothing if it is not one.
pub fn parse_log_key(key: &[u8]) -> Option<(RegionId, u64)> {
    let key: &[u8; LOG_KEY_BYTES] = key.try_into().ok()?;
    let (region, index) = key.split_at(8);
    let number = |b: &[u8]| b.try_into().map(u64::from_be_bytes).ok();
    Some((RegionId(number(region)?), number(index)?))
}

/// The key of a state of one region: region u64 BE.
pub fn region_key(region: RegionId) -> [u8; 8] {
    region.0.to_be_bytes()
}

/// The region of a [`region_key`], or nothing if it is not one.
pub fn parse_region_key(key: &[u8]) -> Option<RegionId> {
    Some(RegionId(u64::from_be_bytes(key.try_into().ok()?)))
}

/// The key of the store's identity in the `store` keyspace.
pub const STORE_IDENT_KEY: &[u8] = b"ident";
/// The key of the counter of ids in the `store` keyspace: u64 BE, one more than the largest counter
/// that may have been given.
pub const IDS_KEY: &[u8] = b"ids";
/// The key that a check of the health writes and removes again in the `store` keyspace.
pub const HEALTH_KEY: &[u8] = b"health";
/// The key of the snapshot that a region keeps, in the `store` keyspace: `snapshot/`, region u64 BE.
pub fn kept_snapshot_key(region: RegionId) -> Vec<u8> {
    [b"snapshot/", &region.0.to_be_bytes()[..]].concat()
}
/// The key of the format version in the `store` keyspace: u32 BE.
pub const FORMAT_KEY: &[u8] = b"format";
/// The format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// One keyspace as the documentation and the diagrams show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceInfo {
    /// The database: `raft` or `kv`.
    pub store: &'static str,
    /// The name of the column family.
    pub name: &'static str,
    /// The shape of a key.
    pub key: &'static str,
    /// The shape of a value.
    pub value: &'static str,
}

/// Shorthand for a row of [`KEYSPACES`].
const fn row(
    store: &'static str,
    name: &'static str,
    key: &'static str,
    value: &'static str,
) -> KeyspaceInfo {
    KeyspaceInfo {
        store,
        name,
        key,
        value,
    }
}

/// The name of the column family of the entries.
pub const RAFT_LOG: &str = "raft_log";
/// The name of the column family of the raft states.
pub const RAFT_STATE: &str = "raft_state";

/// Every keyspace that is on disk.
pub const KEYSPACES: [KeyspaceInfo; 9] = [
    row(
        "raft",
        RAFT_LOG,
        "region u64 BE, index u64 BE",
        "eraftpb.Entry",
    ),
    row("raft", RAFT_STATE, "region u64 BE", "RaftLocalState"),
    row("kv", "apply_state", "region u64 BE", "RaftApplyState"),
    row("kv", "region_state", "region u64 BE", "RegionLocalState"),
    row("kv", "snapshot_state", "region u64 BE", "PendingSnapshot"),
    row("kv", "data", "the application's", "the application's"),
    row("kv", "index", "the application's", "the application's"),
    row("kv", "ttl", "the application's", "the application's"),
    row(
        "kv",
        "store",
        "ident | format | ids | snapshot/ region u64 BE",
        "StoreIdent | u32 BE | u64 BE | KeptSnapshot",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_golden_bytes_and_come_back() {
        let key = log_key(RegionId(0x0102), 0x0a0b);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b]);
        assert_eq!(parse_log_key(&key), Some((RegionId(0x0102), 0x0a0b)));
        assert_eq!(parse_log_key(&key[1..]), None);
        let key = region_key(RegionId(u64::MAX));
        assert_eq!(parse_region_key(&key), Some(RegionId(u64::MAX)));
    }

    #[test]
    fn the_order_of_the_bytes_is_the_order_of_the_numbers() {
        let keys = [(1, 255), (1, 256), (2, 0), (256, 0)];
        let keys = keys.map(|(region, index)| log_key(RegionId(region), index));
        assert!(keys.is_sorted());
    }

    #[test]
    fn the_table_names_every_keyspace_of_the_data_store() {
        for keyspace in crate::app_store::Keyspace::ALL {
            let rows = KEYSPACES.iter().filter(|row| row.name == keyspace.name());
            assert_eq!(rows.map(|row| row.store).collect::<Vec<_>>(), ["kv"]);
        }
    }
}
