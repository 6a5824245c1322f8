//! The log as the config opens it.

use peerstore::{
    AppBackend, CompositeStorage, Config, Error, LogBackend, LogBatch, RegionId, SnapshotBackend,
};

use crate::support::{entry, state};

fn config() -> Config {
    let mut config = Config::from_yaml_str("{log: append_log, append_log: {segment_bytes: 64KiB}}")
        .expect("a config");
    (config.app, config.snapshot.backend) = (AppBackend::Memory, SnapshotBackend::Memory);
    config
}

#[test]
fn a_node_keeps_its_logs_in_segments_where_the_config_says_so() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = CompositeStorage::open(dir.path(), config()).expect("open");
    let mut batch = LogBatch::default();
    batch.append(RegionId(7), vec![entry(1, 1, b"data".to_vec())]);
    batch.state(RegionId(7), state(1, 1));
    batch.require_sync();
    node.write_log(&batch).expect("write");
    assert_eq!(node.log_stats().syncs, 1);
    drop(node);
    assert!(dir.path().join("raft").join("CHECKPOINT").exists());
    let node = CompositeStorage::open(dir.path(), config()).expect("open again");
    assert_eq!(
        node.log().read_state(RegionId(7)).expect("read"),
        Some(state(1, 1))
    );
    drop(node);
    let mut other = config();
    (other.log, other.snapshot.backend) = (LogBackend::Memory, SnapshotBackend::CompressedFile);
    let refused = CompositeStorage::open(dir.path(), other);
    assert!(
        matches!(refused, Err(Error::Config { .. })),
        "its log is in other hands"
    );
}
