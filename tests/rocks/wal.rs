//! Damage in the write-ahead log: what was durable is never given up silently, a torn tail opens.

use peerstore::{Durability::*, Error, RaftLogStorage};

use super::*;

/// A log of region 1 with an entry a write, and where each write ends in the write-ahead log.
struct Written {
    dir: tempfile::TempDir,
    wal: PathBuf,
    ends: Vec<usize>,
}

fn written(durabilities: &[Durability]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let [wal] = files(dir.path(), "log").try_into().unwrap();
    let length = || fs::metadata(&wal).unwrap().len() as usize;
    let mut ends = vec![length()];
    for (i, durability) in (1..).zip(durabilities) {
        append(&log, 1, i..i + 1, *durability);
        ends.push(length());
    }
    drop(log);
    Written { wal, ends, dir }
}

impl Written {
    /// How many of the writes are there after an open, which must be the first ones.
    fn kept(&self) -> Result<usize, Error> {
        let log = RocksLog::open(self.dir.path(), &options())?;
        let total = self.ends.len() as u64;
        let held: Vec<bool> = (1..total)
            .map(|i| log.read_entry(RegionId(1), i).unwrap().is_some())
            .collect();
        let kept = held.iter().filter(|held| **held).count();
        assert!(held[..kept].iter().all(|held| *held), "a hole: {held:?}");
        let entries = log.read_entries(RegionId(1), 1..kept as u64 + 1, u64::MAX)?;
        assert_eq!(entries, super::entries(1..kept as u64 + 1));
        Ok(kept)
    }

    fn damage(&self, write: usize) {
        flip(&self.wal, self.ends[write - 1] + 20);
    }
}

fn is_corrupt(result: Result<usize, Error>) -> bool {
    matches!(&result, Err(Error::Corruption { what, .. }) if what.contains(".log"))
}

#[test]
fn damage_to_an_acknowledged_write_is_an_error_even_in_the_last_but_one() {
    for write in [1, 5, 9] {
        let store = written(&[Synced; 10]);
        store.damage(write);
        let before = tree(store.dir.path());
        assert!(is_corrupt(store.kept()), "write {write}");
        assert_eq!(tree(store.dir.path()), before);
    }
}

#[test]
fn damage_before_a_sync_is_an_error_once_anything_follows() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    append(&log, 1, 1..2, Buffered);
    append(&log, 1, 2..3, Buffered);
    log.sync().unwrap();
    append(&log, 1, 3..4, Buffered);
    drop(log);
    let wal = &files(dir.path(), "log")[0];
    let bytes = fs::read(wal).unwrap();
    let at = bytes.windows(7).position(|w| w == b"entry 1").unwrap();
    flip(wal, at);
    let error = RocksLog::open(dir.path(), &options()).err().unwrap();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
}

#[test]
fn a_torn_tail_opens_with_everything_before_it() {
    let store = written(&[Synced; 10]);
    store.damage(10);
    assert_eq!(store.kept().unwrap(), 9);
    for cut in [1, 10, 40] {
        let store = written(&[Synced; 10]);
        let bytes = fs::read(&store.wal).unwrap();
        fs::write(&store.wal, &bytes[..bytes.len() - cut]).unwrap();
        assert_eq!(store.kept().unwrap(), 9, "cut by {cut}");
    }
}

#[test]
fn writes_that_nobody_synced_may_be_torn_in_any_order() {
    // The power fails while the last write is being synced: it got to the disk, an earlier one did not.
    let mut durabilities = [Buffered; 6];
    durabilities[0] = Synced;
    durabilities[5] = Synced;
    for torn in 2..=5 {
        let store = written(&durabilities);
        store.damage(torn);
        assert_eq!(store.kept().unwrap(), torn - 1);
    }
    // Once that sync has returned, the next write says so.
    let store = written(&[Synced, Buffered, Buffered, Synced, Buffered]);
    store.damage(2);
    assert!(is_corrupt(store.kept()));
}

#[test]
fn a_torn_log_that_an_earlier_open_has_judged_is_no_damage() {
    let store = written(&[Synced; 10]);
    store.damage(10);
    let torn = fs::read(&store.wal).unwrap();
    let log = open_log(store.dir.path());
    for i in 10..15 {
        append(&log, 1, i..i + 1, Synced);
    }
    drop(log);
    // A crash that undid the removal of the old file.
    assert!(!store.wal.exists());
    fs::write(&store.wal, torn).unwrap();
    let log = open_log(store.dir.path());
    assert_eq!(
        log.read_entries(RegionId(1), 1..15, u64::MAX).unwrap(),
        entries(1..15)
    );
}

#[test]
fn a_vanished_log_file_is_an_error() {
    let store = written(&[Synced; 3]);
    fs::remove_file(&store.wal).unwrap();
    let error = store.kept().unwrap_err();
    assert!(matches!(error, Error::IncompleteStore { .. }), "{error}");

    // Of several, one that is closed is listed in the manifest.
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let mut next = 1;
    while files(dir.path(), "log").len() < 2 {
        let mut batch = peerstore::LogBatch::default();
        batch.append(RegionId(1), vec![entry(next, &noise(next, 100_000))]);
        batch.state(RegionId(1), Default::default());
        log.write(&batch, Synced).unwrap();
        next += 1;
    }
    drop(log);
    fs::remove_file(&files(dir.path(), "log")[0]).unwrap();
    let error = RocksLog::open(dir.path(), &options()).err().unwrap();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
}

#[test]
fn no_flipped_bit_gives_wrong_entries() {
    let store = written(&[Synced; 6]);
    let intact = tree(store.dir.path());
    let (first, last) = (store.ends[0], store.ends[6]);
    let (mut errors, mut tails) = (0, 0);
    for offset in (first..last).step_by(5) {
        for (path, bytes) in &intact {
            fs::write(path, bytes).unwrap();
        }
        for path in tree(store.dir.path()).into_keys() {
            if !intact.contains_key(&path) {
                fs::remove_file(path).unwrap();
            }
        }
        flip(&store.wal, offset);
        match store.kept() {
            Ok(kept) => {
                assert!(
                    offset >= store.ends[5] && kept == 5,
                    "offset {offset}: {kept} writes"
                );
                tails += 1;
            }
            Err(Error::Corruption { .. }) => errors += 1,
            Err(other) => panic!("offset {offset}: {other}"),
        }
    }
    assert!(errors > 40 && tails > 5, "{errors} errors, {tails} tails");
}

#[test]
fn records_over_many_blocks_are_looked_through() {
    let write = |damage: Option<usize>| {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(dir.path());
        for i in 1..6 {
            let mut batch = peerstore::LogBatch::default();
            batch.append(RegionId(1), vec![entry(i, &vec![i as u8; 100_000])]);
            log.write(&batch, Synced).unwrap();
        }
        drop(log);
        let wal = &files(dir.path(), "log")[0];
        if let Some(offset) = damage {
            flip(wal, offset);
        }
        RocksLog::open(dir.path(), &options())
            .map(|log| log.read_entry(RegionId(1), 5).unwrap().is_some())
    };
    assert!(write(None).unwrap());
    // In the first, a middle and the last piece of the third record, and in the fifth.
    for offset in [201_500, 250_000, 299_000] {
        assert!(
            matches!(write(Some(offset)), Err(Error::Corruption { .. })),
            "{offset}"
        );
    }
    assert!(!write(Some(450_000)).unwrap());
}
