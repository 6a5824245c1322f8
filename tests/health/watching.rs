//! Who checks, how old it is, and who hears of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use peerstore::{CompositeStorage, Config, Result};

use crate::support::{Data, Log, PATIENCE, degraded, parts};

fn config(interval_ms: u64) -> Result<Config> {
    let config = Config::from_yaml_str("{log: memory, app: memory}")?;
    Ok(Config {
        health_interval_ms: interval_ms,
        ..config
    })
}

#[test]
fn a_thread_checks_and_tells_who_wants_to_know_until_the_node_is_gone() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = CompositeStorage::from_parts(parts(&log, &data), &config(1)?)?;
    let (tell, told) = channel();
    node.on_health_change(move |health| {
        // Nobody may listen any more at the end.
        let _ = tell.send(health.clone());
    });
    data.fails.store(true, SeqCst);
    let health = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((health.app.severity(), health.overall.severity()), (2, 2));
    data.fails.store(false, SeqCst);
    assert!(told.recv_timeout(PATIENCE).unwrap().overall.is_healthy());
    assert!(node.health().age.is_some());
    drop(node);
    // The thread has ended, and with it what it would tell.
    assert!(told.recv_timeout(PATIENCE).is_err());
    assert_eq!(Arc::strong_count(&data), 1, "nobody holds the stores");
    Ok(())
}

#[test]
fn it_is_told_when_a_layer_becomes_better_or_worse_and_only_then() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = CompositeStorage::from_parts(parts(&log, &data), &config(0)?)?;
    let (tell, told) = channel();
    node.on_health_change(move |health| tell.send(health.overall.severity()).unwrap());
    let mut heard = Vec::new();
    for trouble in [None, Some("slow"), Some("slow"), Some("slower"), None, None] {
        *log.trouble.lock().unwrap() = trouble.map(String::from);
        node.check_health();
        heard.push(told.try_iter().collect::<Vec<_>>());
    }
    assert_eq!(heard, [vec![], vec![1], vec![], vec![], vec![0], vec![]]);
    Ok(())
}

#[test]
fn what_was_found_grows_old_with_the_clock() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let (node, workers) =
        CompositeStorage::from_parts_stepped(parts(&log, &data), &config(10_000)?)?;
    let second = Duration::from_secs(1);
    assert_eq!(node.health().age, None, "it was opened, and that is all");
    assert!(node.health().overall.is_healthy());
    node.check_health();
    workers.advance_clock(30 * second);
    assert_eq!(node.health().age, Some(30 * second));
    assert!(node.health().overall.is_healthy());
    workers.advance_clock(second);
    let health = node.health();
    assert!(degraded(&health.overall).contains("for 31.0 s"), "{health}");
    assert!(health.log.is_healthy());
    data.fails.store(true, SeqCst);
    let health = node.check_health();
    assert_eq!(health.overall, health.app);
    assert_eq!(health.last_healthy, 31 * second);
    workers.advance_clock(second);
    data.fails.store(false, SeqCst);
    let health = node.check_health();
    assert_eq!(
        (health.age, health.last_healthy),
        (Some(Duration::ZERO), Duration::ZERO)
    );
    Ok(())
}

#[test]
fn a_check_that_hangs_holds_up_nobody_who_asks_and_shows() -> Result<()> {
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let (node, workers) =
        CompositeStorage::from_parts_stepped(parts(&log, &data), &config(10_000)?)?;
    let (begins, open) = log.close();
    let node = Arc::new(node);
    let checking = std::thread::spawn({
        let node = Arc::clone(&node);
        move || node.check_health()
    });
    begins.recv_timeout(PATIENCE).unwrap();
    workers.advance_clock(Duration::from_secs(31));
    let health = node.health();
    assert!(degraded(&health.overall).contains("may hang"), "{health}");
    open.send(()).unwrap();
    assert!(checking.join().unwrap().overall.is_healthy());
    assert!(node.health().overall.is_healthy());
    Ok(())
}

#[test]
fn the_metrics_show_it() -> Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (log, data) = (Arc::new(Log::default()), Arc::new(Data::default()));
    let node = metrics::with_local_recorder(&recorder, || {
        CompositeStorage::from_parts(parts(&log, &data), &config(0)?)
    })?;
    let shown = |layer: &str, severity: u8| {
        let line = format!("peerstore_health{{store=\"0\",layer=\"{layer}\"}} {severity}");
        let page = recorder.handle().render();
        assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
    };
    node.check_health();
    shown("overall", 0);
    data.fails.store(true, SeqCst);
    *log.trouble.lock().unwrap() = Some("slow".into());
    node.check_health();
    for (layer, severity) in [
        ("log", 1),
        ("snapshots", 0),
        ("data", 2),
        ("regions", 0),
        ("overall", 2),
    ] {
        shown(layer, severity);
    }
    Ok(())
}
