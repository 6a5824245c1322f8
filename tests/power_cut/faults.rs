//! Lives on a disk that fails: a sync, the power, or the space, while the node runs.

use peerstore::{CompositeStorage, Error, LogBackend, Result};

use crate::cuts::{is_torn_manifest, look, node_dir, open_image};
use crate::disk::{Disk, Lost};
use crate::journal::{Journal, Node};
use crate::life::{self, Donation, Life};
use crate::mount::{Faults, Mount};

/// How a life on a failing disk ended.
pub struct End {
    /// The steps that returned.
    pub acked: usize,
    pub error: Option<Error>,
    /// Whether log and data refuse to be synced as poisoned; nothing if the node was not open.
    pub poisoned: Option<[bool; 2]>,
    /// What memory still said after the error.
    pub seen: Result<Node>,
}

/// Lives on `mount`, up to its first error.
pub fn live(mount: &Mount, donation: &Donation) -> End {
    let dir = node_dir(&mount.path());
    let position = || mount.position();
    let mut life = Life::new(&dir, life::config(), 0, &position);
    let error = life.live(donation).err();
    let seen = life.observe();
    let end = End {
        acked: life.journal.acks.len() - 1,
        error,
        poisoned: life.node().map(poisoned),
        seen,
    };
    life.close();
    end
}

fn poisoned(node: &CompositeStorage) -> [bool; 2] {
    let is_poisoned = |synced| matches!(synced, Err(Error::Poisoned { .. }));
    [
        is_poisoned(node.log().sync()),
        is_poisoned(node.app().sync()),
    ]
}

impl End {
    /// What the journal of an undisturbed life calls the step that failed.
    pub fn failed_step<'a>(&self, journal: &'a Journal) -> &'a str {
        journal
            .acks
            .get(self.acked + 1)
            .map_or("close", |ack| &ack.what)
    }

    /// Whether an error of a write has left a store that takes no more.
    pub fn check_poison(&self, journal: &Journal) -> Result<(), String> {
        let (Some(error), Some(poisoned)) = (&self.error, self.poisoned) else {
            return Ok(());
        };
        let step = self.failed_step(journal);
        // What a snapshot is staged in was not there before, and is given up.
        let may_go_on = ["install", "build", "receive"]
            .iter()
            .any(|s| step.starts_with(s));
        match poisoned.contains(&true) || may_go_on {
            true => Ok(()),
            false => Err(format!(
                "\"{step}\" failed ({error}), and nothing is poisoned"
            )),
        }
    }
}

/// Whether everything acknowledged is there, whatever a power cut after the failure takes. Says how
/// often the open was refused instead: if a sync of RocksDB's manifest failed, and the power is cut
/// later, a half-written tail may be left, which it does not take for one; and it passes over the failure
/// of one sync of a directory, so that a cut may take a new table which its manifest names.
fn check_disk(disk: &Disk, journal: &Journal, acked: usize, seed: u64) -> Result<usize, String> {
    let mut refused = 0;
    for lost in Lost::ALL {
        let image = disk.after_cut(lost, seed);
        let checked = open_image(&image).and_then(|node| journal.check(acked, &node));
        match checked {
            Ok(()) => {}
            Err(reason) if lost == Lost::Half && is_torn_manifest(&reason) => refused += 1,
            Err(reason) if lost != Lost::Nothing && is_missing_table(&reason) => refused += 1,
            Err(reason) => return Err(format!("then lost {lost:?}, seed {seed}: {reason}")),
        }
    }
    Ok(refused)
}

fn is_missing_table(reason: &str) -> bool {
    reason.contains("No such file") && reason.contains(".sst")
}

/// What lives on failing disks came to.
#[derive(Debug, Default)]
pub struct Disturbed {
    pub lives: usize,
    /// Those in which something failed.
    pub injected: usize,
    /// Those that went on to their end all the same: RocksDB did not need what failed.
    pub unharmed: usize,
    /// Images that were not opened, see [`check_disk`].
    pub refused: usize,
}

impl Disturbed {
    pub fn add(&mut self, other: &Disturbed) {
        self.lives += other.lives;
        self.injected += other.injected;
        self.unharmed += other.unharmed;
        self.refused += other.refused;
    }
}

/// A life in which one sync fails, or the power.
pub fn disturbed(
    faults: Faults,
    journal: &Journal,
    donation: &Donation,
) -> Result<Disturbed, String> {
    let mount = Mount::new(Disk::new(), faults);
    let end = live(&mount, donation);
    let step = end.failed_step(journal);
    let at = |reason: String| format!("{faults:?}, step \"{step}\": {reason}");
    end.check_poison(journal).map_err(at)?;
    Ok(Disturbed {
        lives: 1,
        injected: usize::from(mount.injected() > 0),
        unharmed: usize::from(end.error.is_none()),
        refused: check_disk(&mount.disk(), journal, end.acked, 1).map_err(at)?,
    })
}

/// What an open finds while the disk is still full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhileFull {
    Opens,
    DiskFull,
}

/// A life that fills its disk: named as that, read on, opened or refused, opened with room again.
pub fn filled(space: usize, journal: &Journal, donation: &Donation) -> Result<WhileFull, String> {
    let space = Some(space);
    let mount = Mount::new(
        Disk::new(),
        Faults {
            space,
            ..Faults::default()
        },
    );
    let end = live(&mount, donation);
    let step = end.failed_step(journal);
    let at = |reason: String| format!("space {space:?}, step \"{step}\": {reason}");
    match &end.error {
        Some(Error::DiskFull { .. }) => {}
        Some(Error::SnapshotFailed { reason, .. }) if reason.contains("no space left") => {}
        Some(Error::Poisoned { cause, .. }) if cause.contains("No space left") => {}
        Some(other) => return Err(at(format!("not told as a full disk: {other} ({other:?})"))),
        None => return Err(at("the disk was not filled".into())),
    }
    // The append-only log refuses what does not fit before anything is written, and goes on.
    if life::log_backend() != LogBackend::AppendLog {
        end.check_poison(journal).map_err(at)?;
    }
    let seen = end
        .seen
        .as_ref()
        .map_err(|e| at(format!("not readable: {e}")))?;
    // Of an install that ended early the region shows how far it has come; the next open finishes it.
    let is_between = |what| step.starts_with(what);
    if !["reopen", "destroy", "install"].into_iter().any(is_between) {
        journal.check(end.acked, seen).map_err(at)?;
    }
    let dir = node_dir(&mount.path());
    let while_full = match look(&dir).map(|(node, storages, seen)| {
        drop((storages, node));
        seen
    }) {
        Ok(seen) => {
            journal.check(end.acked, &seen).map_err(at)?;
            WhileFull::Opens
        }
        Err(Error::DiskFull { .. }) => WhileFull::DiskFull,
        Err(other) => return Err(at(format!("opened while full: {other} ({other:?})"))),
    };
    mount.set_faults(Faults::default());
    match look(&dir) {
        Ok((_node, _storages, seen)) => journal.check(end.acked, &seen).map_err(at)?,
        Err(error) => return Err(at(format!("opened with room: {error}"))),
    }
    check_disk(&mount.disk(), journal, end.acked, 2).map_err(at)?;
    Ok(while_full)
}
