//! Power cuts and failures at every operation of the store on files.

use std::io::ErrorKind;

use peerstore::memory::Lost;

use super::*;

/// What is done to a store while something goes wrong.
type Action = fn(&dyn RaftSnapshotStorage) -> Result<SnapshotInfo>;

/// Content of several blocks, over several sectors.
fn content() -> Vec<u8> {
    sample(9, 1500)
}

fn create_one(store: &dyn RaftSnapshotStorage) -> Result<SnapshotInfo> {
    create(store, meta(1, 5, 20), &content())
}

fn receive_one(store: &dyn RaftSnapshotStorage) -> Result<SnapshotInfo> {
    let other = MemorySnapshots::new();
    let info = create(&other, meta(1, 5, 20), &content())?;
    receive(store, &image(&other, &info.key)?)
}

const ACTIONS: [(&str, Action); 2] = [("create", create_one), ("receive", receive_one)];

/// A store with one snapshot that is committed.
fn with_one() -> Result<(MemFs, SnapshotDir, SnapshotInfo)> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let info = create(&store, meta(1, 5, 10), b"committed before")?;
    Ok((fs, store, info))
}

/// How many operations `action` takes when nothing goes wrong.
fn operations(action: Action) -> Result<u64> {
    let (fs, store, _) = with_one()?;
    let before = fs.operations();
    action(&store)?;
    Ok(fs.operations() - before)
}

/// Opens what is left and checks it: the old snapshot is there, the new one whole or not at all.
/// Says whether it is there.
fn check_after(fs: &MemFs, old: &SnapshotInfo, what: &str) -> Result<bool> {
    let store = open_dir(fs, Compression::Lz4)?;
    let listed = store.list(None)?;
    assert_eq!(read(&store, &old.key)?, b"committed before", "{what}");
    let new = match &listed[..] {
        [only] if only == old => false,
        [first, second] if first == old => {
            assert_eq!(read(&store, &second.key)?, content(), "{what}");
            true
        }
        _ => panic!("{what}: {listed:?}"),
    };
    assert_eq!(
        names(fs)?.len(),
        listed.len(),
        "{what}: something is left over"
    );
    create(&store, meta(1, 5, 30), b"still usable")?;
    Ok(new)
}

#[test]
fn a_power_cut_at_every_operation_leaves_the_snapshot_whole_or_not_at_all() -> Result<()> {
    for (name, action) in ACTIONS {
        let (mut cuts, mut kept, mut gone) = (0, 0, 0);
        // The last cut comes after the commit: it takes nothing away.
        for number in 0..=operations(action)? {
            let (fs, store, old) = with_one()?;
            fs.cut_at(fs.operations() + number);
            let outcome = action(&store);
            assert_eq!(outcome.is_ok(), number == operations(action)?);
            for (lost, seed) in policies() {
                let what = format!("{name} cut at {number}, {lost:?} lost, seed {seed}");
                let after = fs.after_power_cut(lost, seed);
                let there = check_after(&after, &old, &what)?;
                assert!(there || outcome.is_err(), "{what}: acknowledged and lost");
                cuts += 1;
                kept += u32::from(there);
                gone += u32::from(!there);
            }
        }
        assert!(
            cuts > 300 && kept > 10 && gone > 10,
            "{name}: {cuts} cuts, {kept} kept, {gone} gone"
        );
    }
    Ok(())
}

pub(super) fn policies() -> impl Iterator<Item = (Lost, u64)> {
    let half = (0..20).map(|seed| (Lost::Half, seed));
    half.chain([(Lost::Nothing, 0), (Lost::Everything, 0)])
}

#[test]
fn a_power_cut_while_the_store_is_opened_loses_nothing() -> Result<()> {
    for number in 0.. {
        let (fs, store, old) = with_one()?;
        let mut unfinished = store.create(meta(1, 5, 20))?;
        unfinished.write_all(&content()).map_err(own)?;
        let fs = fs.after_kill();
        let before = fs.operations();
        fs.cut_at(before + number);
        let opened = open_dir(&fs, Compression::Lz4).is_ok();
        for (lost, seed) in policies() {
            let what = format!("opening cut at {number}, {lost:?} lost, seed {seed}");
            assert!(!check_after(&fs.after_power_cut(lost, seed), &old, &what)?);
        }
        if opened {
            assert!(number > 5, "only {number} operations were cut");
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn a_snapshot_that_a_reopened_store_lists_survives_a_power_cut() -> Result<()> {
    for (name, action) in ACTIONS {
        let mut listed = 0;
        for number in 0..operations(action)? {
            let (fs, store, old) = with_one()?;
            fs.cut_at(fs.operations() + number);
            action(&store).expect_err("the process is killed before it is done");
            // The process dies, the machine does not; then it does, after the store was opened.
            let fs = fs.after_kill();
            let found = open_dir(&fs, Compression::Lz4)?.list(None)?.len();
            let what = format!("{name} killed at {number}");
            let there = check_after(&fs.after_power_cut(Lost::Everything, 0), &old, &what)?;
            assert_eq!(there, found == 2, "{what}: listed, then lost");
            listed += u32::from(found == 2);
        }
        assert!(
            listed > 0,
            "{name}: no kill fell between rename and directory sync"
        );
    }
    Ok(())
}

#[test]
fn a_failure_of_every_operation_is_typed_and_leaves_nothing() -> Result<()> {
    for (name, action) in ACTIONS {
        let mut failures = 0;
        for number in 0..operations(action)? {
            for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                let (fs, store, old) = with_one()?;
                let at = fs.operations() + number;
                fs.fail_at(at, kind);
                let outcome = action(&store);
                let what = format!("{name}, {kind:?} at {number}");
                let fits = match kind {
                    ErrorKind::StorageFull => matches!(outcome, Err(Error::DiskFull { .. })),
                    _ => matches!(outcome, Err(Error::Io { .. })),
                };
                assert!(fits, "{what}: {outcome:?}");
                assert_eq!(names(&fs)?, [PathBuf::from("1-5-10-0.snap")], "{what}");
                assert_eq!(store.list(None)?, std::slice::from_ref(&old), "{what}");
                no_sync_is_retried(&fs, at as usize, &what);
                assert_eq!(
                    action(&store)?.key.id.sequence,
                    0,
                    "{what}: the store is usable"
                );
                drop(store);
                assert!(check_after(
                    &fs.after_power_cut(Lost::Everything, 0),
                    &old,
                    &what
                )?);
                failures += 1;
            }
        }
        assert!(failures > 20, "{name}: {failures} failures");
    }
    Ok(())
}

/// After a failed sync there is no other until the next attempt.
pub(super) fn no_sync_is_retried(fs: &MemFs, at: usize, what: &str) {
    let history = fs.history();
    if history[at].0.starts_with("sync") {
        let again = history[at + 1..]
            .iter()
            .find(|(op, _)| op.starts_with("sync"));
        assert_eq!(again, None, "{what}");
    }
}

#[test]
fn a_full_disk_at_every_byte_is_told_apart_and_leaves_room_again() -> Result<()> {
    let (fs, store, _) = with_one()?;
    let used = fs.open(&path_of(&store.list(None)?[0].key))?.length()?;
    let needed = create_one(&store)?.file_bytes;
    for free in (0..needed).step_by(7) {
        let (fs, store, old) = with_one()?;
        fs.set_space(used + free);
        assert!(
            matches!(create_one(&store), Err(Error::DiskFull { .. })),
            "{free} bytes free"
        );
        assert_eq!(names(&fs)?.len(), 1, "{free} bytes free");
        assert_eq!(read(&store, &old.key)?, b"committed before");
        // Reopening works while the disk is full.
        drop(store);
        let store = open_dir(&fs, Compression::Lz4)?;
        fs.set_space(used + needed);
        create_one(&store)?;
    }
    Ok(())
}

#[test]
fn a_failed_delete_leaves_the_snapshot_or_nothing() -> Result<()> {
    for number in 0..2 {
        let (fs, store, old) = with_one()?;
        fs.fail_at(fs.operations() + number, ErrorKind::Other);
        assert!(
            matches!(store.delete(&old.key), Err(Error::Io { .. })),
            "operation {number}"
        );
        let listed = store.list(None)?.len();
        assert_eq!(listed, names(&fs)?.len());
        assert_eq!(listed, if number == 0 { 1 } else { 0 });
        store.delete(&old.key)?;
        assert!(names(&fs)?.is_empty());
    }
    Ok(())
}

#[test]
fn a_deleted_snapshot_stays_deleted() -> Result<()> {
    let (fs, store, old) = with_one()?;
    store.delete(&old.key)?;
    drop(store);
    let after = fs.after_power_cut(Lost::Everything, 0);
    assert!(open_dir(&after, Compression::Lz4)?.list(None)?.is_empty());
    Ok(())
}

#[test]
fn a_read_that_fails_is_an_io_error_and_not_damage() -> Result<()> {
    let (fs, store, old) = with_one()?;
    for number in 0.. {
        let at = fs.operations() + number;
        fs.fail_at(at, ErrorKind::Other);
        match store.verify(&old.key) {
            Err(Error::Io { .. }) => {}
            Ok(_) if fs.operations() <= at => return Ok(()),
            other => panic!("operation {number}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn an_open_store_is_locked_until_its_last_user_is_gone() -> Result<()> {
    let (fs, store, info) = with_one()?;
    let locked = || {
        matches!(
            open_dir(&fs, Compression::Lz4).map(drop),
            Err(Error::Locked { .. })
        )
    };
    assert!(locked());
    let reader = store.open(&info.key)?;
    drop(store);
    assert!(locked(), "a reader still needs its file");
    drop(reader);
    assert!(!locked());
    Ok(())
}

#[test]
fn no_name_of_another_waits_while_the_directory_is_synced() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    std::thread::scope(|scope| {
        for region in 1..=4 {
            let store = &store;
            scope.spawn(move || {
                for index in 1..=200 {
                    create(store, meta(region, 5, index), b"small").unwrap();
                }
            });
        }
    });
    let names = ["rename", "sync directory"];
    let history = fs.history();
    let history: Vec<&str> = (history.iter().map(|(what, _)| *what))
        .filter(|what| names.contains(what))
        .collect();
    let renames = history.iter().filter(|what| **what == names[0]).count();
    assert_eq!(renames, 800, "the operations have these names");
    assert!(history.windows(2).all(|two| two != [names[0]; 2]));
    Ok(())
}
