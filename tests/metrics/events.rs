//! What a node's own work leaves in the metrics, one recorder for each test.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use peerstore::memory::{MemFs, MemoryData};
use peerstore::{
    CompositeStorage, Config, Error, LogPosition, PeerStorage, Region, Result, SnapshotMeta,
};
use raft::eraftpb::Entry;

const COUNT: &str = "peerstore_snapshots_total";
const FAILURES: &str = "peerstore_snapshot_failures_total";

/// A node over `fs`, with a recorder of its own.
fn node(fs: &MemFs) -> Result<(CompositeStorage, PrometheusHandle)> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let config = Config {
        store_id: 9,
        ..Config::from_yaml_str(
            "{log: append_log, append_log: {segment_bytes: 64KiB, spare_segments: 0}}",
        )?
    };
    // Handles belong to the recorder that is there when the node is opened.
    let node = metrics::with_local_recorder(&recorder, || {
        let builder = CompositeStorage::builder().config(config).dir("node");
        let builder = builder.app(Arc::new(MemoryData::new()));
        builder.file_system(Arc::new(fs.clone())).open()
    });
    Ok((node?, handle))
}

/// The value of the line that begins with `name`, with its labels.
fn value(handle: &PrometheusHandle, name: &str) -> f64 {
    let page = handle.render();
    let line = page.lines().find(|l| {
        l.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("no line {name} in\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn entry(index: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, 5, vec![7; 100].into());
    entry
}

fn filled(node: &CompositeStorage) -> Result<PeerStorage> {
    let mut storage = node.create_region(&Region::single(1, 1))?;
    let entries: Vec<Entry> = (6..16).map(entry).collect();
    storage.append(&entries)?;
    storage.apply(&entries, |entry, batch| {
        batch.put(entry.index.to_be_bytes(), &entry.data);
        Ok(())
    })?;
    Ok(storage)
}

#[test]
fn appends_applies_and_compactions_are_measured_by_batches() -> Result<()> {
    let (node, handle) = node(&MemFs::new())?;
    let mut storage = filled(&node)?;
    storage.compact(12)?;
    node.report_metrics();
    let of = |name: &str| value(&handle, &format!("{name}{{store=\"9\"}}"));
    assert_eq!(of("peerstore_log_append_entries_sum"), 10.0);
    assert_eq!(of("peerstore_log_append_entries_count"), 1.0);
    assert_eq!(of("peerstore_log_append_bytes_sum"), 1000.0);
    assert_eq!(of("peerstore_log_entries_total"), 10.0);
    assert_eq!(
        of("peerstore_log_syncs_total"),
        node.log_stats().syncs as f64
    );
    assert_eq!(
        of("peerstore_log_writes_total"),
        node.log_stats().writes as f64
    );
    assert_eq!(of("peerstore_log_compacted_entries_total"), 6.0);
    assert_eq!(of("peerstore_log_segments"), 1.0);
    assert!(of("peerstore_log_disk_bytes") >= of("peerstore_log_live_bytes"));
    assert_eq!(of("peerstore_apply_entries_sum"), 10.0);
    assert_eq!(of("peerstore_apply_entries_count"), 1.0);
    assert_eq!(
        of("peerstore_data_writes_total"),
        node.app_stats().writes as f64
    );
    assert_eq!(of("peerstore_cache_bytes"), node.cache_stats().bytes as f64);
    let fsyncs = value(
        &handle,
        "peerstore_fsync_seconds_count{store=\"9\",part=\"log\"}",
    );
    assert!(
        fsyncs >= 1.0 && fsyncs <= node.log_stats().syncs as f64 + 10.0,
        "{fsyncs}"
    );
    Ok(())
}

#[test]
fn what_is_written_behind_the_callers_is_measured_too() -> Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let text = "{log: memory, app: memory, snapshot: {backend: memory}, persistence: mem_first}";
    let config = Config::from_yaml_str(text)?;
    let (node, workers) = metrics::with_local_recorder(&recorder, || {
        CompositeStorage::builder().config(config).open_stepped()
    })?;
    let mut storage = node.create_region(&Region::single(1, 1))?;
    let ticket = storage.submit_append(&[entry(6), entry(7)])?;
    let entries = "peerstore_log_append_entries_sum{store=\"0\"}";
    assert_eq!(
        value(&recorder.handle(), entries),
        0.0,
        "nobody has written"
    );
    while workers.step_write() {}
    ticket.wait(Duration::from_secs(60))?;
    assert_eq!(value(&recorder.handle(), entries), 2.0);
    Ok(())
}

#[test]
fn a_write_that_fails_is_counted() -> Result<()> {
    let fs = MemFs::new();
    let (node, handle) = node(&fs)?;
    let mut storage = filled(&node)?;
    let failures = "peerstore_log_append_failures_total{store=\"9\"}";
    assert_eq!(value(&handle, failures), 0.0);
    // Whatever is next in the log's file: a write or its fsync.
    fs.fail_at(fs.operations(), std::io::ErrorKind::Other);
    storage.append(&[entry(16)]).unwrap_err();
    assert_eq!(value(&handle, failures), 1.0);
    let refused = storage.append(&[entry(16)]).unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
    assert_eq!(value(&handle, failures), 2.0);
    Ok(())
}

#[test]
fn snapshots_are_counted_by_what_happens_to_them() -> Result<()> {
    let fs = MemFs::new();
    let (node, handle) = node(&fs)?;
    let storage = filled(&node)?;
    let of = |name: &str, event: &str| {
        let labels = format!("{{store=\"9\",event=\"{event}\"}}");
        value(&handle, &format!("{name}{labels}"))
    };
    let (count, failures) = (COUNT, FAILURES);
    let snapshot = storage.wait_snapshot(Duration::from_secs(60))?;
    assert_eq!(of(count, "build"), 1.0);
    let info = node.snapshots().latest(1.into())?.expect("it was built");
    assert_eq!(
        of("peerstore_snapshot_bytes_total", "build"),
        info.file_bytes as f64
    );
    assert!(node.snapshots().verify(&info.key)?.is_intact());
    assert_eq!((of(count, "verify"), of(failures, "verify")), (1.0, 0.0));

    // It is installed on another node, which received its file.
    let (other, others) = self::node(&MemFs::new())?;
    let mut waiting = other.create_uninitialized(1, 2)?;
    let mut file = node.snapshots().send(&info.key)?;
    other.snapshots().install(&mut file)?;
    drop(file);
    waiting.install_snapshot(snapshot)?;
    assert_eq!(waiting.applied_index(), 15);
    let installed = |event| {
        value(
            &others,
            &format!("{count}{{store=\"9\",event=\"{event}\"}}"),
        )
    };
    assert_eq!(installed("install"), 1.0);
    assert!(installed("receive") >= 1.0);

    what_fails_counts_once(&node, &fs, &of)
}

/// What fails counts as that, once; what is given up counts for nothing.
fn what_fails_counts_once(
    node: &CompositeStorage,
    fs: &MemFs,
    of: &dyn Fn(&str, &str) -> f64,
) -> Result<()> {
    let (count, failures) = (COUNT, FAILURES);
    let info = node.snapshots().latest(1.into())?.expect("it was built");
    let meta = SnapshotMeta {
        region: Region::single(1, 1),
        position: LogPosition::new(5, 15),
        conf_state: Region::single(1, 1).conf_state(),
    };
    drop(node.snapshots().create(meta.clone())?);
    assert_eq!((of(count, "build"), of(failures, "build")), (1.0, 0.0));
    // At its beginning, in a write, in the commit.
    let mut writers = [(); 2].map(|()| node.snapshots().create(meta.clone()));
    fs.set_space(0);
    assert!(node.snapshots().create(meta.clone()).is_err());
    assert_eq!((of(count, "build"), of(failures, "build")), (1.0, 1.0));
    let [in_write, in_commit] = writers
        .each_mut()
        .map(|w| w.as_mut().map_err(|e| e.to_string()));
    in_write
        .expect("there was space")
        .write_all(&[7; 3 << 20])
        .unwrap_err();
    in_commit
        .expect("there was space")
        .write_all(b"a little")
        .unwrap();
    assert_eq!(of(failures, "build"), 2.0);
    let [in_write, in_commit] = writers;
    in_write?.commit().unwrap_err();
    assert_eq!(of(failures, "build"), 2.0, "it has failed before");
    in_commit?.commit().unwrap_err();
    assert_eq!((of(count, "build"), of(failures, "build")), (1.0, 3.0));
    let mut broken = node.snapshots().open(&info.key)?;
    let files = fs.history().into_iter().map(|(_, path)| path);
    let file = files
        .into_iter()
        .rfind(|p| p.to_string_lossy().ends_with(".snap"));
    let file = peerstore::FileSystem::open_for_write(fs, &file.expect("the snapshot's file"))?;
    let middle = info.file_bytes / 2;
    file.write_all_at(b"damage", middle)?;
    let mut content = Vec::new();
    broken.read_to_end(&mut content).unwrap_err();
    assert_eq!(of(failures, "verify"), 1.0);
    assert!(!node.snapshots().verify(&info.key)?.is_intact());
    assert_eq!(of(failures, "verify"), 2.0);
    drop(broken);
    node.snapshots().delete(&info.key)?;
    assert_eq!(of(count, "remove"), 1.0);
    Ok(())
}
