//! How a node stands: each layer tried, and what each knows of its own trouble. Uses: the seams, metrics.
//!
//! A check writes a little into each layer, syncs it, reads it back and removes it, and asks for what a
//! layer knows without being tried: free space, its reserve, snapshots found damaged, regions that were
//! stopped. It is run by a thread every `health_interval_ms`, never on a raft thread, or by whoever calls
//! [`CompositeStorage::check_health`](crate::CompositeStorage::check_health); what it last found is there at
//! once. A check that hangs, as a disk can, shows by its age.

mod checker;
mod probe;

use std::fmt;
use std::time::Duration;

pub(crate) use checker::{Disk, HealthChecker, HealthSetup, HealthThread, Layer};

/// How a layer of a node stands.
///
/// ```
/// use peerstore::HealthStatus;
/// let slow = HealthStatus::Degraded { reason: "RocksDB has stopped writes".into() };
/// assert!(slow.severity() > HealthStatus::Healthy.severity());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// Nothing is wrong as far as it can tell.
    #[default]
    Healthy,
    /// It works, and somebody should look at it.
    Degraded {
        /// What is wrong.
        reason: String,
    },
    /// It does not work: what is written to it fails.
    Unhealthy {
        /// The error, as it was.
        error: String,
    },
}

impl HealthStatus {
    /// How bad it is: 0, 1, 2 in the order of the variants.
    pub fn severity(&self) -> u8 {
        match self {
            HealthStatus::Healthy => 0,
            HealthStatus::Degraded { .. } => 1,
            HealthStatus::Unhealthy { .. } => 2,
        }
    }

    /// Whether nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        *self == HealthStatus::Healthy
    }

    fn degraded(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        HealthStatus::Degraded { reason }
    }

    /// Takes another finding in: the worse one stands, of two that are as bad both do.
    fn add(&mut self, other: HealthStatus) {
        if self.severity() < other.severity() {
            *self = other;
            return;
        }
        match (self, other) {
            (HealthStatus::Degraded { reason: all }, HealthStatus::Degraded { reason: more })
            | (HealthStatus::Unhealthy { error: all }, HealthStatus::Unhealthy { error: more }) => {
                all.push_str("; ");
                all.push_str(&more);
            }
            _ => {}
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthStatus::Healthy => f.write_str("healthy"),
            HealthStatus::Degraded { reason } => write!(f, "degraded: {reason}"),
            HealthStatus::Unhealthy { error } => write!(f, "unhealthy: {error}"),
        }
    }
}

/// How a node stands, as of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    /// The log.
    pub log: HealthStatus,
    /// The snapshots.
    pub snapshots: HealthStatus,
    /// The data.
    pub app: HealthStatus,
    /// The regions: those whose state is damaged, and those that a [`Store`](crate::Store) has stopped.
    pub regions: HealthStatus,
    /// The worst of them; also that checks do not come to their end any more.
    pub overall: HealthStatus,
    /// How long ago the check came to its end; None before the first, when what is said is that the node
    /// could be opened.
    pub age: Option<Duration>,
    /// How long ago a check found everything healthy, or the node was opened if none has.
    pub last_healthy: Duration,
}

impl NodeHealth {
    /// Each layer by its name, and the whole.
    pub fn layers(&self) -> [(&'static str, &HealthStatus); 5] {
        [
            ("log", &self.log),
            ("snapshots", &self.snapshots),
            ("data", &self.app),
            ("regions", &self.regions),
            ("overall", &self.overall),
        ]
    }

    fn sum_up(&mut self) {
        let layers = [&self.log, &self.snapshots, &self.app, &self.regions];
        let worst = layers.into_iter().max_by_key(|status| status.severity());
        self.overall = worst.cloned().unwrap_or_default();
    }
}

impl fmt::Display for NodeHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layers = self.layers().into_iter();
        layers.try_for_each(|(name, status)| writeln!(f, "{name}: {status}"))
    }
}

/// From when on something counts as trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthLimits {
    /// A file system with less free space degrades the layer on it, in bytes.
    pub free_bytes_min: u64,
    /// A log whose files take this many times what lives in them has something old in it that holds
    /// them: a follower far behind, or a region that does not compact.
    pub log_waste_factor: u64,
    /// Files of a log that take less are never too large, in bytes.
    pub log_waste_bytes_min: u64,
}

impl Default for HealthLimits {
    fn default() -> Self {
        HealthLimits {
            free_bytes_min: 1 << 30,
            log_waste_factor: 8,
            log_waste_bytes_min: 4 << 30,
        }
    }
}
