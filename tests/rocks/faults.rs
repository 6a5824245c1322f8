//! Damaged tables, and a disk that is full.

use std::process::Command;

use peerstore::rocks::RocksData;
use peerstore::{
    AppBatch, ApplicationDataStorage, DataRead, Durability::*, Error, KeyRange, Keyspace, LogBatch,
    RaftLogStorage,
};

use super::*;

#[test]
fn a_damaged_table_gives_errors_not_wrong_entries() {
    let dir = tempfile::tempdir().unwrap();
    append(&open_log(dir.path()), 6, 1..2001, Synced);
    // Opening replays the log into a table.
    drop(open_log(dir.path()));
    let table = files(dir.path(), "sst")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let intact = fs::read(&table).unwrap();
    let (mut errors, mut named) = (0, 0);
    for offset in (0..intact.len()).step_by(intact.len() / 40) {
        let mut bytes = intact.clone();
        bytes[offset] ^= 1;
        fs::write(&table, bytes).unwrap();
        let read = RocksLog::open(dir.path(), &options())
            .and_then(|log| log.read_entries(RegionId(6), 1..2001, u64::MAX));
        match read {
            Ok(read) => assert_eq!(read, entries(1..2001)),
            Err(Error::Corruption { region, .. }) => {
                errors += 1;
                named += u32::from(region == Some(RegionId(6)));
            }
            Err(other) => panic!("offset {offset}: {other}"),
        }
    }
    assert!(
        errors >= 20 && named >= 20,
        "{errors} errors, {named} with the region"
    );
}

/// A file system of its own, gone when dropped.
pub struct Mount(tempfile::TempDir);

impl Mount {
    pub fn small(megabytes: u32) -> Option<Mount> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Mount(dir)),
            _ => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here, so no disk was filled");
                None
            }
        }
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// Leaves no free byte.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn write_large(log: &RocksLog, index: u64) -> Result<(), Error> {
    let mut batch = LogBatch::default();
    batch.append(RegionId(1), vec![entry(index, &vec![7; 64 << 10])]);
    log.write(&batch, Synced)
}

#[test]
fn a_full_disk_is_named_poisons_writes_and_spares_reads() {
    let Some(mount) = Mount::small(24) else {
        return;
    };
    let log = open_log(&mount.path());
    write_large(&log, 1).unwrap();
    let ballast = mount.fill();
    let first = (2..).find_map(|i| write_large(&log, i).err().map(|error| (i, error)));
    let (failed, error) = first.unwrap();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    fs::remove_file(ballast).unwrap();
    for error in [
        write_large(&log, failed).unwrap_err(),
        log.sync().unwrap_err(),
    ] {
        let cause = "No space left on device";
        assert!(
            matches!(&error, Error::Poisoned { cause: c, .. } if c.contains(cause)),
            "{error}"
        );
    }
    let read = |log: &RocksLog| {
        for i in 1..failed {
            assert!(
                log.read_entry(RegionId(1), i).unwrap().is_some(),
                "entry {i} of {failed}"
            );
        }
    };
    read(&log);
    drop(log);
    let log = open_log(&mount.path());
    read(&log);
    write_large(&log, failed).unwrap();
}

#[test]
fn an_import_onto_a_full_disk_changes_nothing_and_poisons_nothing() {
    let Some(mount) = Mount::small(24) else {
        return;
    };
    let data = RocksData::open(&mount.path(), &options()).unwrap();
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, "key", "old");
    data.write(&batch, Synced).unwrap();
    let mut import = data.begin_import(&KeyRange::all()).unwrap();
    let noise = noise(1, 1 << 18);
    let error = (0u64..1 << 10)
        .find_map(|i| import.put(Keyspace::Data, &i.to_be_bytes(), &noise).err())
        .unwrap();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(import.put(Keyspace::Ttl, b"a", b"b").is_err());
    import.finish().unwrap_err();
    assert_eq!(data.get(Keyspace::Data, b"key").unwrap().unwrap(), b"old");
    data.write(&batch, Synced).unwrap();
}
