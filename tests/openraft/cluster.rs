//! Three nodes of openraft in one process, on files, with a network in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::metrics::WaitError;
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::RaftLogStorage as _;
use openraft::{BasicNode, Config, Raft, RaftLogReader as _, SnapshotPolicy};
use peerstore::openraft::{DataReader, TypeConfig};
use peerstore::{KvCommand, KvReply};

use crate::entries::everything;
use crate::support::{BACKENDS, Backend, PATIENCE, Site, run_with};

type Node = Raft<TypeConfig>;

/// Who can be reached.
#[derive(Clone, Default)]
struct Town(Arc<Mutex<Nodes>>);

#[derive(Default)]
struct Nodes {
    rafts: HashMap<u64, Node>,
    cut_off: BTreeSet<u64>,
    chunks: u64,
}

/// The way from one node to another.
struct Way {
    town: Town,
    from: u64,
    to: u64,
}

impl Town {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().expect("nothing panics under it")
    }

    fn reach(&self, from: u64, to: u64) -> Result<Node, Unreachable> {
        let nodes = self.lock();
        let is_cut = nodes.cut_off.contains(&from) || nodes.cut_off.contains(&to);
        let node = nodes.rafts.get(&to).filter(|_| !is_cut).cloned();
        let unreachable = std::io::Error::from(std::io::ErrorKind::NotConnected);
        node.ok_or_else(|| Unreachable::new(&unreachable))
    }
}

/// One who goes his own way as `Town` gives it.
struct Factory {
    town: Town,
    own: u64,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Way;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Way {
        Way {
            town: self.town.clone(),
            from: self.own,
            to,
        }
    }
}

type Rpc<T, E = openraft::error::Infallible> =
    Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>>;

impl Way {
    fn remote<E: std::error::Error>(
        &self,
        error: RaftError<u64, E>,
    ) -> RPCError<u64, BasicNode, RaftError<u64, E>> {
        RPCError::RemoteError(RemoteError::new(self.to, error))
    }
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        let node = self.town.reach(self.from, self.to)?;
        let answer = node.append_entries(request).await;
        answer.map_err(|e| self.remote(e))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        let node = self.town.reach(self.from, self.to)?;
        self.town.lock().chunks += 1;
        let answer = node.install_snapshot(request).await;
        answer.map_err(|e| self.remote(e))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _: RPCOption) -> Rpc<VoteResponse<u64>> {
        let node = self.town.reach(self.from, self.to)?;
        let answer = node.vote(request).await;
        answer.map_err(|e| self.remote(e))
    }
}

fn config() -> Arc<Config> {
    let config = Config {
        heartbeat_interval: 100,
        election_timeout_min: 600,
        election_timeout_max: 1200,
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::Never,
        snapshot_max_chunk_size: 128,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        replication_lag_threshold: 1,
        ..Config::default()
    };
    Arc::new(config.validate().expect("the config is right"))
}

/// A test may wait for a condition, and is told which one it was.
#[track_caller]
fn came<T>(result: Result<T, WaitError>) -> T {
    result.unwrap_or_else(|e| panic!("it did not come to this: {e}"))
}

struct Cluster {
    town: Town,
    sites: BTreeMap<u64, Site>,
    readers: BTreeMap<u64, DataReader>,
}

impl Cluster {
    async fn start(backend: Backend) -> Cluster {
        let mut cluster = Cluster {
            town: Town::default(),
            sites: (1..=3).map(|id| (id, Site::new(backend))).collect(),
            readers: BTreeMap::new(),
        };
        for id in 1..=3 {
            cluster.open(id).await;
        }
        let members: BTreeMap<u64, BasicNode> = (1..=3)
            .map(|id| (id, BasicNode::new(format!("node {id}"))))
            .collect();
        cluster
            .node(1)
            .initialize(members)
            .await
            .expect("it is new");
        cluster
    }

    async fn open(&mut self, id: u64) {
        let (log, machine) = self.sites[&id].open_when_free().await;
        self.readers.insert(id, machine.reader());
        let factory = Factory {
            town: self.town.clone(),
            own: id,
        };
        let raft = Raft::new(id, config(), factory, log, machine).await;
        self.town.lock().rafts.insert(id, raft.expect("it starts"));
    }

    /// Ends the node; everything of it but its files.
    async fn close(&mut self, id: u64) {
        self.readers.remove(&id);
        let raft = self.town.lock().rafts.remove(&id).expect("it is open");
        raft.shutdown().await.expect("it ends");
    }

    fn node(&self, id: u64) -> Node {
        self.town.lock().rafts[&id].clone()
    }

    /// The leader that the nodes `of` agree on.
    async fn leader(&self, of: &[u64]) -> u64 {
        let wait = self.node(of[0]).wait(Some(PATIENCE));
        let is_led = wait.metrics(|m| m.current_leader.is_some_and(|l| of.contains(&l)), "led");
        came(is_led.await)
            .current_leader
            .expect("it was waited for")
    }

    /// Writes through whoever leads. A write may come twice, if its leader was deposed meanwhile.
    async fn write(&self, among: &[u64], command: KvCommand) -> u64 {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let leader = self.leader(among).await;
            match self.node(leader).client_write(command.clone()).await {
                Ok(written) => {
                    assert_eq!(written.data, Some(KvReply::Done));
                    return written.log_id.index;
                }
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the node build a snapshot up to `last`, and purge its log.
    async fn snapshot_and_purge(&self, id: u64, last: u64) {
        self.wait_for(id, last).await;
        let node = self.node(id);
        node.trigger().snapshot().await.expect("it runs");
        let is_done = |m: &openraft::RaftMetrics<u64, BasicNode>| {
            let reaches = |id: openraft::LogId<u64>| id.index >= last;
            m.snapshot.is_some_and(reaches) && m.purged.is_some_and(reaches)
        };
        let wait = node.wait(Some(PATIENCE));
        came(wait.metrics(is_done, "built, and the log purged").await);
    }

    /// The nodes are closed: what their files have of the last two entries is the same.
    async fn compare_logs(&self, last: u64) {
        let mut logs = Vec::new();
        for site in self.sites.values() {
            let (mut log, _machine) = site.open_when_free().await;
            let state = log.get_log_state().await.expect("it is there");
            assert!(state.last_log_id.is_some_and(|id| id.index >= last));
            let entries = log.try_get_log_entries(last - 1..=last).await;
            logs.push(entries.expect("they are there"));
        }
        assert_eq!(logs[0].len(), 2);
        assert!(logs.iter().all(|other| *other == logs[0]));
    }

    async fn wait_for(&self, id: u64, index: u64) {
        let wait = self.node(id).wait(Some(PATIENCE));
        came(
            wait.applied_index_at_least(Some(index), format!("node {id} applies {index}"))
                .await,
        );
    }
}

async fn run_cluster(backend: Backend) {
    const ALL: [u64; 3] = [1, 2, 3];
    let mut cluster = Cluster::start(backend).await;
    let mut expected = BTreeMap::new();
    let mut command = |key: u64, value: &str| {
        expected.insert(format!("key {key:03}"), value.to_string());
        KvCommand::put(format!("key {key:03}"), value)
    };
    let mut last = 0;
    for key in 0..30 {
        last = cluster.write(&ALL, command(key, "early")).await;
    }
    for id in ALL {
        cluster.wait_for(id, last).await;
    }

    // One falls behind, so far that the others have purged what it lacks.
    let leader = cluster.leader(&ALL).await;
    let lagging = leader % 3 + 1;
    let rest: Vec<u64> = ALL.into_iter().filter(|id| *id != lagging).collect();
    cluster.town.lock().cut_off.insert(lagging);
    for key in 20..120 {
        last = cluster
            .write(&rest, command(key, &format!("late {}", key * 7919)))
            .await;
    }
    for id in &rest {
        cluster.snapshot_and_purge(*id, last).await;
    }
    let applied = cluster.readers[&lagging].applied();
    assert!(applied.is_some_and(|id| id.index < last));
    cluster.town.lock().cut_off.clear();
    cluster.wait_for(lagging, last).await;
    let chunks = cluster.town.lock().chunks;
    assert!(chunks > 2, "the snapshot came in {chunks} pieces");

    // Every one of them ends and begins again, the lagging one first.
    for id in [lagging, rest[0], rest[1]] {
        cluster.close(id).await;
        let others: Vec<u64> = ALL.into_iter().filter(|other| *other != id).collect();
        last = cluster
            .write(&others, command(200 + id, "while one was away"))
            .await;
        cluster.open(id).await;
        cluster.wait_for(id, last).await;
    }

    for id in ALL {
        cluster.wait_for(id, last).await;
        assert_eq!(everything(&cluster.readers[&id]), expected, "node {id}");
    }
    for id in ALL {
        cluster.close(id).await;
    }
    cluster.compare_logs(last).await;
}

#[test]
fn three_nodes_elect_write_install_a_snapshot_and_restart() {
    for backend in BACKENDS {
        run_with(async {
            run_cluster(*backend).await;
            Ok(())
        });
    }
}
