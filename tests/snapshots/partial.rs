//! Files that come in more than one try, on disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerstore::memory::Lost;

use super::*;

/// Header and blocks of 64 bytes of content without compression: 76 bytes each in the file.
const BLOCK: usize = 76;

/// A file of another store, and what is in it.
fn elsewhere(region: u64, index: u64) -> Result<(SnapshotInfo, Vec<u8>)> {
    let other = open_dir(&MemFs::new(), Compression::None)?;
    let info = create(&other, meta(region, 5, index), &sample(index as u8, 1000))?;
    let bytes = image(&other, &info.key)?;
    Ok((info, bytes))
}

/// Where the first block starts.
fn header_bytes(bytes: &[u8]) -> usize {
    let blocks = 15 * BLOCK + 12 + 1000 % 64;
    bytes.len() - 68 - blocks
}

fn partials(fs: &MemFs) -> Result<Vec<PathBuf>> {
    let mut names = names(fs)?;
    names.retain(|name| name.extension().is_some_and(|end| end == "part"));
    Ok(names)
}

#[test]
fn what_has_come_is_kept_up_to_the_last_whole_block() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let header = header_bytes(&bytes);
    let transfer = SnapshotTransfer::of(&info);
    for end in (0..=bytes.len()).step_by(31) {
        let fs = MemFs::new();
        let store = open_dir(&fs, Compression::Lz4)?;
        send_until(&store, &transfer, &bytes, end)?;
        let whole = match end.checked_sub(header) {
            None => 0,
            Some(blocks) if blocks >= 15 * BLOCK + 12 + 40 => bytes.len() - 68,
            Some(blocks) => header + blocks / BLOCK * BLOCK,
        };
        // In the open store, and in one that is opened anew.
        assert_eq!(store.resume(&transfer)?.offset(), whole as u64, "{end}");
        drop(store);
        let store = open_dir(&fs, Compression::Lz4)?;
        assert_eq!(store.resume(&transfer)?.offset(), whole as u64, "{end}");
        assert_eq!(send_rest(&store, &transfer, &bytes)?, info);
        assert_eq!(image(&store, &info.key)?, bytes);
        assert_eq!(names(&fs)?, [Path::new("1-5-10-0.snap")], "nothing else");
    }
    Ok(())
}

#[test]
fn a_transfer_that_is_ended_too_early_keeps_what_has_come() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let transfer = SnapshotTransfer::of(&info);
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let end = header_bytes(&bytes) + 3 * BLOCK;
    let mut receiver = store.resume(&transfer)?;
    receiver.write_all(&bytes[..end]).expect("memory");
    let early = receiver.commit();
    assert!(matches!(early, Err(Error::Corruption { .. })), "{early:?}");
    assert_eq!(store.resume(&transfer)?.offset(), end as u64);
    assert_eq!(send_rest(&store, &transfer, &bytes)?, info);
    Ok(())
}

#[test]
fn what_was_damaged_on_the_way_is_sent_again() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let transfer = SnapshotTransfer::of(&info);
    let header = header_bytes(&bytes);
    for byte in (0..header + 5 * BLOCK).step_by(13) {
        let fs = MemFs::new();
        let store = open_dir(&fs, Compression::Lz4)?;
        let mut damaged = bytes.clone();
        damaged[byte] ^= 4;
        send_until(&store, &transfer, &damaged, header + 8 * BLOCK)?;
        let kept = match byte.checked_sub(header) {
            None => 0,
            Some(blocks) => header + blocks / BLOCK * BLOCK,
        };
        assert_eq!(
            store.resume(&transfer)?.offset(),
            kept as u64,
            "byte {byte}"
        );
        assert_eq!(send_rest(&store, &transfer, &bytes)?, info, "byte {byte}");
    }
    Ok(())
}

#[test]
fn one_receiver_at_a_time() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let transfer = SnapshotTransfer::of(&info);
    let fs = MemFs::new();
    for store in [
        &open_dir(&fs, Compression::Lz4)? as &dyn RaftSnapshotStorage,
        &MemorySnapshots::new(),
    ] {
        let mut receiver = store.resume(&transfer)?;
        receiver.write_all(&bytes[..500]).map_err(own)?;
        let second = store.resume(&transfer).map(drop);
        assert!(
            matches!(second, Err(Error::SnapshotInUse { .. })),
            "{second:?}"
        );
        // Others are not held up.
        let (other, other_bytes) = elsewhere(2, 10)?;
        send_rest(store, &SnapshotTransfer::of(&other), &other_bytes)?;
        receiver.write_all(&bytes[500..]).map_err(own)?;
        assert_eq!(receiver.commit()?, info);
        drop(store.resume(&transfer)?);
    }
    Ok(())
}

#[test]
fn a_newer_transfer_of_the_region_supersedes_what_broke_off() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let files: Vec<_> = [(1, 10), (1, 20), (2, 10)]
        .into_iter()
        .map(|(region, index)| elsewhere(region, index))
        .collect::<Result<_>>()?;
    for (info, bytes) in &files {
        send_until(&store, &SnapshotTransfer::of(info), bytes, 600)?;
    }
    let left = partials(&fs)?;
    assert_eq!(left.len(), 2, "{left:?}");
    let offset = |at: usize| -> Result<u64> {
        let transfer = SnapshotTransfer::of(&files[at].0);
        Ok(store.resume(&transfer)?.offset())
    };
    assert!(offset(2)? > 0, "of another region");
    assert!(offset(1)? > 0, "the newer one");
    assert_eq!(offset(0)?, 0, "the one before it");
    // One that is just coming is nobody's to remove.
    let (info, bytes) = &files[0];
    let mut coming = store.resume(&SnapshotTransfer::of(info))?;
    let (newer, newer_bytes) = &files[1];
    send_until(&store, &SnapshotTransfer::of(newer), newer_bytes, 600)?;
    assert_eq!(partials(&fs)?.len(), 3);
    coming.write_all(bytes).map_err(own)?;
    assert_eq!(coming.commit()?, *info);
    Ok(())
}

#[test]
fn what_broke_off_long_ago_is_removed() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let fs = MemFs::new();
    drop(open_dir(&fs, Compression::Lz4)?);
    let name = |region: u64, begun: u64| format!("{region}-5-10-0-77-{begun}.part");
    let (old, young) = (name(1, now - 25 * 3600), name(2, now - 23 * 3600));
    let future = name(3, now + 3600);
    let foreign = ["1-5-10-0-77.part", "01-5-10-0-77-1.part", "x.part"];
    for name in [&old[..], &young, &future].iter().chain(&foreign) {
        fs.create(&Path::new(DIR).join(name))?;
    }
    let store = open_dir(&fs, Compression::Lz4)?;
    let there = |name: &str| fs.exists(&Path::new(DIR).join(name));
    assert!(!there(&old)? && there(&young)? && there(&future)?);
    for name in foreign {
        assert!(there(name)?, "{name} is not ours");
    }
    // A store that stays open looks when a file begins to come, of whichever region.
    fs.create(&Path::new(DIR).join(&old))?;
    let (info, _) = elsewhere(4, 10)?;
    drop(store.resume(&SnapshotTransfer::of(&info))?);
    assert!(!there(&old)? && there(&young)? && there(&future)?);
    drop(store);
    let options = SnapshotOptions {
        partial_age_max: Duration::from_secs(3600),
        ..options(Compression::Lz4)
    };
    drop(SnapshotDir::open(Arc::new(fs.clone()), DIR, options)?);
    assert!(!there(&young)?);
    Ok(())
}

#[test]
fn a_part_that_is_longer_than_the_file_or_not_of_it_is_given_up() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let (_, of_another) = elsewhere(1, 20)?;
    // The same snapshot, but written another time: its blocks do not fit.
    let (_, again) = elsewhere(1, 10)?;
    let transfer = SnapshotTransfer::of(&info);
    let longer = [&bytes[..], &[0; 100]].concat();
    let others = [
        &longer[..],
        &of_another,
        &again,
        b"",
        b"nothing like a snapshot",
    ];
    for content in others {
        let fs = MemFs::new();
        let store = open_dir(&fs, Compression::Lz4)?;
        send_until(&store, &transfer, &bytes, 300)?;
        let path = Path::new(DIR).join(&partials(&fs)?[0]);
        fs.remove(&path)?;
        fs.create(&path)?.write_all_at(content, 0)?;
        assert_eq!(store.resume(&transfer)?.offset(), 0);
        assert_eq!(send_rest(&store, &transfer, &bytes)?, info);
        assert_eq!(image(&store, &info.key)?, bytes);
    }
    Ok(())
}

#[test]
fn a_file_beyond_the_limit_is_not_even_begun() -> Result<()> {
    let fs = MemFs::new();
    let options = SnapshotOptions {
        file_bytes_max: 1000,
        ..options(Compression::Lz4)
    };
    let dir = SnapshotDir::open(Arc::new(fs.clone()), DIR, options)?;
    let (info, _) = elsewhere(1, 10)?;
    for file_bytes in [1001, u64::MAX] {
        let transfer = SnapshotTransfer {
            file_bytes,
            ..SnapshotTransfer::of(&info)
        };
        for store in [
            &dir as &dyn RaftSnapshotStorage,
            &MemorySnapshots::with_file_bytes_max(1000),
        ] {
            let refused = store.resume(&transfer).map(drop);
            let Err(Error::Io { source, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
        }
    }
    assert!(names(&fs)?.is_empty());
    Ok(())
}

#[test]
fn a_power_cut_while_a_file_comes_loses_nothing_but_time() -> Result<()> {
    let (info, bytes) = elsewhere(1, 10)?;
    let transfer = SnapshotTransfer::of(&info);
    let (mut went_on, mut began) = (0, 0);
    for end in (100..bytes.len()).step_by(97) {
        for seed in 0..20 {
            let fs = MemFs::new();
            let store = open_dir(&fs, Compression::Lz4)?;
            send_until(&store, &transfer, &bytes, end)?;
            let fs = fs.after_power_cut(Lost::Half, seed);
            let store = open_dir(&fs, Compression::Lz4)?;
            let offset = store.resume(&transfer)?.offset();
            assert!(offset <= end as u64, "{offset} of {end}");
            assert_eq!(send_rest(&store, &transfer, &bytes)?, info, "{end}, {seed}");
            assert_eq!(image(&store, &info.key)?, bytes);
            (went_on, began) = if offset > 0 {
                (went_on + 1, began)
            } else {
                (went_on, began + 1)
            };
        }
    }
    assert!(
        went_on > 10 && began > 10,
        "{went_on} went on, {began} began"
    );
    Ok(())
}
