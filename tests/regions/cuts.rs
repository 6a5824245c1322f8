//! A scenario once to count its steps, and once for each of them with a store that dies behind it.

use crate::site::{Death, Site};
use crate::world::{Cut, World};

/// With this in the environment, every step in RocksDB too: minutes instead of seconds.
const ALL: &str = "PEERSTORE_REGIONS_ALL";
/// Without it, every step is tried in memory, about so many with segments for each kind of death,
const SEGMENTS_CUTS: u64 = 15;
/// and so many in RocksDB.
#[cfg(feature = "rocksdb")]
const ROCKS_CUTS: u64 = 8;

/// What is done, and what must be so at the end.
pub type Scenario = fn(&mut World);

/// Runs `scenario` with a store that dies, in memory and with its log in segments in every way, in
/// RocksDB as a process dies.
pub fn with_a_death_at_every_step(stores: u64, scenario: Scenario) {
    for death in Death::ALL {
        let runs = Runs {
            stores,
            site: Site::memory,
            scenario,
        };
        runs.all(death, u64::MAX);
        let runs = Runs {
            site: Site::segments,
            ..runs
        };
        runs.all(death, SEGMENTS_CUTS);
    }
    #[cfg(feature = "rocksdb")]
    {
        let runs = Runs {
            stores,
            site: Site::rocks,
            scenario,
        };
        runs.all(Death::Process, ROCKS_CUTS);
    }
}

struct Runs {
    stores: u64,
    site: fn() -> Site,
    scenario: Scenario,
}

impl Runs {
    fn all(&self, death: Death, cuts: u64) {
        let steps = self.run(None);
        assert!(steps > 50, "a scenario of {steps} steps");
        let all = std::env::var_os(ALL).is_some();
        let stride = if all { 1 } else { (steps / cuts).max(1) };
        for step in (1..=steps).step_by(stride as usize) {
            self.run(Some(Cut { step, death }));
        }
    }

    fn run(&self, cut: Option<Cut>) -> u64 {
        let _told = Told(cut);
        let mut world = World::new(self.stores, self.site, cut);
        (self.scenario)(&mut world);
        world.steps
    }
}

/// Says at which cut a run has failed.
struct Told(Option<Cut>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {:?}", self.0);
        }
    }
}
