//! Faults below the layers that keep files.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use peerstore::memory::{MemFs, MemoryData};
use peerstore::{
    CompositeStorage, Config, DiskFs, FileSystem as _, HealthLimits, HealthStatus, KeyRange,
    Keyspace, LogPosition, NodeHealth, Region, RegionId, Result, SnapshotMeta,
};

use crate::support::{degraded, node, unhealthy};

/// The files of the log and of the snapshots, but for the reserve, which comes when it comes.
fn files(fs: &MemFs) -> Vec<String> {
    let names = fs.list(Path::new("node/snapshots")).unwrap();
    names
        .into_iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_check_of_a_healthy_node_leaves_nothing() -> Result<()> {
    let fs = MemFs::new();
    let node = node(&fs)?;
    let storage = node.create_region(&Region::single(1, 1))?;
    let (before, regions) = (files(&fs), node.log().regions()?);
    for _ in 0..3 {
        let health = node.check_health();
        let expected = NodeHealth {
            age: health.age,
            last_healthy: health.last_healthy,
            ..NodeHealth::default()
        };
        assert_eq!(health, expected);
        assert!(health.age.is_some());
    }
    assert_eq!(files(&fs), before);
    assert_eq!(node.log().regions()?, regions);
    let mut keys = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        keys += 1;
        Ok(std::ops::ControlFlow::Continue(()))
    };
    node.app().scan(Keyspace::Store, &KeyRange::all(), count)?;
    assert_eq!(keys, 0);
    assert!(node.snapshots().list(None)?.is_empty());
    assert_eq!(storage.raft_state().last_index, 5);
    Ok(())
}

#[test]
fn what_a_killed_check_left_goes_with_the_next_and_is_not_shown() -> Result<()> {
    let fs = MemFs::new();
    let node = node(&fs)?;
    let region = Region::single(u64::MAX, 1);
    let writer = node.snapshots().create(SnapshotMeta {
        conf_state: region.conf_state(),
        position: LogPosition::new(1, 7),
        region,
    })?;
    writer.commit()?;
    assert!(node.snapshots().list(None)?.is_empty());
    let left = |node: &CompositeStorage| node.snapshots().list(Some(RegionId(u64::MAX)));
    assert_eq!(left(&node)?.len(), 1);
    assert!(node.check_health().overall.is_healthy());
    assert!(left(&node)?.is_empty());
    Ok(())
}

/// Lets each operation of a check fail once, one after the other.
#[test]
fn a_fault_is_told_and_only_a_poisoned_log_stays_unhealthy_until_it_is_opened_again() -> Result<()>
{
    let (mut poisoned, mut passing) = (0, 0);
    for number in 0.. {
        let fs = MemFs::new();
        let node = node(&fs)?;
        assert!(node.check_health().overall.is_healthy());
        let start = fs.operations();
        fs.fail_at(start + number, ErrorKind::Other);
        let health = node.check_health();
        if fs.operations() <= start + number {
            assert!(health.overall.is_healthy(), "nothing has failed: {health}");
            break;
        }
        assert_eq!(health.app, HealthStatus::Healthy);
        let worst = [&health.log, &health.snapshots].map(|status| status.severity());
        assert_eq!(health.overall.severity(), worst[0].max(worst[1]));
        let again = node.check_health();
        assert!(
            again.snapshots.is_healthy(),
            "a new file is a new chance: {again}"
        );
        match health.log {
            HealthStatus::Unhealthy { .. } => {
                poisoned += 1;
                for _ in 0..3 {
                    let health = node.check_health();
                    assert!(unhealthy(&health.log).contains("open"), "{health}");
                    assert_eq!(health.overall, health.log);
                }
            }
            _ => passing += usize::from(!health.snapshots.is_healthy()),
        }
        drop(node);
        let node = self::node(&fs)?;
        assert!(
            node.check_health().overall.is_healthy(),
            "{}",
            node.health()
        );
    }
    assert!(poisoned >= 2, "a write and an fsync of the log");
    assert!(passing >= 3, "a file, its fsync, its name");
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_recovers_when_there_is_space_again() -> Result<()> {
    let fs = MemFs::new();
    let node = node(&fs)?;
    node.create_region(&Region::single(1, 1))?;
    fs.set_space(0);
    let health = node.check_health();
    assert!(
        unhealthy(&health.snapshots).contains("no space left"),
        "{health}"
    );
    // Its segment was made before: it can still be written, and says what is coming.
    assert!(
        degraded(&health.log).contains("0 bytes are free"),
        "{health}"
    );
    assert_eq!(health.overall, health.snapshots);
    fs.set_space(1 << 40);
    assert!(
        node.check_health().overall.is_healthy(),
        "{}",
        node.health()
    );
    Ok(())
}

#[test]
fn little_space_on_a_real_disk_degrades_what_is_on_it() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let free = DiskFs.free_bytes(dir.path())?.expect("the system knows");
    assert!(free > 0);
    let open = |free_bytes_min| {
        let config = Config::from_yaml_str("{log: append_log, health_interval_ms: 0}")?;
        let builder = CompositeStorage::builder()
            .config(config)
            .dir(dir.path().join("node"));
        let limits = HealthLimits {
            free_bytes_min,
            ..HealthLimits::default()
        };
        builder
            .app(Arc::new(MemoryData::new()))
            .health_limits(limits)
            .open()
    };
    assert!(open(1)?.check_health().overall.is_healthy());
    let health = open(u64::MAX)?.check_health();
    for status in [&health.log, &health.snapshots, &health.overall] {
        assert!(degraded(status).contains("are free"), "{health}");
    }
    assert_eq!(health.app, HealthStatus::Healthy, "it is in memory");
    Ok(())
}

#[test]
fn a_damaged_snapshot_degrades_until_it_is_gone() -> Result<()> {
    let fs = MemFs::new();
    let node = node(&fs)?;
    let storage = node.create_region(&Region::single(1, 1))?;
    storage.wait_snapshot(Duration::from_secs(60))?;
    let info = node.snapshots().latest(1.into())?.expect("it was built");
    let path = Path::new("node/snapshots").join(format!("{}.snap", info.key));
    let file = fs.open_for_write(&path)?;
    file.write_all_at(b"damage", info.file_bytes / 2)?;
    assert!(
        node.check_health().overall.is_healthy(),
        "nobody has looked"
    );
    assert!(!node.snapshots().verify(&info.key)?.is_intact());
    let health = node.check_health();
    assert!(
        degraded(&health.snapshots).contains(&info.key.to_string()),
        "{health}"
    );
    assert_eq!(health.overall, health.snapshots);
    node.snapshots().delete(&info.key)?;
    assert!(node.check_health().overall.is_healthy());
    Ok(())
}

#[test]
fn a_region_whose_state_is_damaged_is_named() -> Result<()> {
    let node = node(&MemFs::new())?;
    drop(node.create_region(&Region::single(7, 1))?);
    assert!(node.check_health().overall.is_healthy());
    let (data, key) = (node.app(), peerstore::keys::region_key(RegionId(7)));
    let state = data
        .get(Keyspace::RegionState, &key)?
        .expect("it was created");
    let put = |value: &[u8]| {
        let mut batch = peerstore::AppBatch::new();
        batch.put(Keyspace::RegionState, key, value);
        data.write(&batch, peerstore::Durability::Synced)
    };
    put(b"\xff\xff")?;
    let health = node.check_health();
    assert!(degraded(&health.regions).contains("region 7"), "{health}");
    assert_eq!(health.overall, health.regions);
    put(&state)?;
    assert!(node.check_health().overall.is_healthy());
    Ok(())
}
