//! Keys and values on one store: start, write, read, stop; the second start finds what the first has left.

use std::time::Duration;

use peerstore::{Config, KvCommand, KvReply, KvStateMachine, Region, StateMachine, Store};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1);
    let dir = given.map_or_else(|| temporary.path().join("node"), Into::into);
    // With other stores: their addresses as well, and a region with a peer on each of them.
    let config = Config::from_yaml_str("store_id: 1\nstore:\n  tick_ms: 20")?;
    for start in 1..=2 {
        let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
        let store = Store::open(&dir, &config, machine)?;
        if store.regions().is_empty() {
            store.create_region(&Region::single(1, 1))?; // Every key, and one replica.
        }
        store.wait_for_leader(1, PATIENCE)?;

        let (key, by) = ("visits".into(), 1);
        let visit = KvCommand::Increment { key, by };
        // Answered when it is durable on a majority, and applied here.
        let reply = store.propose(1, visit.encode()).wait(PATIENCE)?;
        let reply = KvReply::decode(&reply).ok_or("not a reply")?;
        // Linearizable: it sees everything that was acknowledged before.
        let visits = store.get(b"visits", PATIENCE)?.unwrap_or_default();
        let visits = String::from_utf8_lossy(&visits);
        println!("start {start}: {reply:?}, so there are {visits} visits");
        store.stop();
    }
    Ok(())
}
