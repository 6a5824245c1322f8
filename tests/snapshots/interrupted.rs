//! Power cuts and failures at every operation of a transfer in more than one try, and of cleaning up.

use std::io::ErrorKind;
use std::time::SystemTime;

use peerstore::memory::Lost;
use peerstore::{CleanUp, Retention};

use super::faults::{no_sync_is_retried, policies};
use super::*;

/// A file of several blocks that another store sends.
fn elsewhere() -> Result<(SnapshotTransfer, Vec<u8>)> {
    let other = MemorySnapshots::new();
    let info = create(&other, meta(1, 5, 20), &sample(9, 1500))?;
    Ok((SnapshotTransfer::of(&info), image(&other, &info.key)?))
}

/// A store with one snapshot that is committed.
fn with_one() -> Result<(MemFs, SnapshotDir, SnapshotInfo)> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let info = create(&store, meta(1, 5, 10), b"committed before")?;
    Ok((fs, store, info))
}

/// The transfer in two tries.
fn send_in_two(
    store: &dyn RaftSnapshotStorage,
    (transfer, bytes): &(SnapshotTransfer, Vec<u8>),
) -> Result<SnapshotInfo> {
    send_until(store, transfer, bytes, bytes.len() / 2)?;
    send_rest(store, transfer, bytes)
}

#[test]
fn a_failure_of_every_operation_of_a_transfer_leaves_it_to_the_next_try() -> Result<()> {
    let file = elsewhere()?;
    let mut failures = 0;
    for number in 0.. {
        let (fs, store, old) = with_one()?;
        let before = fs.operations();
        if send_in_two(&store, &file).is_ok() && before + number >= fs.operations() {
            break;
        }
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let (fs, store, _) = with_one()?;
            let at = fs.operations() + number;
            fs.fail_at(at, kind);
            let outcome = send_in_two(&store, &file);
            let what = format!("{kind:?} at {number}");
            let fits = match kind {
                ErrorKind::StorageFull => matches!(outcome, Err(Error::DiskFull { .. })),
                _ => matches!(outcome, Err(Error::Io { .. })),
            };
            assert!(fits, "{what}: {outcome:?}");
            no_sync_is_retried(&fs, at as usize, &what);
            let listed = store.list(None)?;
            assert_eq!(listed.len(), 1, "{what}");
            assert_eq!(listed[0].meta, old.meta);
            // What could not be written or synced is not believed again.
            let (failed, _) = fs.history()[at as usize].clone();
            let may_stay = usize::from(!failed.starts_with("write") && !failed.starts_with("sync"));
            let left = names(&fs)?;
            assert!(left.len() <= 1 + may_stay, "{what}, {failed}: {left:?}");
            let received = send_rest(&store, &file.0, &file.1)?;
            assert_eq!(received.key.id.sequence, 0, "{what}");
            assert_eq!(names(&fs)?.len(), 2, "{what}: something is left over");
            assert_eq!(image(&store, &received.key)?, file.1, "{what}");
            failures += 1;
        }
    }
    assert!(failures > 60, "{failures} failures");
    Ok(())
}

#[test]
fn a_power_cut_at_every_operation_of_a_transfer_leaves_it_whole_or_to_go_on() -> Result<()> {
    let file = elsewhere()?;
    let (mut kept, mut gone) = (0, 0);
    for number in 0.. {
        let (fs, store, _) = with_one()?;
        fs.cut_at(fs.operations() + number);
        let outcome = send_in_two(&store, &file);
        for (lost, seed) in policies() {
            let what = format!("cut at {number}, {lost:?} lost, seed {seed}");
            let fs = fs.after_power_cut(lost, seed);
            let store = open_dir(&fs, Compression::Lz4)?;
            let listed = store.list(None)?;
            assert!(listed.len() == 2 || outcome.is_err(), "{what}: lost");
            assert_eq!(read(&store, &listed[0].key)?, b"committed before");
            for info in &listed[1..] {
                assert_eq!(image(&store, &info.key)?, file.1, "{what}");
            }
            kept += u32::from(listed.len() == 2);
            gone += u32::from(listed.len() == 1);
            let received = send_rest(&store, &file.0, &file.1)?;
            assert_eq!(received.key.id.sequence, 0, "{what}");
            assert_eq!(names(&fs)?.len(), 2, "{what}: something is left over");
        }
        if outcome.is_ok() {
            break;
        }
    }
    assert!(kept > 10 && gone > 300, "{kept} kept, {gone} gone");
    Ok(())
}

/// A store with five snapshots of a region.
fn with_five() -> Result<(MemFs, SnapshotDir)> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    for index in [10, 20, 30, 40, 50] {
        create(&store, meta(1, 5, index), &sample(index as u8, 300))?;
    }
    Ok((fs, store))
}

fn clean_up(store: &dyn RaftSnapshotStorage) -> Result<CleanUp> {
    let truncated = |_| Some(15);
    store.clean_up(&Retention::keep_latest(1), &truncated, SystemTime::now())
}

/// Those that must be there, and that nothing else is damaged.
fn check_cleaned(fs: &MemFs, what: &str) -> Result<()> {
    let store = open_dir(fs, Compression::Lz4)?;
    let listed = store.list(None)?;
    for info in &listed {
        let index = info.meta.position.index;
        assert_eq!(read(&store, &info.key)?, sample(index as u8, 300), "{what}");
    }
    let left: Vec<u64> = (listed.iter()).map(|i| i.meta.position.index).collect();
    assert!(left.contains(&20) && left.contains(&50), "{what}: {left:?}");
    assert_eq!(names(fs)?.len(), listed.len(), "{what}");
    clean_up(&store)?;
    assert_eq!(store.list(None)?.len(), 2, "{what}");
    Ok(())
}

#[test]
fn a_failure_while_cleaning_up_does_not_keep_the_others() -> Result<()> {
    let (fs, store) = with_five()?;
    let before = fs.operations();
    assert_eq!(clean_up(&store)?.removed, 3);
    for number in 0..fs.operations() - before {
        let (fs, store) = with_five()?;
        fs.fail_at(fs.operations() + number, ErrorKind::Other);
        let failed = clean_up(&store);
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        let left = store.list(None)?.len();
        assert!(left <= 3, "operation {number}: {left} are left");
        assert_eq!(left, names(&fs)?.len());
        drop(store);
        check_cleaned(&fs, &format!("failure of {number}"))?;
    }
    Ok(())
}

#[test]
fn a_power_cut_while_cleaning_up_takes_nothing_that_is_needed() -> Result<()> {
    for number in 0.. {
        let (fs, store) = with_five()?;
        fs.cut_at(fs.operations() + number);
        let done = clean_up(&store).is_ok();
        for (lost, seed) in policies() {
            let after = fs.after_power_cut(lost, seed);
            check_cleaned(&after, &format!("cut at {number}, seed {seed}"))?;
            if done && lost == Lost::Everything {
                assert_eq!(names(&after)?.len(), 2, "acknowledged and back again");
            }
        }
        if done {
            return Ok(());
        }
    }
    Ok(())
}
