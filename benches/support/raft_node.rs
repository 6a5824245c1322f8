//! A real `RawNode` of one voter over a `PeerStorage`, driven by hand.

use peerstore::{CompositeStorage, Config, PeerStorage, Region, raft_logger};
use raft::{RawNode, Ready};

use super::{Outcome, Took, clock};

pub struct RaftNode {
    pub node: CompositeStorage,
    pub raft: RawNode<PeerStorage>,
}

impl RaftNode {
    /// Opens a node in `dir` with one region, whose only voter is its leader on return.
    pub fn start(dir: &std::path::Path) -> Outcome<RaftNode> {
        let node = CompositeStorage::open(dir, Config::default())?;
        let storage = node.create_region(&Region::single(1, 1))?;
        let raft = RawNode::new(&storage.raft_config(), storage, &raft_logger())?;
        let mut started = RaftNode { node, raft };
        started.raft.campaign()?;
        while started.raft.has_ready() {
            let mut ready = started.raft.ready();
            started.raft.mut_store().persist(&mut ready)?;
            started.done(ready);
        }
        Ok(started)
    }

    /// Proposes `count` entries and returns the Ready that has them.
    pub fn propose(&mut self, count: usize, payload: &[u8]) -> Outcome<Ready> {
        for _ in 0..count {
            self.raft.propose(Vec::new(), payload.to_vec())?;
        }
        let ready = self.raft.ready();
        assert_eq!(ready.entries().len(), count, "entries of one Ready");
        Ok(ready)
    }

    /// Persists a Ready with entries, then the one that follows it and only moves the commit. Says what
    /// the first took.
    pub fn write(&mut self, count: usize, payload: &[u8]) -> Outcome<Took> {
        let mut ready = self.propose(count, payload)?;
        let (result, took) = clock(|| self.raft.mut_store().persist(&mut ready));
        result?;
        self.done(ready);
        self.commit()?;
        Ok(took)
    }

    /// Persists a Ready that only moves the commit.
    pub fn commit(&mut self) -> Outcome {
        let mut ready = self.raft.ready();
        assert!(ready.entries().is_empty() && ready.hs().is_some() && !ready.must_sync());
        self.raft.mut_store().persist(&mut ready)?;
        self.done(ready);
        Ok(())
    }

    pub fn done(&mut self, ready: Ready) {
        let number = ready.number();
        self.raft.advance_append_async(ready);
        self.raft.on_persist_ready(number);
        self.raft.advance_apply();
    }
}
