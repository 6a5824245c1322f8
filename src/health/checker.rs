//! Who checks, what was found last, and who hears of it. Uses: probe, metrics.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use metrics::{Gauge, Histogram};

use super::{HealthLimits, HealthStatus, NodeHealth, probe};
use crate::app_store::ApplicationDataStorage;
use crate::error::{Error, Result, catch_panic};
use crate::fs::FileSystem;
use crate::metrics::{DamagedSnapshots, Scope, Stopwatch};
use crate::peer_storage::Clock;
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;
use crate::workers::spawn;

/// So many intervals without a finished check mean that the one under way hangs.
const INTERVALS_MAX: u32 = 3;
/// A reserve that is empty for this long is not just being filled.
const REFILL_MAX: Duration = Duration::from_secs(10);

/// A layer that may be on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Log,
    Snapshots,
    App,
}

/// Where a layer is on disk.
pub(crate) struct Disk {
    pub layer: Layer,
    pub fs: Arc<dyn FileSystem>,
    pub path: PathBuf,
}

/// What a checker looks at, and how.
pub(crate) struct HealthSetup {
    pub log: Arc<dyn RaftLogStorage>,
    pub app: Arc<dyn ApplicationDataStorage>,
    pub snapshots: Arc<dyn RaftSnapshotStorage>,
    pub damaged: Arc<DamagedSnapshots>,
    pub disks: Vec<Disk>,
    pub limits: HealthLimits,
    pub clock: Clock,
    /// How often somebody is to check; None if nobody is.
    pub interval: Option<Duration>,
}

/// Says what is wrong with the regions, if anything is.
type Source = Box<dyn Fn() -> Option<String> + Send + Sync>;
/// Hears of a change.
type Subscriber = Arc<dyn Fn(&NodeHealth) + Send + Sync>;

/// Checks a node and knows what it found last.
pub(crate) struct HealthChecker {
    setup: HealthSetup,
    gauges: [Gauge; 5],
    seconds: Histogram,
    /// Held through a check: there is one at a time, and who hears of changes hears them in order.
    round: Mutex<Round>,
    last: Mutex<Last>,
    sources: Mutex<Vec<Source>>,
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Default)]
struct Round {
    number: u64,
    // Since when the reserve was empty at each check.
    empty_since: Option<Duration>,
}

#[derive(Default)]
struct Last {
    health: NodeHealth,
    opened_at: Duration,
    checked_at: Option<Duration>,
    healthy_at: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under them is changed by plain assignments: whole, whoever panics elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HealthChecker {
    pub fn new(setup: HealthSetup, store_id: u64) -> Arc<Self> {
        let scope = Scope::new(store_id);
        let names = NodeHealth::default().layers().map(|(name, _)| name);
        let last = Last {
            opened_at: setup.clock.now(),
            healthy_at: setup.clock.now(),
            ..Last::default()
        };
        Arc::new(HealthChecker {
            gauges: names.map(|name| scope.gauge("peerstore_health", name)),
            seconds: scope.histogram("peerstore_health_check_seconds", ""),
            round: Mutex::default(),
            last: Mutex::new(last),
            sources: Mutex::default(),
            subscribers: Mutex::default(),
            setup,
        })
    }

    /// From now on `source` is asked for what is wrong with the regions.
    pub fn add_source(&self, source: Source) {
        lock(&self.sources).push(source);
    }

    /// From now on `subscriber` hears, on the thread that checks, when a layer becomes better or worse.
    pub fn subscribe(&self, subscriber: Subscriber) {
        lock(&self.subscribers).push(subscriber);
    }

    /// What was found last. Never waits for a check.
    pub fn last(&self) -> NodeHealth {
        let now = self.setup.clock.now();
        let last = lock(&self.last);
        let mut health = last.health.clone();
        health.age = last.checked_at.map(|at| now.saturating_sub(at));
        health.last_healthy = now.saturating_sub(last.healthy_at);
        let silence = now.saturating_sub(last.checked_at.unwrap_or(last.opened_at));
        drop(last);
        if let Some(interval) = self.setup.interval
            && silence > interval.saturating_mul(INTERVALS_MAX)
        {
            let silence = silence.as_secs_f64();
            let reason =
                format!("no check has come to its end for {silence:.1} s; a disk may hang");
            health.overall.add(HealthStatus::degraded(reason));
        }
        health
    }

    /// Checks now.
    pub fn check(&self) -> NodeHealth {
        let mut round = lock(&self.round);
        round.number += 1;
        let start = Stopwatch::start();
        let mut health = NodeHealth {
            log: self.check_log(&mut round),
            snapshots: self.check_snapshots(&round),
            app: self.check_app(&round),
            regions: self.check_regions(),
            ..NodeHealth::default()
        };
        self.check_disks(&mut health);
        health.sum_up();
        self.seconds.record(start.elapsed());
        for (gauge, (_, status)) in self.gauges.iter().zip(health.layers()) {
            gauge.set(status.severity());
        }
        let has_changed = self.keep(&health);
        let health = self.last();
        if has_changed {
            tracing::info!(%health.overall, "the health of the node has changed");
            let subscribers = lock(&self.subscribers).clone();
            subscribers
                .iter()
                .for_each(|subscriber| subscriber(&health));
        }
        health
    }

    /// Whether a layer is better or worse than before.
    fn keep(&self, health: &NodeHealth) -> bool {
        let now = self.setup.clock.now();
        let severities = |health: &NodeHealth| health.layers().map(|(_, status)| status.severity());
        let mut last = lock(&self.last);
        let has_changed = severities(&last.health) != severities(health);
        last.health = health.clone();
        last.checked_at = Some(now);
        if health.overall.is_healthy() {
            last.healthy_at = now;
        }
        has_changed
    }

    fn check_log(&self, round: &mut Round) -> HealthStatus {
        let HealthSetup { log, limits, .. } = &self.setup;
        let mut status = tried(|| probe::log(&**log, round.number));
        add_trouble(&mut status, log.trouble());
        let usage = log.usage();
        let now = self.setup.clock.now();
        round.empty_since = match usage.spare_segments < usage.spare_segments_wanted.min(1) {
            true => Some(round.empty_since.unwrap_or(now)),
            false => None,
        };
        if (round.empty_since).is_some_and(|since| now.saturating_sub(since) >= REFILL_MAX) {
            let reason = "no segment is in reserve: the next full one waits for the disk";
            status.add(HealthStatus::degraded(reason));
        }
        let (disk, live) = (usage.disk_bytes, usage.live_bytes);
        if disk >= limits.log_waste_bytes_min && disk / limits.log_waste_factor.max(1) > live {
            let reason = format!(
                "files of {disk} bytes are held by {live} bytes of entries: a follower is far behind, or a region does not compact"
            );
            status.add(HealthStatus::degraded(reason));
        }
        status
    }

    fn check_snapshots(&self, round: &Round) -> HealthStatus {
        let mut status = tried(|| probe::snapshots(&*self.setup.snapshots, round.number));
        if let Some(reason) = self.setup.damaged.trouble() {
            status.add(HealthStatus::degraded(reason));
        }
        status
    }

    fn check_app(&self, round: &Round) -> HealthStatus {
        let app = &self.setup.app;
        let mut status = tried(|| probe::app(&**app, round.number));
        add_trouble(&mut status, app.trouble());
        status
    }

    fn check_regions(&self) -> HealthStatus {
        let mut status = HealthStatus::Healthy;
        match catch_panic("health", || probe::damaged_regions(&*self.setup.app)) {
            Ok(found) => add_trouble(&mut status, found),
            Err(error) => status.add(unhealthy(&error)),
        }
        for source in lock(&self.sources).iter() {
            add_trouble(&mut status, source());
        }
        status
    }

    fn check_disks(&self, health: &mut NodeHealth) {
        let wanted = self.setup.limits.free_bytes_min;
        for Disk { layer, fs, path } in &self.setup.disks {
            let status = match fs.free_bytes(path) {
                Ok(Some(free)) if free < wanted => HealthStatus::degraded(format!(
                    "{}: {free} bytes are free, expected at least {wanted}",
                    path.display()
                )),
                Ok(_) => continue,
                Err(error) => HealthStatus::degraded(error.to_string()),
            };
            match layer {
                Layer::Log => health.log.add(status),
                Layer::Snapshots => health.snapshots.add(status),
                Layer::App => health.app.add(status),
            }
        }
    }
}

fn tried(probe: impl FnOnce() -> Result<()>) -> HealthStatus {
    match catch_panic("health", probe) {
        Ok(()) => HealthStatus::Healthy,
        Err(error) => unhealthy(&error),
    }
}

fn unhealthy(error: &Error) -> HealthStatus {
    let error = error.to_string();
    HealthStatus::Unhealthy { error }
}

fn add_trouble(status: &mut HealthStatus, trouble: Option<String>) {
    if let Some(reason) = trouble {
        status.add(HealthStatus::degraded(reason));
    }
}

/// Checks every so often until it is dropped, which waits for a check that is under way.
pub(crate) struct HealthThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HealthThread {
    /// Starts it, if the checker is to be asked at all. The first check is an interval from now: that the
    /// node could be opened says as much.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(checker: &Arc<HealthChecker>) -> Result<HealthThread> {
        let Some(interval) = checker.setup.interval else {
            let (stop, thread) = (None, None);
            return Ok(HealthThread { stop, thread });
        };
        let (stop, stopped) = bounded::<()>(1);
        let checker = Arc::clone(checker);
        let thread = spawn("peerstore-health", move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                checker.check();
            }
        })?;
        Ok(HealthThread {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for HealthThread {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checker of the health had panicked");
        }
    }
}
