//! What a layer says of itself, and how it all adds up.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use peerstore::memory::MemoryNetwork;
use peerstore::{
    ApplyBatch, CompositeStorage, Config, Error, HealthStatus, LogUsage, Region, RegionStage,
    Result, StateMachine, Store, StoreOptions,
};
use raft::eraftpb::Entry;

use crate::support::{Data, Log, PATIENCE, degraded, parts, unhealthy};

fn node(log: &Arc<Log>, data: &Arc<Data>) -> Result<CompositeStorage> {
    let config = Config::from_yaml_str("{log: memory, app: memory, health_interval_ms: 0}")?;
    CompositeStorage::from_parts(parts(log, data), &config)
}

#[test]
fn the_worst_layer_is_how_the_node_stands() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = node(&log, &data)?;
    *log.trouble.lock().unwrap() = Some("a compaction has failed".into());
    let health = node.check_health();
    assert_eq!(degraded(&health.log), "a compaction has failed");
    assert_eq!(health.overall, health.log);
    data.fails.store(true, SeqCst);
    let health = node.check_health();
    assert!(unhealthy(&health.app).contains("Input/output"), "{health}");
    assert_eq!(health.overall, health.app);
    assert_eq!(health.log.severity(), 1);
    data.fails.store(false, SeqCst);
    assert_eq!(node.check_health().overall.severity(), 1);
    *log.trouble.lock().unwrap() = None;
    *data.trouble.lock().unwrap() = Some("writes are stopped".into());
    let health = node.check_health();
    assert_eq!(degraded(&health.app), "writes are stopped");
    assert!(health.log.is_healthy());
    *data.trouble.lock().unwrap() = None;
    assert!(node.check_health().overall.is_healthy());
    Ok(())
}

#[test]
fn what_comes_back_as_other_bytes_is_unhealthy() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = node(&log, &data)?;
    data.lies.store(true, SeqCst);
    assert!(unhealthy(&node.check_health().app).contains("probe of the data"));
    data.lies.store(false, SeqCst);
    assert!(node.check_health().overall.is_healthy());
    Ok(())
}

#[test]
fn a_panic_of_a_layer_is_its_error_and_not_the_checkers() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = node(&log, &data)?;
    log.panics.store(true, SeqCst);
    assert!(unhealthy(&node.check_health().log).contains("a bug of the log"));
    log.panics.store(false, SeqCst);
    assert!(node.check_health().overall.is_healthy());
    Ok(())
}

#[test]
fn an_empty_reserve_is_trouble_when_it_stays_empty_and_waste_at_once() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let config = Config::from_yaml_str("{log: memory, app: memory, health_interval_ms: 0}")?;
    let (node, workers) = CompositeStorage::from_parts_stepped(parts(&log, &data), &config)?;
    let usage = LogUsage {
        spare_segments_wanted: 2,
        ..LogUsage::default()
    };
    let filled = LogUsage {
        spare_segments: 1,
        ..usage
    };
    let check = |usage, seconds| {
        workers.advance_clock(Duration::from_secs(seconds));
        *log.usage.lock().unwrap() = usage;
        node.check_health()
    };
    assert!(
        check(usage, 0).overall.is_healthy(),
        "it may just be filled"
    );
    assert!(check(usage, 9).overall.is_healthy());
    assert!(degraded(&check(usage, 1).log).contains("in reserve"));
    assert!(check(filled, 1).overall.is_healthy());
    assert!(check(usage, 20).overall.is_healthy(), "it begins anew");

    // 4 GiB of files count, if not an eighth of them lives.
    let held = |disk_bytes, live_bytes| LogUsage {
        disk_bytes,
        live_bytes,
        ..filled
    };
    for (usage, is_healthy) in [
        (held(4 << 30, (512 << 20) - 1), false),
        (held(4 << 30, 512 << 20), true),
        (held((4 << 30) - 1, 0), true),
    ] {
        let health = check(usage, 0);
        assert_eq!(health.log.is_healthy(), is_healthy, "{usage:?}: {health}");
    }
    Ok(())
}

/// A state machine that refuses.
struct Refuses;

impl StateMachine for Refuses {
    fn apply(&mut self, entry: &Entry, _: &mut ApplyBatch<'_>) -> Result<Vec<u8>> {
        let region = 1.into();
        match entry.data.is_empty() {
            true => Ok(Vec::new()),
            false => Err(Error::state_machine(
                region,
                entry.index,
                "it does not like it",
            )),
        }
    }
}

#[test]
fn a_region_that_its_store_has_stopped_degrades_the_node() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let options = StoreOptions {
        tick: Duration::from_millis(5),
        ..StoreOptions::default()
    };
    let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(Refuses) };
    let transport = MemoryNetwork::immediate().transport(1);
    let store = Store::start(node(&log, &data)?, machine, transport, options)?;
    store.create_region(&Region::single(1, 1))?;
    store.wait_for_leader(1, PATIENCE)?;
    assert!(store.check_health()?.overall.is_healthy());
    store.propose(1, "something").wait(PATIENCE).unwrap_err();
    // The proposer hears of it before everybody else.
    let deadline = Instant::now() + PATIENCE;
    let is_stopped = || {
        let region = store.region(1);
        region.is_some_and(|r| matches!(r.state, RegionStage::Stopped(_)))
    };
    while !is_stopped() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let health = store.check_health()?;
    assert!(
        degraded(&health.regions).contains("it does not like it"),
        "{health}"
    );
    assert_eq!(
        store.health()?.overall,
        HealthStatus::clone(&health.regions)
    );
    store.stop();
    drop(store);
    Ok(())
}
