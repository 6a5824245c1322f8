//! A store of one node: start it, create a region, write, read; run it again and the number grows.

use std::time::Duration;

use peerstore::memory::MemoryNetwork;
use peerstore::{CompositeStorage, Config, KvCommand, KvReply, KvStateMachine};
use peerstore::{Region, StateMachine, Store, StoreOptions};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1);
    let dir = given.map_or_else(|| temporary.path().join("node"), Into::into);
    for _ in 0..2 {
        // With other stores, a TcpTransport; and placement in the options, which says where they are.
        let transport = MemoryNetwork::immediate().transport(1);
        let config = Config {
            store_id: 1,
            ..Config::default()
        };
        let node = CompositeStorage::open(&dir, config)?;
        let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
        let store = Store::start(node, machine, transport, StoreOptions::default())?;

        // The first start creates the region, over every key; the later ones find it.
        if store.regions().is_empty() {
            store.create_region(&Region::single(1, 1))?;
        }
        store.wait_for_leader(1, PATIENCE)?;
        let (key, by) = ("visits".into(), 1);
        let command = KvCommand::Increment { key, by }.encode();
        // Answered when it is durable on a majority, and applied here.
        let reply = store.propose(1, command).wait(PATIENCE)?;
        println!("counted: {:?}", KvReply::decode(&reply));
        // A linearizable read: it sees everything that was acknowledged before.
        let visits = store.get(b"visits", PATIENCE)?.unwrap_or_default();
        println!("visits: {}", String::from_utf8_lossy(&visits));
        store.stop();
    }
    Ok(())
}
