//! From a proposal to its answer, with one proposer: at most one fsync here and one on a follower, side
//! by side, and a little.

use std::time::Instant;

use peerstore::{Config, Durability};

use crate::cluster::{Cluster, PATIENCE};
use crate::support::table::{Report, Target, time};
use crate::support::{Args, Outcome, Samples, noise};

pub fn run(args: &Args) -> Outcome {
    let title = "one proposer: from the proposal to the answer";
    let columns = [
        "median",
        "99 %",
        "two synced writes side by side: median",
        "99 %",
    ];
    let mut report = Report::new(title, &columns);
    let rounds = args.pick(50, 1_000);
    let dir = args.disk()?;
    let cluster = Cluster::start(dir.path(), 3, 1, &Config::default())?;
    let payload = noise(256);
    // Turn by turn, so that both see the same disk.
    let (mut proposals, mut writes) = (Samples::default(), Samples::default());
    let bare = Bare::open(args)?;
    for _ in 0..rounds {
        let started = Instant::now();
        cluster.propose(1, &payload).wait(PATIENCE)?;
        proposals.push(started.elapsed());
        writes.push(bare.write(&payload)?);
    }
    let over = (proposals.median() - writes.median()) * 1e6;
    let cells = [
        time(proposals.median()),
        time(proposals.quantile(0.99)),
        time(writes.median()),
        time(writes.quantile(0.99)),
    ];
    report.row(
        "3 replicas, 256 B",
        &cells,
        (over, " us over"),
        Target::AtMost(200.0),
    );
    report.print();
    Ok(())
}

/// Two logs, written at the same time by two threads.
struct Bare {
    _dirs: [tempfile::TempDir; 2],
    logs: [peerstore::CompositeStorage; 2],
    index: std::sync::atomic::AtomicU64,
}

impl Bare {
    fn open(args: &Args) -> Outcome<Bare> {
        let dirs = [args.disk()?, args.disk()?];
        let open = |dir: &tempfile::TempDir| {
            peerstore::CompositeStorage::open(dir.path(), Config::default())
        };
        let logs = [open(&dirs[0])?, open(&dirs[1])?];
        Ok(Bare {
            _dirs: dirs,
            logs,
            index: 1.into(),
        })
    }

    /// How long the slower of the two took.
    fn write(&self, payload: &[u8]) -> Outcome<std::time::Duration> {
        let index = self
            .index
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut entry = raft::eraftpb::Entry::default();
        (entry.index, entry.term) = (index, 6);
        entry.data = payload.to_vec().into();
        let mut batch = peerstore::LogBatch::default();
        batch.append(1.into(), vec![entry]);
        let barrier = std::sync::Barrier::new(2);
        let took = std::thread::scope(|scope| {
            let threads: Vec<_> = (self.logs.iter())
                .map(|node| {
                    let (batch, barrier) = (&batch, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let started = Instant::now();
                        let written = node.log().write(batch, Durability::Synced);
                        written.map(|()| started.elapsed())
                    })
                })
                .collect();
            let took = threads
                .into_iter()
                .map(|t| t.join().map_err(|_| "a writer panicked"));
            took.collect::<Result<Vec<_>, _>>()
        })?;
        let took: Vec<_> = took.into_iter().collect::<Result<_, _>>()?;
        Ok(took.into_iter().max().unwrap_or_default())
    }
}
