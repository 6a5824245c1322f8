//! What a node and its store measure, by the facade of the `metrics` crate. Uses: the seams, entry_cache.
//!
//! Every name is a row of [`METRICS`], with its kind, unit, label and meaning; nothing else can be
//! registered. Handles are made once, when a node is opened, and used from then on; nothing is recorded
//! for each entry, only for each batch, group or file. What is counted anyway ([`LogStats`],
//! [`AppStats`](crate::AppStats), [`CacheStats`], [`StoreStats`](crate::StoreStats)) is
//! not counted twice: [`CompositeStorage::report_metrics`](crate::CompositeStorage::report_metrics) and
//! [`Store::report_metrics`](crate::Store::report_metrics) show it when they are called, before a scrape.
//!
//! Install a recorder before the node is opened: what was registered without one stays silent, and costs
//! next to nothing. Each metric has the label `store`, the id of the store, and at most one more, whose
//! values are listed; none is ever kept for each region, of which there may be thousands. For one region
//! there is [`Store::progress`](crate::Store::progress).

mod fs;
mod node;
mod snapshots;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, with_recorder};

#[cfg(doc)]
use crate::entry_cache::CacheStats;
use crate::fs::FileSystem;
#[cfg(doc)]
use crate::raft_log::LogStats;
use crate::snapshot_store::RaftSnapshotStorage;

use fs::MeteredFs;
pub(crate) use node::{NodeMetrics, NodeStats};
pub(crate) use snapshots::DamagedSnapshots;
use snapshots::MeteredSnapshots;
pub use table::METRICS;

/// One row of [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, as a recorder hears it.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// What it counts.
    pub unit: MetricUnit,
    /// The label that it has beside `store`, and the values of that.
    pub label: Option<(&'static str, &'static [&'static str])>,
    /// What it says.
    pub meaning: &'static str,
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from 0 when the node is opened.
    Counter,
    /// It is as it is now.
    Gauge,
    /// How values are distributed.
    Histogram,
}

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// How long something takes. Nothing but what is shown rests on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// So far.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// What measures the parts of a node that are opened from its directory.
pub(crate) struct MeteredParts {
    log: Arc<MeteredFs>,
    snapshots: Arc<MeteredFs>,
    damaged: Arc<DamagedSnapshots>,
}

impl MeteredParts {
    pub fn new(fs: &Arc<dyn FileSystem>) -> Self {
        let wrap = || MeteredFs::wrap(Arc::clone(fs));
        let (log, snapshots) = (wrap(), wrap());
        MeteredParts {
            log,
            snapshots,
            damaged: Arc::default(),
        }
    }

    /// The file system of the log.
    pub fn log(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.log) as Arc<dyn FileSystem>
    }

    /// The file system of the snapshots.
    pub fn snapshots(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.snapshots) as Arc<dyn FileSystem>
    }

    /// The snapshots that are found damaged.
    pub fn damaged(&self) -> &Arc<DamagedSnapshots> {
        &self.damaged
    }

    /// Measures from now on, for the store of this id. The snapshots are what measures them.
    pub fn begin(
        &self,
        snapshots: Arc<dyn RaftSnapshotStorage>,
        store_id: u64,
    ) -> Arc<dyn RaftSnapshotStorage> {
        let scope = Scope::new(store_id);
        self.log.begin(&scope, "log");
        self.snapshots.begin(&scope, "snapshots");
        MeteredSnapshots::wrap(snapshots, &self.damaged, &scope)
    }
}

/// Where the handles of one store come from.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    store: String,
}

static METADATA: Metadata<'static> = Metadata::new("peerstore", Level::INFO, Some(module_path!()));

impl Scope {
    pub fn new(store_id: u64) -> Self {
        let store = store_id.to_string();
        Scope { store }
    }

    /// A counter of the table. `value` is that of its label, empty if it has none.
    pub fn counter(&self, name: &'static str, value: &'static str) -> Counter {
        self.register(name, value, MetricKind::Counter, |recorder, key| {
            recorder.register_counter(key, &METADATA)
        })
    }

    /// The same for a gauge.
    pub fn gauge(&self, name: &'static str, value: &'static str) -> Gauge {
        self.register(name, value, MetricKind::Gauge, |recorder, key| {
            recorder.register_gauge(key, &METADATA)
        })
    }

    /// The same for a histogram.
    pub fn histogram(&self, name: &'static str, value: &'static str) -> Histogram {
        self.register(name, value, MetricKind::Histogram, |recorder, key| {
            recorder.register_histogram(key, &METADATA)
        })
    }

    fn register<T>(
        &self,
        name: &'static str,
        value: &'static str,
        kind: MetricKind,
        register: impl FnOnce(&dyn Recorder, &Key) -> T,
    ) -> T {
        let metric = METRICS.iter().find(|m| m.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table of metrics"));
        assert_eq!(metric.kind, kind, "{name}");
        let mut labels = vec![Label::new("store", self.store.clone())];
        match metric.label {
            None => assert!(value.is_empty(), "{name} has no label for {value:?}"),
            Some((label, values)) => {
                assert!(
                    values.contains(&value),
                    "{name}: {label} is never {value:?}"
                );
                labels.push(Label::new(label, value));
            }
        }
        with_recorder(|recorder| {
            describe(recorder, metric);
            register(recorder, &Key::from_parts(name, labels))
        })
    }
}

fn describe(recorder: &dyn Recorder, metric: &Metric) {
    let unit = match metric.unit {
        MetricUnit::Count => metrics::Unit::Count,
        MetricUnit::Bytes => metrics::Unit::Bytes,
        MetricUnit::Seconds => metrics::Unit::Seconds,
    };
    let (name, unit, meaning) = (metric.name.into(), Some(unit), metric.meaning.into());
    match metric.kind {
        MetricKind::Counter => recorder.describe_counter(name, unit, meaning),
        MetricKind::Gauge => recorder.describe_gauge(name, unit, meaning),
        MetricKind::Histogram => recorder.describe_histogram(name, unit, meaning),
    }
}

/// Where a number of `S` is.
type Of<S> = fn(&S) -> u64;

/// A number of `S`: the metric that shows it, the value of its label, and where it is.
pub(crate) type Number<S> = (&'static str, &'static str, Of<S>);

/// What is counted elsewhere and shown when it is asked for.
pub(crate) struct Shown<S: 'static> {
    numbers: Vec<(Handle, Of<S>)>,
}

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
}

impl<S> Shown<S> {
    pub fn new(scope: &Scope, numbers: &[Number<S>]) -> Self {
        let is_counter = |name| {
            let counters = METRICS.iter().filter(|m| m.kind == MetricKind::Counter);
            counters.into_iter().any(|m| m.name == name)
        };
        let numbers = numbers.iter().map(|(name, value, number)| {
            let handle = match is_counter(*name) {
                true => Handle::Counter(scope.counter(name, value)),
                false => Handle::Gauge(scope.gauge(name, value)),
            };
            (handle, *number)
        });
        Shown {
            numbers: numbers.collect(),
        }
    }

    pub fn show(&self, stats: &S) {
        for (handle, number) in &self.numbers {
            match handle {
                Handle::Counter(counter) => counter.absolute(number(stats)),
                Handle::Gauge(gauge) => gauge.set(number(stats) as f64),
            }
        }
    }
}
