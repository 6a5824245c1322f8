//! A database that is used by itself, without the node's directory around it.

use std::path::Path;

use peerstore::rocks::{RocksLog, RocksOptions};
use peerstore::{Durability, LogBatch, RaftLogStorage as _, RegionId};

use crate::cuts::{Recording, Tally};
use crate::disk::{Disk, Lost};
use crate::life::put;
use crate::mount::{Faults, Mount, fast_dir};

const REGION: RegionId = RegionId(1);
const ENTRIES: u64 = 5;

/// The databases's own directory and the two above it are new.
fn open(root: &Path) -> peerstore::Result<RocksLog> {
    RocksLog::open(&root.join("a/b/log"), &RocksOptions::default())
}

/// Cuts the power at every change of a short life.
pub fn cut_everywhere() -> Tally {
    let mount = Mount::new(Disk::new(), Faults::default());
    let log = open(&mount.path()).expect("a new log");
    // How many changes there were when so many entries were acknowledged.
    let mut acked = Vec::new();
    for index in 0..ENTRIES {
        let mut batch = LogBatch::default();
        batch.append(REGION, vec![put(1, index, "a", 50)]);
        log.write(&batch, Durability::Synced).expect("a write");
        acked.push(mount.position());
    }
    drop(log);
    let recording = Recording {
        name: "a log alone".into(),
        before: Disk::new(),
        ops: mount.ops(),
    };
    let mut tally = Tally::default();
    for place in recording.places(usize::MAX, 0) {
        let entries = acked.iter().filter(|position| **position <= place).count();
        tally.cuts += 1;
        for lost in Lost::ALL {
            tally.images += 1;
            tally.lossy += usize::from(lost != Lost::Nothing);
            let dir = fast_dir();
            let image = recording.disk_at(place).after_cut(lost, place as u64);
            image.lay_out(dir.path()).expect("files");
            let opened = open(dir.path())
                .and_then(|log| log.read_entries(REGION, 0..entries as u64, u64::MAX));
            tally.opened += 1;
            if let Err(error) = opened {
                tally.failures.push(recording.failure(
                    place,
                    lost,
                    place as u64,
                    &error.to_string(),
                ));
            }
        }
    }
    tally
}
