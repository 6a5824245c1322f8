//! The demonstration from start to end. `peer` is where raft-rs and peerstore meet.
//! Uses: peerstore's public names only.
//!
//! | file | what it does |
//! |---|---|
//! | `peer` | one region on one store: the steps of a RawNode and its PeerStorage |
//! | `store` | all regions of a store: one batch and one fsync for all; `writer` is its thread |
//! | `net` | messages, snapshot files, ticks, log compaction |
//! | `lane` | proposals: in flight, pushed back, repeated; `command` is what they say |
//! | `input`, `options` | what to load |
//! | `check`, `report` | whether it is all there, and what it took |

mod check;
mod command;
mod input;
mod lane;
mod net;
mod options;
mod peer;
mod report;
mod store;
#[path = "../support/svg.rs"]
mod svg;
mod writer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use input::Input;
use lane::Lane;
use net::{Cluster, STORES};
use options::{Command, Options, USAGE};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// So long without anything applied means that something is wrong.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Parses the arguments and does what they say. An error if anything went wrong, or if a single byte
/// on a store is not what it should be.
pub fn run(args: impl Iterator<Item = OsString>) -> Outcome<()> {
    let options = match Command::parse(args)? {
        Command::Run(options) => options,
        Command::Help => {
            print!("{USAGE}");
            return Ok(());
        }
    };
    let source = input_directory(&options)?;
    let input = Input::collect(&source, options.mib_max << 20, options.regions)?;
    println!(
        "{} from {} files in {} ({} skipped): {} keys, {} regions, {STORES} stores",
        HumanBytes(input.bytes),
        input.files.len(),
        source.display(),
        input.skipped,
        input.items.len(),
        input.starts.len(),
    );
    let temporary = tempfile::tempdir()?;
    let dir = options.dir.as_deref().unwrap_or(temporary.path());
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!(
            "--dir {}: expected a missing or empty directory",
            dir.display()
        )
        .into());
    }
    std::fs::create_dir_all(dir)?;
    Demo::new(input, dir.to_path_buf())?.run(&options)
}

/// The directory that was given, or the sources that cargo has downloaded to build this.
fn input_directory(options: &Options) -> Outcome<PathBuf> {
    if let Some(dir) = &options.input {
        return Ok(dir.clone());
    }
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = cargo_home
        .or(home)
        .ok_or("no home directory; give a directory to load")?;
    Ok(cargo.join("registry").join("src"))
}

struct Demo {
    cluster: Cluster,
    input: Input,
    lanes: BTreeMap<u64, Lane>,
    done: Vec<bool>,
    done_bytes: u64,
    done_items: usize,
    bar: ProgressBar,
}

impl Demo {
    fn new(input: Input, dir: PathBuf) -> Outcome<Demo> {
        let cluster = Cluster::create(dir, &input.starts)?;
        let lane = |region| {
            let numbers = 0..input.items.len();
            Lane::new(numbers.filter(|number| input.items[*number].region == region))
        };
        let lanes = (1..=input.starts.len() as u64).map(|region| (region, lane(region)));
        let style = "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}";
        let bar = ProgressBar::new(input.bytes).with_style(ProgressStyle::with_template(style)?);
        Ok(Demo {
            cluster,
            lanes: lanes.collect(),
            done: vec![false; input.items.len()],
            done_bytes: 0,
            done_items: 0,
            input,
            bar,
        })
    }

    fn run(mut self, options: &Options) -> Outcome<()> {
        let started = Instant::now();
        let (half, most) = (self.input.bytes / 2, self.input.bytes / 10 * 8);
        // A store that leads is the harder one to lose.
        self.until("the first half", |demo| demo.done_bytes >= half)?;
        let victim = self.cluster.leader(1).map_or(1, |((store, _), _)| store);
        self.until("a write under way", |demo| {
            let writing = demo
                .cluster
                .stores
                .get(&victim)
                .is_some_and(|s| s.is_writing());
            writing || demo.is_loaded()
        })?;
        let ends = self.cluster.stop(victim);
        self.say(format!("store {victim} stopped in the middle of a write"));
        self.bar.set_message(format!("without store {victim}"));
        self.until("most of the rest", |demo| demo.done_bytes >= most)?;
        self.compact_past(&ends)?;
        self.say("the others have compacted their logs past it".to_string());

        let restarted = Instant::now();
        self.cluster.start(victim)?;
        self.say(format!("store {victim} started again"));
        self.bar.set_message("");
        self.until("the rest", Demo::is_loaded)?;
        let load_time = started.elapsed();
        self.until("the store that was down", |demo| demo.cluster.is_settled())?;
        self.bar.finish_and_clear();
        let snapshots = self.snapshots_of(victim)?;
        println!(
            "store {victim} has caught up, by {snapshots} snapshots, {:.1} s after its start",
            restarted.elapsed().as_secs_f64()
        );
        if options.damage {
            check::damage(&self.cluster, &self.input)?;
        }
        check::compare(&self.cluster, &self.input)?;
        let retries = self.lanes.values().map(|lane| lane.retries).sum();
        report::print(&self.cluster, &self.input, load_time, retries);
        let store = self
            .cluster
            .stores
            .get(&victim)
            .ok_or("the store is gone")?;
        report::draw(store, options.dir.as_deref())
    }

    /// Goes on until `reached`.
    fn until(&mut self, what: &str, reached: impl Fn(&mut Demo) -> bool) -> Outcome<()> {
        let mut moved = (Instant::now(), 0);
        while !reached(self) {
            self.turn()?;
            let applied = self.cluster.applied();
            if applied != moved.1 {
                moved = (Instant::now(), applied);
            } else if moved.0.elapsed() > STANDSTILL {
                let seconds = STANDSTILL.as_secs();
                let state = self.cluster.describe();
                let text = format!("waiting for {what}: nothing moved for {seconds} s{state}");
                return Err(text.into());
            }
        }
        Ok(())
    }

    /// One turn of the stores, then as many proposals as there is room for.
    fn turn(&mut self) -> Outcome<()> {
        for number in self.cluster.turn()? {
            let number = number as usize;
            let Some(done) = self.done.get_mut(number) else {
                return Err(format!("item {number} was applied, but does not exist").into());
            };
            if !std::mem::replace(done, true) {
                let item = &self.input.items[number];
                self.done_bytes += item.bytes;
                self.done_items += 1;
                self.bar.set_position(self.done_bytes);
                if let Some(lane) = self.lanes.get_mut(&item.region) {
                    lane.done(number);
                }
            }
        }
        for (region, lane) in &mut self.lanes {
            if let Some((leadership, leader)) = self.cluster.leader(*region) {
                lane.follow(leadership);
                lane.propose(leader, &self.input)?;
            }
        }
        Ok(())
    }

    fn is_loaded(&mut self) -> bool {
        self.done_items == self.done.len()
    }

    /// Has the stores that are up compact their logs past `ends`, where those of the stopped one end.
    /// Both of them have what is committed, so nobody who is up needs what goes.
    fn compact_past(&mut self, ends: &BTreeMap<u64, u64>) -> Outcome<()> {
        let is_past = |demo: &mut Demo| {
            let peers = demo.cluster.stores.values().flat_map(|s| s.peers.values());
            let mut truncated = peers.map(|p| (p.region(), p.raft.store().truncated_index()));
            truncated.all(|(region, index)| ends.get(&region).is_some_and(|end| index > *end))
        };
        let mut asked = None;
        while !is_past(self) {
            // Asked again: a leader that loses its place may lose the request too.
            if asked.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(500)) {
                self.cluster.compact_applied()?;
                asked = Some(Instant::now());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// How many snapshots `store` has installed since its start: its log ended before every other's
    /// began, so there was no other way for any region.
    fn snapshots_of(&self, store: u64) -> Outcome<u64> {
        let peers = self.cluster.stores.get(&store).map(|s| &s.peers);
        let mut count = 0;
        for (region, peer) in peers.into_iter().flatten() {
            if peer.snapshots.installed == 0 {
                let text = format!("store {store}, region {region}: caught up without a snapshot");
                return Err(text.into());
            }
            count += peer.snapshots.installed;
        }
        Ok(count)
    }

    fn say(&self, line: String) {
        let percent = self.done_bytes as f64 * 100.0 / (self.input.bytes.max(1)) as f64;
        self.bar.suspend(|| println!("{percent:3.0} %: {line}"));
    }
}

/// The path as it is printed.
fn shown(path: &Path) -> String {
    path.canonicalize()
        .unwrap_or_else(|_| path.to_path_buf())
        .display()
        .to_string()
}
