//! What happens to the cluster: it grows, loses a store, gets another, moves and merges regions, and has
//! to have every byte at the end. Uses: client, load, check, report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use peerstore::{KeyRange, LogBackend, Peer, PeerId, PeerRole, Region};

use super::client::{Client, Directory, STANDSTILL};
use super::hosts::Hosts;
use super::input::Input;
use super::load::{self, Part};
use super::options::Options;
use super::protocol::{Address, Answer, Ask, Change, Figures, Known, Pair, Split};
use super::{Outcome, check, describe, picture, report};

/// The stores at the start; another one comes later.
const STORES: u64 = 3;
const POLL: Duration = Duration::from_millis(20);

/// What one try of something came to: it is so, or why it is not yet.
type Tried = Result<(), String>;

struct Story {
    directory: Arc<Directory>,
    client: Client,
    input: Arc<Input>,
    done: Arc<AtomicU64>,
    bar: ProgressBar,
}

/// Runs the demonstration over `hosts`.
pub fn tell(hosts: Hosts, input: Input, options: &Options) -> Outcome<()> {
    let style = "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}";
    let bar = ProgressBar::new(input.bytes).with_style(ProgressStyle::with_template(style)?);
    let directory = Directory::new(hosts);
    let mut story = Story {
        client: directory.client(),
        directory,
        input: Arc::new(input),
        done: Arc::default(),
        bar,
    };
    let started = Instant::now();
    story.begin()?;
    let victim = story.prepare()?;
    story.while_writing(Part::First, |_| Ok(()))?;
    story.spread(victim)?;
    let before = story.client.survey();
    story.say(format!(
        "store {victim} leads {} of {} regions",
        led_by(&before, victim),
        led(&before).count()
    ));
    story.lose(victim, options)?;
    let mut back = Instant::now();
    story.while_writing(Part::Third, |story| {
        story.add_a_store(victim)?;
        story.merge_small()?;
        back = Instant::now();
        story.directory.hosts.start(victim)?;
        story.introduce()?;
        story.say(format!("store {victim} is back"));
        Ok(())
    })?;
    let load_time = started.elapsed();
    story.promote(victim)?;
    let after = story.settle()?;
    story.bar.finish_and_clear();
    let figures = story.figures()?;
    let snapshots = figures.get(&victim).map_or(0, |f| f.snapshots_installed);
    println!(
        "store {victim} has caught up, with {snapshots} snapshots, {:.1} s after it came back",
        back.elapsed().as_secs_f64()
    );
    if options.damage {
        check::damage(
            &mut story.client,
            STORES - u64::from(victim == STORES),
            &story.input,
        )?;
    }
    let replicas = check::compare(&mut story.client, &after, &story.input)?;
    println!(
        "every byte of the {replicas} replicas of {} regions on {} stores is as in the files, and nothing else is there",
        led(&after).count(),
        after.len()
    );
    let repeated = &story.directory.repeated;
    report::print(&story.input, load_time, repeated, &after, &figures);
    picture::draw(&before, &after, options.dir.as_deref())?;
    story.directory.hosts.stop()
}

/// What the leaders know.
fn led(survey: &BTreeMap<u64, Vec<Known>>) -> impl Iterator<Item = &Known> {
    survey.values().flatten().filter(|known| known.is_leader)
}

fn led_by(survey: &BTreeMap<u64, Vec<Known>>, store: u64) -> usize {
    let regions = survey.get(&store).into_iter().flatten();
    regions.filter(|known| known.is_leader).count()
}

fn peer_on(region: &Region, store: u64) -> Option<Peer> {
    region.peers.iter().find(|p| p.store_id == store).copied()
}

impl Story {
    /// Tries something until it is so.
    ///
    /// # Errors
    /// It was not in time, with the last reason and how things stand; a store has ended.
    fn until(&mut self, what: &str, mut attempt: impl FnMut(&mut Client) -> Tried) -> Outcome<()> {
        let deadline = Instant::now() + STANDSTILL;
        loop {
            let Err(reason) = attempt(&mut self.client) else {
                return Ok(());
            };
            self.directory.hosts.check()?;
            if Instant::now() > deadline {
                let state = describe(&self.client.survey());
                return Err(format!("{what}: not in {STANDSTILL:?}: {reason}{state}").into());
            }
            self.bar.set_position(self.done.load(Ordering::Relaxed));
            std::thread::sleep(POLL);
        }
    }

    /// Asks the leader of `region` for something.
    fn ask_leader(client: &mut Client, known: &Known, ask: Ask) -> Tried {
        let id = known.region.id;
        let leader = known.leader.ok_or(format!("region {id} has no leader"))?;
        let answer = client.ask(leader.store_id, ask);
        match answer {
            // It is looked at again, whether it is so.
            Ok(_) => Err(format!("region {id}: asked for")),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// Three stores, and one region over every key on all of them.
    fn begin(&mut self) -> Outcome<()> {
        for store in 1..=STORES {
            self.directory.hosts.start(store)?;
        }
        self.introduce()?;
        let voters = (1..=STORES).map(|store| (PeerId(store), store));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        for store in 1..=STORES {
            self.client.ask(store, Ask::Create(region.clone()))?;
        }
        self.say(format!("{STORES} stores, 1 region"));
        Ok(())
    }

    /// Tells every store where the others are.
    fn introduce(&mut self) -> Outcome<()> {
        for (store, address) in self.directory.hosts.raft_addresses() {
            for to in self.directory.hosts.up() {
                let address = address.clone();
                self.client
                    .ask(to, Ask::Address(Address { store, address }))?;
            }
        }
        Ok(())
    }

    /// Cuts two small regions off, and lets another store lead the rest: that one will be lost.
    fn prepare(&mut self) -> Outcome<u64> {
        let input = Arc::clone(&self.input);
        for key in input.small_ends() {
            self.until("a split", |client| {
                let routes = client.refresh();
                if routes.iter().any(|known| known.region.start_key == key) {
                    return Ok(());
                }
                let holds = |known: &&Known| known.region.range().contains(key);
                let known = routes.iter().find(holds).ok_or("no region is known")?;
                let (region, key) = (known.region.id, key.to_vec());
                Self::ask_leader(client, known, Ask::Split(Split { region, key }))
            })?;
        }
        let mut home = 0;
        self.until("a leader of the first region", |client| {
            let known = find(&client.refresh(), &[])?;
            home = known.leader.ok_or("it has none")?.store_id;
            Ok(())
        })?;
        let victim = home % STORES + 1;
        let [first_end, second_end] = input.small_ends();
        self.lead(first_end, home)?;
        self.lead(second_end, victim)?;
        Ok(victim)
    }

    /// Lets `store` lead the region of `key`.
    fn lead(&mut self, key: &[u8], store: u64) -> Outcome<()> {
        self.until("a transfer of the lead", |client| {
            let known = find(&client.refresh(), key)?;
            if known.leader.is_some_and(|leader| leader.store_id == store) {
                return Ok(());
            }
            let region = known.region.id;
            let peer = peer_on(&known.region, store).ok_or("it has no peer there")?;
            let pair = Pair {
                region,
                other: peer.id,
            };
            Self::ask_leader(client, &known, Ask::Transfer(pair))
        })
    }

    /// Gives each store some of the large regions to lead; `victim` at least the one that is written to
    /// next.
    fn spread(&mut self, victim: u64) -> Outcome<()> {
        let input = Arc::clone(&self.input);
        let next = load::shares(&input, Part::Second).first().map(|s| s.start);
        let routes = self.client.refresh();
        let end = input.small_ends()[1];
        let large = routes.iter().filter(|k| &k.region.start_key[..] >= end);
        for (number, known) in (victim..).zip(large) {
            self.lead(&known.region.start_key, (number - 1) % STORES + 1)?;
        }
        match next {
            Some(item) => self.lead(&input.items[item].key, victim),
            None => Ok(()),
        }
    }

    /// Writes on, and kills the store as soon as it has taken a proposal that it has not answered.
    fn lose(&mut self, victim: u64, options: &Options) -> Outcome<()> {
        self.directory.set_trap(victim);
        let how = match (options.in_process, options.log) {
            (true, _) => "stopped",
            (_, LogBackend::Memory) => "frozen",
            _ => "killed",
        };
        self.while_writing(Part::Second, |story| {
            let input = Arc::clone(&story.input);
            let size = load::shares(&input, Part::Second).len();
            if size == 0 {
                return Ok(());
            }
            let directory = Arc::clone(&story.directory);
            story.until("a write to be cut", |_| match directory.has_sprung() {
                true => Ok(()),
                false => Err(format!("store {victim} was asked for nothing")),
            })?;
            story.say(format!("store {victim} was {how} in the middle of a write"));
            story.bar.set_message(format!("without store {victim}"));
            Ok(())
        })
    }

    /// Starts a store, and moves a replica there from the store that is down: first it learns, then it
    /// takes the other one's place in one step.
    fn add_a_store(&mut self, victim: u64) -> Outcome<()> {
        let new = STORES + 1;
        self.directory.hosts.start(new)?;
        self.introduce()?;
        let routes = self.client.refresh();
        let key = routes.last().ok_or("no region")?.region.start_key.clone();
        self.until("a learner on the new store", |client| {
            let known = find(&client.refresh(), &key)?;
            let region = known.region.id;
            if peer_on(&known.region, new).is_some() {
                return Ok(());
            }
            let (id, store_id, role) = (0, new, PeerRole::Learner as i32);
            let change = Change {
                region,
                comes: Some(Peer { id, store_id, role }),
                goes: 0,
            };
            Self::ask_leader(client, &known, Ask::Change(change))
        })?;
        self.promote(victim)?;
        let region = find(&self.client.refresh(), &key)?.region.id;
        self.say(format!(
            "store {new} has taken over a replica of region {region} from store {victim}"
        ));
        Ok(())
    }

    /// Lets every learner take the place of the peer on the store that is, or was, down. A region that
    /// was split while it had one has left its other half one as well.
    fn promote(&mut self, victim: u64) -> Outcome<()> {
        let new = STORES + 1;
        self.until("the learners to vote", |client| {
            let routes = client.refresh();
            let is_learner = |p: &Peer| p.role() == PeerRole::Learner && p.store_id == new;
            let is_done = |known: &&Known| {
                let peers = &known.region.peers;
                peers.iter().all(|p| p.role() == PeerRole::Voter)
            };
            let Some(known) = routes.iter().find(|known| !is_done(known)) else {
                return Ok(());
            };
            let region = known.region.id;
            let Some(learner) = known.region.peers.iter().find(|p| is_learner(p)) else {
                return Err(format!("region {region} is between two configurations"));
            };
            let there = client.survey().remove(&new).unwrap_or_default();
            let copy = there.iter().find(|k| k.region.id == region);
            if copy.is_none_or(|k| k.applied == 0 || k.stage != "Active") {
                return Err(format!("region {region}: store {new} has no snapshot yet"));
            }
            let goes = peer_on(&known.region, victim).map_or(0, |p| p.id);
            let role = PeerRole::Voter as i32;
            let comes = Some(Peer { role, ..*learner });
            let change = Change {
                region,
                comes,
                goes,
            };
            Self::ask_leader(client, known, Ask::Change(change))
        })
    }

    /// Merges the two small regions.
    fn merge_small(&mut self) -> Outcome<()> {
        let input = Arc::clone(&self.input);
        let [end, _] = input.small_ends();
        let mut merged = 0;
        self.until("a merge", |client| {
            let routes = client.refresh();
            let (left, right) = (find(&routes, &[])?, find(&routes, end)?);
            if left.region.id == right.region.id {
                return Ok(());
            }
            merged = right.region.id;
            let pair = Pair {
                region: merged,
                other: left.region.id,
            };
            Self::ask_leader(client, &right, Ask::Merge(pair))
        })?;
        let into = find(&self.client.refresh(), &[])?.region.id;
        self.say(format!("region {merged} was merged into region {into}"));
        Ok(())
    }

    /// Writes a part of the data, while `happens` happens.
    fn while_writing(
        &mut self,
        part: Part,
        happens: impl FnOnce(&mut Story) -> Outcome<()>,
    ) -> Outcome<()> {
        let (directory, input) = (Arc::clone(&self.directory), Arc::clone(&self.input));
        let done = Arc::clone(&self.done);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || load::write(&directory, &input, part, &done));
            let happened = happens(self);
            while !writer.is_finished() {
                self.bar.set_position(self.done.load(Ordering::Relaxed));
                std::thread::sleep(POLL);
            }
            let written = writer.join().map_err(|_| "the writer panicked")?;
            happened?;
            self.directory.hosts.check()?;
            Ok(written?)
        })
    }

    /// Waits until every replica has applied what its leader has, and no store has anything else.
    fn settle(&mut self) -> Outcome<BTreeMap<u64, Vec<Known>>> {
        let mut settled = BTreeMap::new();
        self.until("every replica to catch up", |client| {
            let routes = client.refresh();
            let survey = client.survey();
            is_settled(&routes, &survey)?;
            settled = survey;
            Ok(())
        })?;
        Ok(settled)
    }

    fn figures(&mut self) -> Outcome<BTreeMap<u64, Figures>> {
        let mut all = BTreeMap::new();
        for store in self.directory.hosts.up() {
            match self.client.ask(store, Ask::Figures(()))? {
                Answer::Figures(figures) => all.insert(store, figures),
                other => return Err(format!("store {store} answered {other:?}").into()),
            };
        }
        Ok(all)
    }

    fn say(&self, line: String) {
        let done = self.done.load(Ordering::Relaxed);
        let percent = done as f64 * 100.0 / self.input.bytes.max(1) as f64;
        self.bar.suspend(|| println!("{percent:3.0} %: {line}"));
    }
}

/// The region of `key`.
fn find(routes: &[Known], key: &[u8]) -> Result<Known, String> {
    let found = routes.iter().find(|k| k.region.range().contains(key));
    found.cloned().ok_or("no region is known there".into())
}

fn is_settled(routes: &[Known], survey: &BTreeMap<u64, Vec<Known>>) -> Tried {
    let mut replicas = 0;
    for known in routes {
        let id = known.region.id;
        let mut applied = Vec::new();
        for peer in &known.region.peers {
            let there = survey.get(&peer.store_id).into_iter().flatten();
            let mut there = there.filter(|k| k.region.id == id);
            let (store, replica) = (peer.store_id, there.next());
            let replica = replica.ok_or(format!("region {id} is not on store {store}"))?;
            if replica.region != known.region || replica.stage != "Active" {
                return Err(format!("region {id} on store {store} is behind"));
            }
            applied.push(replica.applied);
        }
        if applied.iter().any(|index| *index != applied[0]) {
            return Err(format!("region {id} has applied {applied:?}"));
        }
        replicas += applied.len();
    }
    if led(survey).count() != routes.len() {
        return Err("a region has no leader, or two".into());
    }
    match survey.values().map(Vec::len).sum::<usize>() == replicas {
        true => Ok(()),
        false => Err("a store has a region that is not its own".into()),
    }
}
