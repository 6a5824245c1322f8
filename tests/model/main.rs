//! PeerStorage against a plain model, under random commands, power cuts and failing writes.
//!
//! `PROPTEST_CASES` sets how many lists of commands each backend is put through. A failure prints the
//! shortest list that still fails, and the seed with which `PROPTEST_RNG_SEED` repeats it.

mod checks;
mod commands;
mod found;
mod node;
#[path = "../nodes/mod.rs"]
mod nodes;
mod readies;
mod region;
mod world;

use std::cell::Cell;

use peerstore::Config;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use commands::{Command, command};
use nodes::Backends;
use world::World;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    backends: Backends,
    config: Config,
}

/// Any command may follow any other: each is made to fit what it meets.
pub struct Commands;

impl ReferenceStateMachine for Commands {
    type State = Setup;
    type Transition = Command;

    fn init_state() -> BoxedStrategy<Setup> {
        let cache = prop_oneof![Just(1u64), Just(1_000), Just(1 << 20)];
        let inline = prop_oneof![Just(0u64), Just(64 << 10)];
        let setup = |(cache, inline)| {
            let mut config = Config::default();
            config.entry_cache_bytes = cache;
            config.snapshot.inline_bytes_max = inline;
            Setup {
                backends: Backends::Memory,
                config,
            }
        };
        (cache, inline).prop_map(setup).boxed()
    }

    fn transitions(_: &Setup) -> BoxedStrategy<Command> {
        command()
    }

    fn apply(setup: Setup, _: &Command) -> Setup {
        setup
    }
}

impl StateMachineTest for World {
    type SystemUnderTest = World;
    type Reference = Commands;

    fn init_test(setup: &Setup) -> World {
        World::new(setup.backends, &setup.config)
    }

    fn apply(mut world: World, _: &Setup, command: Command) -> World {
        world.run(command);
        world
    }
}

/// Runs `cases` lists of up to `commands` commands, unless the environment says how many.
fn hold(backends: Backends, cases: u32, commands: usize) {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("PROPTEST_CASES") {
        config.cases = cases;
    }
    if !is_set("PROPTEST_MAX_SHRINK_ITERS") {
        config.max_shrink_iters = 2_000;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand_seed(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let strategy = Commands::sequential_strategy(1..commands);
    let ran = Ran::default();
    let result = TestRunner::new(config.clone()).run(&strategy, |(mut setup, commands, seen)| {
        let _case = ran.case();
        setup.backends = backends;
        World::test_sequential(config.clone(), setup, commands, seen);
        Ok(())
    });
    if let Err(error) = result {
        panic!(
            "{error}\ncase {} failed; to repeat it: \
             PROPTEST_RNG_SEED={seed} PROPTEST_CASES={} cargo test --test model",
            ran.failed.get(),
            config.cases
        );
    }
}

/// How many cases ran, and which was the first to fail; what comes after that only makes it shorter.
#[derive(Default)]
struct Ran {
    cases: Cell<u32>,
    failed: Cell<u32>,
}

impl Ran {
    fn case(&self) -> Case<'_> {
        self.cases.set(self.cases.get() + 1);
        Case(self)
    }
}

/// One case while it runs.
struct Case<'a>(&'a Ran);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.failed.get() == 0 {
            self.0.failed.set(self.0.cases.get());
        }
    }
}

/// Another one each time.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[test]
fn a_node_in_memory_holds_through_power_cuts() {
    hold(Backends::Memory, 300, 80);
}

#[test]
fn a_node_with_its_log_in_segments_holds_through_cuts_of_its_data() {
    hold(Backends::SegmentLog, 40, 60);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_node_on_rocks_holds_through_kills() {
    hold(Backends::Rocks, 8, 50);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_node_with_its_log_on_rocks_holds_through_cuts_of_its_data() {
    hold(Backends::RocksLog, 12, 50);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_node_with_its_data_on_rocks_holds_through_cuts_of_its_log() {
    hold(Backends::RocksData, 12, 50);
}
