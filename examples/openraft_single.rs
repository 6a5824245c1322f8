//! One node under openraft: begun, written to, its snapshot built and its log purged, ended, and started
//! again with everything it had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Infallible, InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use peerstore::openraft::{DataReader, Groups, TypeConfig};
use peerstore::{CompositeStorage, Config, Error, KvCommand, LogBackend};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// This node's id, and that of its only group.
const NODE: u64 = 1;
const GROUP: u64 = 1;

#[tokio::main]
async fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1);
    let dir: PathBuf = given.map_or_else(|| temporary.path().join("node"), Into::into);

    println!("first start, in {}", dir.display());
    let (raft, reader) = start(&dir).await?;
    if !raft.is_initialized().await? {
        let members = BTreeMap::from([(NODE, BasicNode::new("here"))]);
        raft.initialize(members).await?;
        println!("  began a group of one voter");
    }
    lead(&raft).await?;

    for (key, value) in [("one", "1"), ("two", "2"), ("three", "3")] {
        // Answered when the entry is durable and applied.
        let written = raft.client_write(KvCommand::put(key, value)).await?;
        println!(
            "  put {key} = {value}: entry {}, {:?}",
            written.log_id, written.data
        );
    }
    let by = KvCommand::Increment {
        key: "starts".into(),
        by: 1,
    };
    let counted = raft.client_write(by.clone()).await?;
    println!("  counted this start: {:?}", counted.data);

    // A linearizable read: this node leads, and has applied what was acknowledged before.
    raft.ensure_linearizable().await?;
    println!("  two is {}", value(&reader, "two").await?);

    raft.trigger().snapshot().await?;
    let last = counted.log_id;
    let wait = raft.wait(Some(Duration::from_secs(30)));
    let metrics = wait
        .metrics(|m| m.purged >= Some(last), "snapshot and purge")
        .await?;
    let purged = metrics.purged.map_or("nothing".into(), |id| id.to_string());
    println!("  built a snapshot up to {last}, and purged the log up to {purged}");
    raft.client_write(KvCommand::put("four", "4")).await?;
    println!("  put four = 4 behind it");
    drop(reader);
    raft.shutdown().await?;

    println!("second start");
    let (raft, reader) = start(&dir).await?;
    lead(&raft).await?;
    raft.ensure_linearizable().await?;
    for key in ["one", "two", "three", "four"] {
        println!("  {key} is {}", value(&reader, key).await?);
    }
    let metrics = raft.metrics().borrow().clone();
    let snapshot = metrics
        .snapshot
        .map_or("nothing".into(), |id| id.to_string());
    println!("  has the snapshot up to {snapshot}");
    let counted = raft.client_write(by).await?;
    println!("  counted this start: {:?}", counted.data);
    raft.shutdown().await?;
    Ok(())
}

/// Opens the stores and starts openraft over them.
async fn start(dir: &Path) -> Result<(Raft<TypeConfig>, DataReader)> {
    let config = Config {
        log: LogBackend::AppendLog, // the data is in RocksDB, as always
        ..Config::default()
    };
    let node = loop {
        match CompositeStorage::open(dir, config.clone()) {
            // Tasks of the last run end by and by, and have a share in the node until they do.
            Err(Error::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => break opened?,
        }
    };
    let (log, machine) = Groups::of(&node)?.open(GROUP)?;
    let reader = machine.reader();
    let options = openraft::Config {
        snapshot_policy: SnapshotPolicy::Never, // when it is triggered, here
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..openraft::Config::default()
    };
    let options = Arc::new(options.validate()?);
    let raft = Raft::new(NODE, options, Nobody, log, machine).await?;
    Ok((raft, reader))
}

async fn lead(raft: &Raft<TypeConfig>) -> Result<()> {
    let wait = raft.wait(Some(Duration::from_secs(30)));
    let metrics = wait.state(ServerState::Leader, "to lead").await?;
    println!("  leads in term {}", metrics.current_term);
    Ok(())
}

async fn value(reader: &DataReader, key: &str) -> Result<String> {
    let value = reader.get(key.as_bytes()).await?;
    Ok(value.map_or("absent".into(), |value| {
        String::from_utf8_lossy(&value).into_owned()
    }))
}

/// The network of a cluster of one: there is nobody else.
struct Nobody;

/// What every call is answered with.
fn unreachable() -> Unreachable {
    Unreachable::new(&std::io::Error::from(std::io::ErrorKind::NotConnected))
}

type Rpc<T, E = Infallible> = std::result::Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>>;

impl RaftNetworkFactory<TypeConfig> for Nobody {
    type Network = Nobody;

    async fn new_client(&mut self, _: u64, _: &BasicNode) -> Nobody {
        Nobody
    }
}

impl RaftNetwork<TypeConfig> for Nobody {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        Err(unreachable().into())
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        Err(unreachable().into())
    }

    async fn vote(&mut self, _: VoteRequest<u64>, _: RPCOption) -> Rpc<VoteResponse<u64>> {
        Err(unreachable().into())
    }
}
