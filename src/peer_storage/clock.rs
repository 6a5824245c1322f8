//! The time since a node was opened, for the pause of a failed snapshot, and the wall time, for the age
//! of those that are kept. Uses: nothing of ours.
//!
//! Nothing that safety rests on, and nothing that is replicated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A clock that never goes back. Clones show the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's.
    Machine {
        /// When it showed 0.
        start: Instant,
    },
    /// Stands still until somebody moves it: for a simulation.
    Manual {
        /// What it shows, in nanoseconds.
        nanos: Arc<AtomicU64>,
    },
}

impl Clock {
    /// The machine's clock, from now on.
    pub fn machine() -> Self {
        Clock::Machine {
            start: Instant::now(),
        }
    }

    /// One that shows 0.
    pub fn manual() -> Self {
        Clock::Manual {
            nanos: Arc::default(),
        }
    }

    /// What it shows.
    pub fn now(&self) -> Duration {
        match self {
            Clock::Machine { start } => start.elapsed(),
            Clock::Manual { nanos } => Duration::from_nanos(nanos.load(Ordering::Relaxed)),
        }
    }

    /// The wall time. Under a manual clock it is ahead by what that was moved: snapshots have their dates
    /// from the machine, and grow old as the clock moves.
    pub fn wall(&self) -> SystemTime {
        let now = SystemTime::now();
        match self {
            Clock::Machine { .. } => now,
            Clock::Manual { .. } => now.checked_add(self.now()).unwrap_or(now),
        }
    }

    /// Moves a manual clock forward; the machine's moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual { nanos } = self {
            let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            let _ = nanos.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(by))
            });
        }
    }
}
