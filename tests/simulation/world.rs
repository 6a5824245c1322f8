//! Some stores, their network and their clients on one thread: a seed decides who does what next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerstore::memory::{MemoryNetwork, MemoryPlacement, NetworkOptions};
use peerstore::{Config, GcPolicy, KeyRange, PeerId, Region, SnapshotConfig, StoreOptions};

use crate::broken::Flaw;
use crate::checks::{Checks, apply_state, regions_of, show_message, show_region};
use crate::clients::{CLIENTS, Client};
use crate::dice::Dice;
use crate::disk_log::LogKind;
use crate::history::{History, Value};
use crate::node::{Node, Part};
use crate::operator::Asked;
use crate::trace::Trace;

/// How long faults go on.
const ROUNDS: u64 = 350;

pub struct World {
    pub dice: Dice,
    pub network: MemoryNetwork,
    pub calm: NetworkOptions,
    pub placement: MemoryPlacement,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub history: History,
    /// What a key was last seen to hold.
    pub seen: BTreeMap<String, Value>,
    pub asked: Vec<Asked>,
    pub checks: Checks,
    pub trace: Arc<Mutex<Trace>>,
    pub round: u64,
    /// Regions of which this peer is gone for good: nobody else is taken out of them.
    pub wounded: BTreeMap<u64, u64>,
    /// Parts of nodes that are slow until some round.
    pub slow: Vec<(usize, Part, u64)>,
    pub network_bad_until: u64,
    config: Config,
    options: StoreOptions,
}

/// What is wrong, if something is; the panic of a world carries nothing else.
pub type Checked = Result<(), String>;

impl World {
    pub fn new(seed: u64, flaw: Flaw, log: LogKind, trace: Arc<Mutex<Trace>>) -> World {
        let mut dice = Dice::new(seed);
        let calm = NetworkOptions {
            delay_ticks: 0..=dice.between(0, 2),
            loss_per_mille: dice.pick(&[0, 0, 5, 20]).unwrap_or(0),
            duplicate_per_mille: dice.pick(&[0, 10]).unwrap_or(0),
            reorder: dice.happens(500),
        };
        let network = MemoryNetwork::new(dice.roll(), calm.clone());
        let placement = MemoryPlacement::new();
        let stores = dice.between(3, 5);
        let config = config(&mut dice);
        let options = options(&mut dice, placement.clone());
        let checks = Checks::default();
        let promises = Arc::clone(&checks.promises);
        let said = std::env::var_os("PEERSTORE_TRACE").is_some();
        network.set_filter(move |from, to, message| {
            promises.hear(from, &message);
            if said {
                println!("    {from} to {to}: {}", show_message(&message));
            }
            Some(message)
        });
        World {
            network,
            calm,
            placement,
            nodes: (1..=stores).map(|id| Node::new(id, flaw, log)).collect(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            history: History::default(),
            seen: BTreeMap::new(),
            asked: Vec::new(),
            checks,
            trace,
            round: 0,
            wounded: BTreeMap::new(),
            slow: Vec::new(),
            network_bad_until: 0,
            config,
            options,
            dice,
        }
    }

    pub fn note(&self, event: String) {
        let round = self.round;
        self.trace.lock().unwrap().note(format!("{round}: {event}"));
    }

    pub fn count(&self, kind: &'static str) {
        self.trace.lock().unwrap().count(kind);
    }

    /// A whole life, and what the stores show if something went wrong in it.
    pub fn run(&mut self) -> Checked {
        self.live().map_err(|reason| {
            let shown: Vec<String> = self.nodes.iter().map(show_node).collect();
            format!("{reason}\n{}", shown.concat())
        })
    }

    /// Regions, faults, and the end of all faults.
    fn live(&mut self) -> Checked {
        self.begin()?;
        while self.round < ROUNDS {
            self.go_round()?;
        }
        self.heal()?;
        for at in 0..self.nodes.len() {
            self.count_work(at);
        }
        let traffic = self.network.total();
        let mut trace = self.trace.lock().unwrap();
        trace.add("messages lost", traffic.lost);
        trace.add("messages cut", traffic.cut);
        trace.add("messages doubled", traffic.duplicated);
        trace.add("messages reordered", traffic.reordered);
        trace.add("replicas compared", self.checks.compared);
        trace.add("answers", self.history.answers() as u64);
        drop(trace);
        self.history.check()
    }

    fn begin(&mut self) -> Checked {
        for at in 0..self.nodes.len() {
            self.start(at)?;
        }
        let voters = (1..=3).map(|id| (PeerId(100 + id), id));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        for node in &mut self.nodes[..3] {
            let running = node.running.as_mut().ok_or("a store does not run")?;
            let created = running.store.create_region(&region);
            created.map_err(|e| format!("region not created: {e}"))?;
        }
        Ok(())
    }

    pub fn start(&mut self, at: usize) -> Checked {
        let id = self.nodes[at].id;
        self.note(format!("store {id} starts"));
        let options = StoreOptions {
            seed: self.options.seed ^ id,
            ..self.options.clone()
        };
        let started = self.nodes[at].start(&self.network, &self.config, &options);
        started.map_err(|e| format!("store {id} does not start: {e}"))?;
        self.checks.opened(&self.nodes[at]);
        Checks::check_logs(&self.nodes[at])?;
        self.look(at)
    }

    /// One tick, and what happens in it.
    fn go_round(&mut self) -> Checked {
        self.round += 1;
        self.tick(900)?;
        if self.dice.happens(90) {
            self.operate();
        }
        self.do_faults()?;
        for client in 0..CLIENTS {
            if self.dice.happens(400) {
                self.begin_call(client);
            }
        }
        let often = 4 * self.nodes.len() as u64;
        let steps = self.dice.between(often, 8 * often);
        for _ in 0..steps {
            self.step_somewhere()?;
        }
        self.hear_operator();
        Ok(())
    }

    /// Counts what a store has done in its life.
    pub fn count_work(&self, at: usize) {
        if let Some(store) = self.nodes[at].store() {
            let stats = store.stats();
            let mut trace = self.trace.lock().unwrap();
            trace.add("snapshots installed", stats.snapshots_installed);
            trace.add("snapshots sent", stats.snapshots_sent);
        }
    }

    /// Lets time go by: here and there it stands still.
    pub fn tick(&mut self, per_mille: u64) -> Checked {
        self.network.tick();
        for at in 0..self.nodes.len() {
            let per_mille = match self.nodes[at].slow_clock_until > self.round {
                true => per_mille / 10,
                false => per_mille,
            };
            let ticks = self.dice.happens(per_mille) && self.nodes[at].paused_until <= self.round;
            if let Some(running) = self.nodes[at].running.as_mut().filter(|_| ticks) {
                running.workers.advance_clock(Duration::from_millis(100));
                running.store.tick();
                self.look(at)?;
            }
        }
        Ok(())
    }

    fn step_somewhere(&mut self) -> Checked {
        if self.dice.happens(350) {
            self.deliver(8)?;
        }
        let at = self.dice.below(self.nodes.len());
        if self.nodes[at].paused_until > self.round {
            return Ok(());
        }
        let Some(running) = &self.nodes[at].running else {
            return Ok(());
        };
        let Some(part) = self.dice.pick(&running.parts) else {
            return Ok(());
        };
        let is_slow = self.slow.iter().any(|(n, p, _)| *n == at && *p == part);
        if is_slow && !self.dice.happens(20) {
            return Ok(());
        }
        self.step(at, part).map(|_| ())
    }

    /// Lets up to so many messages arrive; whether any did.
    pub fn deliver(&mut self, most: usize) -> Result<bool, String> {
        let mut any = false;
        let count = 1 + self.dice.below(most);
        for _ in 0..count {
            if !self.network.deliver_next() {
                break;
            }
            any = true;
        }
        match self.checks.promises.broken.lock().unwrap().take() {
            Some(broken) => Err(broken),
            None => Ok(any),
        }
    }

    /// Lets a part of a store do something; whether it did.
    pub fn step(&mut self, at: usize, part: Part) -> Result<bool, String> {
        let Some(running) = &mut self.nodes[at].running else {
            return Ok(false);
        };
        if !running.step(part) {
            return Ok(false);
        }
        if part == Part::Store(peerstore::StorePart::Split) {
            self.count("splits by size");
        }
        let id = self.nodes[at].id;
        let (log, data) = (&self.nodes[at].log, &self.nodes[at].data);
        self.note(format!(
            "{id} {part:?} {} {}",
            log.unsynced(),
            data.unsynced()
        ));
        self.look(at)?;
        self.hear_answers();
        Ok(true)
    }

    fn look(&mut self, at: usize) -> Checked {
        self.checks.look_at_store(&self.nodes[at])?;
        self.checks.look_at_disk(&self.nodes[at])
    }
}

/// For whoever looks into a failure.
fn show_node(node: &Node) -> String {
    let Some(store) = node.store() else {
        return format!("store {} does not run\n", node.id);
    };
    let mut shown = format!("store {}: refused {:?}\n", node.id, store.stats().refused);
    for status in store.regions() {
        let applied = apply_state(&node.data, status.region.region_id());
        let applied = applied.map_or(0, |a| a.applied_index);
        shown += &format!(
            "  peer {} term {} leader {:?} applied {applied} {:?} of {}\n",
            status.peer,
            status.term,
            status.leader.map(|l| l.id),
            status.state,
            show_region(&status.region)
        );
    }
    for state in regions_of(&node.data) {
        if state.state == peerstore::PeerState::Tombstone {
            shown += &format!(
                "  tombstone of {}: {}\n",
                state.peer_id,
                show_region(&state.region)
            );
        }
    }
    shown
}

fn config(dice: &mut Dice) -> Config {
    Config {
        cluster_id: 7,
        log: peerstore::LogBackend::Memory,
        app: peerstore::AppBackend::Memory,
        entry_cache_bytes: dice.pick(&[1, 400, 1 << 20]).unwrap_or(1),
        gc: GcPolicy {
            entries_max: dice.between(8, 60),
            bytes_max: 1 << 20,
            entries_trailing: dice.between(0, 8),
        },
        snapshot: SnapshotConfig {
            backend: peerstore::SnapshotBackend::Memory,
            inline_bytes_max: dice.pick(&[0, 1 << 16]).unwrap_or(0),
            retry_backoff_ms: 300,
            ..SnapshotConfig::default()
        },
        ..Config::default()
    }
}

fn options(dice: &mut Dice, placement: MemoryPlacement) -> StoreOptions {
    StoreOptions {
        election_ticks: 8,
        heartbeat_ticks: 2,
        sleep_after_ticks: dice.pick(&[0, 6, 15]).unwrap_or(0),
        gc_ticks: dice.between(4, 12) as u32,
        message_bytes_max: dice.pick(&[64, 1 << 20]).unwrap_or(64),
        inflight_messages_max: dice.pick(&[2, 64]).unwrap_or(2),
        waiting_bytes_max: 1 << 20,
        region_bytes_max: dice.pick(&[0, 0, 60, 120]).unwrap_or(0),
        apply_threads: dice.between(1, 2) as usize,
        placement: Some(Arc::new(placement)),
        seed: dice.roll(),
        ..StoreOptions::default()
    }
}
