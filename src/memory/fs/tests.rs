//! Each guarantee of the file system in memory, and each that it does not give.

use super::*;

const DIR: &str = "dir";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A file system with one durable directory.
fn with_dir() -> Result<MemFs> {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new(DIR))?;
    Ok(fs)
}

fn write_durably(fs: &MemFs, name: &str, bytes: &[u8]) -> Result<Box<dyn File>> {
    let file = fs.create(&path(name))?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    fs.sync_dir(Path::new(DIR))?;
    Ok(file)
}

fn contents(fs: &MemFs, name: &str) -> Result<Vec<u8>> {
    let file = fs.open(&path(name))?;
    let mut bytes = vec![0; file.length()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn names(fs: &MemFs) -> Result<Vec<PathBuf>> {
    fs.list(Path::new(DIR))
}

#[test]
fn synced_bytes_under_synced_names_survive_every_cut() -> Result<()> {
    let fs = with_dir()?;
    write_durably(&fs, "a", &[7; 2000])?;
    for (lost, seed) in [
        (Lost::Nothing, 0),
        (Lost::Half, 1),
        (Lost::Half, 2),
        (Lost::Everything, 0),
    ] {
        assert_eq!(contents(&fs.after_power_cut(lost, seed), "a")?, [7; 2000]);
    }
    Ok(())
}

#[test]
fn unsynced_bytes_are_lost_when_everything_is() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", b"old")?;
    file.write_all_at(b"new and longer", 0)?;
    assert_eq!(contents(&fs, "a")?, b"new and longer");
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Everything, 0), "a")?,
        b"old"
    );
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Nothing, 0), "a")?,
        b"new and longer"
    );
    Ok(())
}

#[test]
fn bytes_that_were_only_written_back_can_be_lost() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", b"old")?;
    file.write_all_at(b"new", 0)?;
    file.write_back(0..3)?;
    let cut = fs.after_power_cut(Lost::Everything, 0);
    assert_eq!(contents(&cut, "a")?, b"old");
    fs.fail_at(fs.operations(), ErrorKind::Other);
    assert!(file.write_back(0..3).is_err());
    // As after a failed sync, a later one does not write them.
    file.sync()?;
    let cut = fs.after_power_cut(Lost::Nothing, 0);
    assert_eq!(contents(&cut, "a")?, b"old");
    Ok(())
}

#[test]
fn unsynced_sectors_are_lost_one_by_one() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", &[1; 8 * SECTOR_BYTES])?;
    file.write_all_at(&[2; 8 * SECTOR_BYTES], 0)?;
    let mut mixed = 0;
    for seed in 0..20 {
        let bytes = contents(&fs.after_power_cut(Lost::Half, seed), "a")?;
        for sector in bytes.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a torn sector");
        }
        mixed += usize::from(bytes.contains(&1) && bytes.contains(&2));
    }
    assert!(mixed > 10, "{mixed} of 20 cuts kept a part");
    Ok(())
}

#[test]
fn an_overwritten_version_of_a_sector_may_be_what_is_left() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", b"0")?;
    file.write_all_at(b"1", 0)?;
    file.write_all_at(b"2", 0)?;
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        seen.insert(contents(&fs.after_power_cut(Lost::Half, seed), "a")?);
    }
    assert_eq!(seen, [b"0".to_vec(), b"1".to_vec(), b"2".to_vec()].into());
    Ok(())
}

#[test]
fn a_synced_file_is_lost_while_its_name_is_not_synced() -> Result<()> {
    let fs = with_dir()?;
    let file = fs.create(&path("a"))?;
    file.write_all_at(b"bytes", 0)?;
    file.sync()?;
    assert!(names(&fs.after_power_cut(Lost::Everything, 0))?.is_empty());
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Nothing, 0), "a")?,
        b"bytes"
    );
    Ok(())
}

#[test]
fn a_rename_is_there_or_not_and_never_both_names() -> Result<()> {
    let fs = with_dir()?;
    write_durably(&fs, "old", b"old")?;
    write_durably(&fs, "new", b"new")?;
    fs.rename(&path("new"), &path("old"))?;
    let mut seen = BTreeSet::new();
    for seed in 0..32 {
        let after = fs.after_power_cut(Lost::Half, seed);
        seen.insert((names(&after)?.len(), contents(&after, "old")?));
    }
    assert_eq!(seen, [(2, b"old".to_vec()), (1, b"new".to_vec())].into());
    fs.sync_dir(Path::new(DIR))?;
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Everything, 0), "old")?,
        b"new"
    );
    Ok(())
}

#[test]
fn a_chain_of_renames_leaves_one_name() -> Result<()> {
    let fs = with_dir()?;
    write_durably(&fs, "a", b"a")?;
    fs.rename(&path("a"), &path("b"))?;
    fs.rename(&path("b"), &path("c"))?;
    for seed in 0..32 {
        assert_eq!(names(&fs.after_power_cut(Lost::Half, seed))?.len(), 1);
    }
    Ok(())
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() -> Result<()> {
    let fs = with_dir()?;
    write_durably(&fs, "a", b"a")?;
    fs.remove(&path("a"))?;
    assert!(names(&fs)?.is_empty());
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Everything, 0), "a")?,
        b"a"
    );
    fs.sync_dir(Path::new(DIR))?;
    assert!(names(&fs.after_power_cut(Lost::Everything, 0))?.is_empty());
    Ok(())
}

#[test]
fn made_directories_are_durable_and_a_lost_one_takes_its_files() -> Result<()> {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("x/y"))?;
    assert!(
        fs.after_power_cut(Lost::Everything, 0)
            .exists(Path::new("x/y"))?
    );
    // The power goes before the parent of the second is synced.
    let fs = MemFs::new();
    fs.cut_at(1);
    assert!(fs.create_dir_all(Path::new("x")).is_err());
    assert!(
        !fs.after_power_cut(Lost::Everything, 0)
            .exists(Path::new("x"))?
    );
    assert!(
        fs.after_power_cut(Lost::Nothing, 0)
            .exists(Path::new("x"))?
    );
    Ok(())
}

#[test]
fn after_the_cut_nothing_works_and_nothing_changes() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", b"a")?;
    fs.cut_at(fs.operations());
    assert!(file.write_all_at(b"b", 0).is_err() && file.sync().is_err());
    assert!(fs.remove(&path("a")).is_err() && fs.create(&path("b")).is_err());
    assert!(fs.sync_dir(Path::new(DIR)).is_err());
    assert_eq!(contents(&fs.after_power_cut(Lost::Nothing, 0), "a")?, b"a");
    Ok(())
}

#[test]
fn bytes_of_a_failed_sync_are_never_written_by_a_later_one() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", b"old")?;
    file.write_all_at(b"new", 0)?;
    fs.fail_at(fs.operations(), ErrorKind::Other);
    assert!(matches!(file.sync(), Err(Error::Io { op: "sync", .. })));
    file.sync()?;
    assert_eq!(contents(&fs, "a")?, b"new", "the cache still shows them");
    assert_eq!(
        contents(&fs.after_power_cut(Lost::Nothing, 0), "a")?,
        b"old"
    );
    Ok(())
}

#[test]
fn names_of_a_failed_directory_sync_are_not_made_durable_by_a_later_one() -> Result<()> {
    let fs = with_dir()?;
    fs.create(&path("a"))?.sync()?;
    fs.fail_at(fs.operations(), ErrorKind::Other);
    assert!(fs.sync_dir(Path::new(DIR)).is_err());
    fs.sync_dir(Path::new(DIR))?;
    assert!(names(&fs.after_power_cut(Lost::Everything, 0))?.is_empty());
    assert_eq!(names(&fs.after_power_cut(Lost::Nothing, 0))?.len(), 1);
    // A later change of the same name settles it.
    fs.remove(&path("a"))?;
    fs.sync_dir(Path::new(DIR))?;
    assert!(names(&fs.after_power_cut(Lost::Nothing, 0))?.is_empty());
    Ok(())
}

#[test]
fn a_failed_write_leaves_a_part_and_fails_once() -> Result<()> {
    let fs = with_dir()?;
    let file = fs.create(&path("a"))?;
    fs.fail_at(fs.operations(), ErrorKind::Other);
    assert!(file.write_all_at(b"abcd", 0).is_err());
    assert_eq!(contents(&fs, "a")?, b"ab");
    file.write_all_at(b"abcd", 0)
}

#[test]
fn a_full_disk_is_told_apart_and_freed_by_removing() -> Result<()> {
    let fs = with_dir()?;
    let file = write_durably(&fs, "a", &[0; 600])?;
    fs.set_space(1000);
    let refused = file.write_all_at(&[1; 600], 600);
    assert!(matches!(refused, Err(Error::DiskFull { .. })));
    assert_eq!(file.length()?, 1000, "what fitted was written");
    file.write_all_at(&[2; 1000], 0)?;
    fs.remove(&path("a"))?;
    fs.create(&path("b"))?.write_all_at(&[1; 1000], 0)
}

#[test]
fn a_lock_blocks_others_until_it_is_dropped_or_the_power_goes() -> Result<()> {
    let fs = with_dir()?;
    let held = fs.lock(&path("LOCK"))?;
    assert!(matches!(fs.lock(&path("LOCK")), Err(Error::Locked { .. })));
    fs.after_power_cut(Lost::Nothing, 0).lock(&path("LOCK"))?;
    drop(held);
    fs.lock(&path("LOCK"))?;
    Ok(())
}

#[test]
fn wrong_names_are_refused_as_on_disk() -> Result<()> {
    let fs = with_dir()?;
    write_durably(&fs, "a", b"a")?;
    let kind = |result: Result<()>| match result {
        Err(Error::Io { source, .. }) => Some(source.kind()),
        _ => None,
    };
    let create = |p: &Path| fs.create(p).map(drop);
    assert_eq!(kind(create(&path("a"))), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(create(Path::new("none/a"))), Some(ErrorKind::NotFound));
    assert_eq!(
        kind(fs.open(&path("b")).map(drop)),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(kind(fs.remove(&path("b"))), Some(ErrorKind::NotFound));
    assert_eq!(
        kind(fs.sync_dir(Path::new("none"))),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(
        kind(fs.create_dir_all(&path("a"))),
        Some(ErrorKind::NotADirectory)
    );
    let past = fs.open(&path("a"))?.read_exact_at(&mut [0; 2], 0);
    assert_eq!(kind(past), Some(ErrorKind::UnexpectedEof));
    Ok(())
}

#[test]
fn operations_are_counted_and_named() -> Result<()> {
    let fs = with_dir()?;
    let before = fs.operations();
    write_durably(&fs, "a", b"a")?;
    assert_eq!(fs.operations() - before, 4);
    let words: Vec<_> = fs
        .history()
        .into_iter()
        .map(|(op, _)| op)
        .skip(before as usize)
        .collect();
    assert_eq!(words, ["create", "write", "sync", "sync directory"]);
    Ok(())
}

#[test]
fn a_kill_keeps_what_is_not_durable_but_does_not_make_it_durable() -> Result<()> {
    let fs = with_dir()?;
    fs.create(&path("a"))?.write_all_at(b"a", 0)?;
    fs.cut_at(fs.operations());
    let next = fs.after_kill();
    assert_eq!(contents(&next, "a")?, b"a");
    assert!(names(&next.after_power_cut(Lost::Everything, 0))?.is_empty());
    Ok(())
}
