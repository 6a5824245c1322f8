//! A life that was written down once, cut after any of its changes: the disk as the cut leaves it is
//! laid out as real files, opened, and held against what had been acknowledged.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use peerstore::{CompositeStorage, Config, KeyRange, PeerId, PeerStorage, Region, Result};
use raft::eraftpb::HardState;

use crate::disk::{Disk, Image, Lost, Op};
use crate::journal::{Journal, Node, apply_entries, apply_to, observe, read};
use crate::life::{self, Donation, Life};
use crate::mount::{Faults, Mount, fast_dir};

/// Where the node lies: neither directory is there at first.
pub fn node_dir(root: &Path) -> PathBuf {
    root.join("data").join("node")
}

/// What happened to a disk.
pub struct Recording {
    /// What it is of, for a failure.
    pub name: String,
    pub before: Disk,
    pub ops: Vec<Op>,
}

/// Lives once, undisturbed, and closes.
pub fn record(config: Config, donation: &Donation, round: usize) -> (Recording, Journal) {
    let mount = Mount::new(Disk::new(), Faults::default());
    let dir = node_dir(&mount.path());
    let position = || mount.position();
    let mut life = Life::new(&dir, config, round, &position);
    life.live(donation).expect("a life without faults");
    life.close();
    let journal = life.journal;
    let recording = Recording {
        name: format!("life {round}"),
        before: Disk::new(),
        ops: mount.ops(),
    };
    (recording, journal)
}

/// What some cuts came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Places in the list of changes.
    pub cuts: usize,
    /// Images of the disk that were judged: three a cut.
    pub images: usize,
    /// Of these, how many had lost something.
    pub lossy: usize,
    /// How many were opened: the others were the same as one that was.
    pub opened: usize,
    pub failures: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.cuts += other.cuts;
        self.images += other.images;
        self.lossy += other.lossy;
        self.opened += other.opened;
        self.failures.extend(other.failures);
    }

    #[track_caller]
    pub fn assert_held(&self) {
        eprintln!(
            "{} cuts, {} images, {} of them with losses, {} opened, {} failures",
            self.cuts,
            self.images,
            self.lossy,
            self.opened,
            self.failures.len()
        );
        assert!(self.cuts > 0 && self.lossy > 0, "no fault was injected");
        let (torn, others): (Vec<&String>, Vec<&String>) = (self.failures.iter())
            .partition(|text| text.contains("Half") && is_torn_manifest(text));
        let first: Vec<&str> = others.iter().take(8).map(|text| text.as_str()).collect();
        assert!(first.is_empty(), "\n{}\n", first.join("\n\n"));
        assert!(torn.len() * 100 <= self.images, "{torn:?}");
    }
}

/// Whether a node was refused because RocksDB did not take a torn tail of its manifest for one. It can
/// be where a record lies in two sectors, and half of what was not synced is lost.
pub fn is_torn_manifest(reason: &str) -> bool {
    reason.contains("checksum mismatch") && reason.contains("/MANIFEST-")
}

/// How a cut at a place is judged by what it opened to.
type Judge<'a> = dyn Fn(usize, &Node) -> Result<(), String> + Sync + 'a;

impl Recording {
    /// The places where a cut makes a difference, at most `count` of them, evenly spread from `shift`.
    pub fn places(&self, count: usize, shift: usize) -> Vec<usize> {
        let count = count.min(self.ops.len());
        let place = |i: usize| (i * self.ops.len() / count + shift) % (self.ops.len() + 1);
        let mut places: Vec<usize> = (0..count).map(place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Cuts at each of `places`, three times: with everything that was not synced lost, half, nothing.
    pub fn cut(&self, places: &[usize], seed: u64, judge: &Judge<'_>) -> Tally {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let known = Mutex::new(HashMap::new());
        let work = |thread: usize| {
            let places = places.iter().skip(thread).step_by(threads);
            self.cut_some(places, seed, judge, &known)
        };
        let mut total = Tally::default();
        std::thread::scope(|scope| {
            let (work, log) = (&work, life::log_backend());
            let start = |thread| {
                scope.spawn(move || {
                    life::keep_logs_in(log);
                    work(thread)
                })
            };
            let running: Vec<_> = (0..threads).map(start).collect();
            for thread in running {
                total.add(thread.join().expect("a thread that cuts"));
            }
        });
        total
    }

    fn cut_some<'a>(
        &self,
        places: impl Iterator<Item = &'a usize>,
        seed: u64,
        judge: &Judge<'_>,
        known: &Mutex<HashMap<u64, Result<Node, String>>>,
    ) -> Tally {
        let mut tally = Tally::default();
        let (mut disk, mut done) = (self.before.clone(), 0);
        for place in places {
            self.ops[done..*place].iter().for_each(|op| disk.apply(op));
            done = *place;
            tally.cuts += 1;
            let whole = disk.after_cut(Lost::Nothing, 0);
            for lost in Lost::ALL {
                let image = disk.after_cut(lost, seed ^ (*place as u64) << 20);
                tally.images += 1;
                tally.lossy += usize::from(image != whole);
                let print = image.fingerprint();
                let cached = known
                    .lock()
                    .expect("no thread panicked")
                    .get(&print)
                    .cloned();
                let opened = cached.unwrap_or_else(|| {
                    tally.opened += 1;
                    let opened = open_image(&image);
                    let mut known = known.lock().expect("no thread panicked");
                    known.insert(print, opened.clone());
                    opened
                });
                if let Err(reason) = opened.and_then(|node| judge(*place, &node)) {
                    let text = self.failure(*place, lost, seed, &reason);
                    tally.failures.push(text);
                }
            }
        }
        tally
    }

    /// The disk when so many changes had been made.
    pub fn disk_at(&self, place: usize) -> Disk {
        let mut disk = self.before.clone();
        self.ops[..place].iter().for_each(|op| disk.apply(op));
        disk
    }

    /// What a cut there leaves, with a loss that the seed chooses.
    pub fn image_at(&self, place: usize, seed: u64) -> (Lost, Image) {
        let lost = Lost::ALL[seed as usize % Lost::ALL.len()];
        (lost, self.disk_at(place).after_cut(lost, seed))
    }

    pub fn failure(&self, place: usize, lost: Lost, seed: u64, reason: &str) -> String {
        let next = self.ops.get(place).map_or("the end".into(), |op| match op {
            Op::Write { ino, offset, bytes } => {
                format!("a write of {} bytes at {offset} to {ino}", bytes.len())
            }
            other => format!("{other:?}"),
        });
        let (name, count) = (&self.name, self.ops.len());
        format!(
            "{name}, cut {place} of {count}, before {next}, lost {lost:?}, seed {seed}: {reason}"
        )
    }
}

/// Opens what a cut has left, looks at all of it, and goes on with it.
pub fn open_image(image: &Image) -> Result<Node, String> {
    let dir = fast_dir();
    image.lay_out(dir.path()).map_err(|e| e.to_string())?;
    let dir = node_dir(dir.path());
    let (node, storages, seen) = look(&dir).map_err(|e| format!("open: {e}"))?;
    go_on(&node, storages, &seen)?;
    Ok(seen)
}

/// Opens a node and every region on it.
pub fn look(dir: &Path) -> Result<(CompositeStorage, Vec<PeerStorage>, Node)> {
    let node = CompositeStorage::open(dir, life::config())?;
    for info in node.snapshots().list(None)? {
        let verdict = node.snapshots().verify(&info.key)?;
        assert!(verdict.is_intact(), "{verdict}");
    }
    let (mut storages, mut seen) = (Vec::new(), Node::new());
    for state in node.regions()? {
        let storage = node.open_region(state.region.id)?;
        seen.insert(state.region.id, observe(&storage)?);
        storages.push(storage);
    }
    Ok((node, storages, seen))
}

/// Applies what is committed, votes, appends; and puts a new peer where one was removed.
fn go_on(node: &CompositeStorage, storages: Vec<PeerStorage>, seen: &Node) -> Result<(), String> {
    for mut storage in storages {
        let region = storage.region_id().0;
        let failed = |what: &str, e: String| format!("region {region}: {what} after the open: {e}");
        let mut expected = seen[&region].data.clone();
        let (applied, commit) = (storage.applied_index(), seen[&region].commit);
        let committed =
            read(&storage, applied + 1, commit + 1).map_err(|e| failed("read", e.to_string()))?;
        committed
            .iter()
            .for_each(|entry| apply_to(&mut expected, entry));
        apply_entries(&mut storage, &committed).map_err(|e| failed("apply", e.to_string()))?;
        let mut vote = HardState::default();
        (vote.term, vote.vote, vote.commit) = (storage.hard_state().term + 1, 1, commit);
        let last = storage.last_position().index;
        let entry = life::put(vote.term, last + 1, "z", 10);
        (storage
            .set_hard_state(&vote)
            .and_then(|()| storage.append(&[entry])))
        .map_err(|e| failed("write", e.to_string()))?;
        let now = observe(&storage).map_err(|e| failed("look", e.to_string()))?;
        if now.data != expected {
            return Err(failed("apply", "other data than the entries make".into()));
        }
    }
    if seen.contains_key(&3) {
        return Ok(());
    }
    let own = [(PeerId(99), 1)];
    let region = Region::with_voters(3, KeyRange::new("t", ""), own);
    let created = node
        .create_region(&region)
        .and_then(|storage| observe(&storage));
    match created {
        Ok(seen) if seen.data.is_empty() && seen.fixed.entries.is_empty() => Ok(()),
        Ok(seen) => Err(format!(
            "a new peer of region 3 has {} old keys",
            seen.data.len()
        )),
        Err(error) => Err(format!("create region 3 after the open: {error}")),
    }
}
