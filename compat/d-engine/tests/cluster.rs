//! d-engine itself on these stores: three nodes that elect, replicate, snapshot, purge and start again, and
//! a fourth that joins behind a purge and gets a snapshot.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use d_engine_core::{LogStore as _, StateMachine as _, StorageEngine as _};
use d_engine_server::EmbeddedEngine;
use peerstore::PersistenceStrategy;
use peerstore_d_engine::{PeerstoreLog, PeerstoreStateMachine};
use support::{Home, Stores};

/// d-engine snapshots after so many entries,
const SNAPSHOT_ENTRIES: u64 = 60;
/// and calls the snapshot by an index that is so much earlier than what it has.
const RETAINED_ENTRIES: u64 = 15;
const DEADLINE: Duration = Duration::from_secs(300);

/// A node of the cluster and what it stores.
struct Node {
    engine: EmbeddedEngine,
    log: Arc<PeerstoreLog>,
    state_machine: Arc<PeerstoreStateMachine>,
}

/// Asks again until `found` answers, for a generous time.
async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ports of the loopback that nobody has.
fn free_ports() -> [u16; 4] {
    let listeners = [0; 4].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn config(root: &Path, id: usize, ports: &[u16; 4]) -> String {
    let member = |id: usize, role: u8, status: u8| {
        let port = ports[id - 1];
        format!("{{ id = {id}, address = '127.0.0.1:{port}', role = {role}, status = {status} }}")
    };
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1, 3)).collect();
    if id == 4 {
        members.push(member(4, 4, 2));
    }
    let (members, port) = (members.join(", "), ports[id - 1]);
    let dir = root.join(id.to_string());
    let dir = dir.display();
    format!(
        "[cluster]
node_id = {id}
listen_address = '127.0.0.1:{port}'
initial_cluster = [{members}]
db_root_dir = '{dir}/db'
log_dir = '{dir}/log'
[raft]
general_raft_timeout_duration_in_ms = 20000
[raft.snapshot]
max_log_entries_before_snapshot = {SNAPSHOT_ENTRIES}
retained_log_entries = {RETAINED_ENTRIES}
snapshots_dir = '{dir}/snapshots'
snapshot_cool_down_since_last_check = {{ secs = 0, nanos = 1000000 }}
[raft.state_machine.lease]
enabled = true
"
    )
}

/// Starts a node, once what it had before is closed.
async fn start(home: &Home, root: &Path, id: usize, ports: &[u16; 4]) -> Node {
    let (engine, state_machine) =
        until("the stores can be opened", async || home.open().ok()).await;
    let (log, state_machine) = (engine.log_store(), Arc::new(state_machine));
    let path = root.join(format!("{id}.toml"));
    std::fs::write(&path, config(root, id, ports)).unwrap();
    for name in ["db", "log", "snapshots"] {
        std::fs::create_dir_all(root.join(id.to_string()).join(name)).unwrap();
    }
    let engine = EmbeddedEngine::start_custom(
        Arc::new(engine),
        Arc::clone(&state_machine),
        Some(path.to_str().unwrap()),
    );
    let engine = engine.await.unwrap();
    Node {
        engine,
        log,
        state_machine,
    }
}

async fn start_all(homes: &[Home], root: &Path, ports: &[u16; 4]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (home, id) in homes.iter().zip(1..) {
        nodes.push(start(home, root, id, ports).await);
    }
    nodes
}

async fn stop_all(nodes: Vec<Node>) {
    for node in nodes {
        node.engine.stop().await.unwrap();
    }
}

/// Puts the keys of `range`, at whoever leads.
async fn put(nodes: &[Node], range: std::ops::Range<u64>) {
    for number in range {
        let (key, value) = (format!("key {number:04}"), format!("value {number}"));
        until("a put is acknowledged", async || {
            let leader = nodes.iter().find(|node| node.engine.is_leader())?;
            leader.engine.client().put(&key, &value).await.ok()
        })
        .await;
    }
}

/// Waits until the node has the keys of `0..count` and nothing else, by what is in its stores.
async fn has_all(node: &Node, count: u64) {
    let last = format!("key {:04}", count - 1);
    let scan = until("a node has the last key", async || {
        node.state_machine.get(last.as_bytes()).ok()??;
        node.state_machine.scan_prefix(b"").ok()
    })
    .await;
    assert_eq!(scan.entries.len() as u64, count);
    for ((key, value), number) in scan.entries.iter().zip(0..) {
        assert_eq!(*key, format!("key {number:04}"));
        assert_eq!(*value, format!("value {number}"));
    }
}

/// The log of a node is without a gap, and behind what was purged of it.
fn check_log(log: &PeerstoreLog) {
    let purged = log.load_purge_boundary().unwrap();
    let entries = log.get_entries(0..=u64::MAX).unwrap();
    let first = purged.map_or(1, |purged| purged.index + 1);
    assert!(
        entries
            .iter()
            .map(|entry| entry.index)
            .eq(first..=log.last_index())
    );
}

/// The nodes of a cluster, as different as they can be.
fn homes(root: &Path) -> Vec<Home> {
    #[cfg(feature = "rocksdb")]
    let stores = [
        (Stores::AppendLogAndRocks, PersistenceStrategy::DiskFirst),
        (Stores::Rocks, PersistenceStrategy::MemFirst),
        (Stores::Memory, PersistenceStrategy::MemFirst),
        (Stores::Rocks, PersistenceStrategy::DiskFirst),
    ];
    #[cfg(not(feature = "rocksdb"))]
    let stores = [(Stores::Memory, PersistenceStrategy::MemFirst); 4];
    let home = |((stores, persistence), id): ((Stores, PersistenceStrategy), u64)| {
        Home::new(&root.join(format!("stores {id}")), stores, persistence)
    };
    stores.into_iter().zip(1..).map(home).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_d_engine_replicates_snapshots_purges_and_starts_again() {
    let root = tempfile::tempdir().unwrap();
    let (root, ports) = (root.path(), free_ports());
    let mut homes = homes(root);
    let joins = homes.pop().unwrap();
    let nodes = start_all(&homes, root, &ports).await;
    put(&nodes, 0..100).await;
    for node in &nodes {
        has_all(node, 100).await;
    }
    // The leader needs its snapshot, or the fourth would get entries only.
    until("the leader has purged its log", async || {
        let leader = nodes.iter().find(|node| node.engine.is_leader())?;
        leader.log.load_purge_boundary().unwrap()
    })
    .await;

    let joined = start(&joins, root, 4, &ports).await;
    put(&nodes, 100..110).await;
    has_all(&joined, 110).await;
    let metadata = joined.state_machine.snapshot_metadata();
    assert!(metadata.is_some(), "it began with a snapshot");
    check_log(&joined.log);
    stop_all(vec![joined]).await;
    stop_all(nodes).await;

    let nodes = start_all(&homes, root, &ports).await;
    put(&nodes, 110..130).await;
    for node in &nodes {
        has_all(node, 130).await;
        check_log(&node.log);
    }
    let leader = until("there is a leader", async || {
        nodes.iter().find(|n| n.engine.is_leader())
    });
    let value = leader
        .await
        .engine
        .client()
        .get_linearizable(b"key 0000")
        .await
        .unwrap();
    assert_eq!(value.as_deref(), Some(&b"value 0"[..]));
    let left = nodes
        .iter()
        .map(|node| node.state_machine.last_applied().index)
        .max();
    assert!(left.unwrap() >= 130, "{left:?}");
    stop_all(nodes).await;
}
