//! Bytes on disk that are not what was written.

use peerstore::{RegionId, SnapshotPart};

use super::*;

/// As a file of the next version: its preamble is whole.
pub(super) fn newer_version(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_flipped_bit_gives_an_error_or_nothing_and_never_wrong_bytes() -> Result<()> {
    for compression in COMPRESSIONS {
        let fs = MemFs::new();
        let store = open_dir(&fs, compression)?;
        let content = sample(0, 150);
        let info = create(&store, meta(1, 5, 10), &content)?;
        let bytes = image(&store, &info.key)?;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            overwrite(&fs, &info.key, &flipped)?;
            // In the open store, and in one that is opened anew.
            let result = read(&store, &info.key);
            assert!(matches!(result, Err(Error::Corruption { .. })), "bit {bit}");
            assert!(!store.verify(&info.key)?.is_intact(), "bit {bit}");
            let reopened = open_dir(&fs.after_kill(), compression)?;
            assert!(read(&reopened, &info.key).is_err(), "bit {bit}");
        }
    }
    Ok(())
}

#[test]
fn verify_names_the_block_and_what_was_found() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let info = create(&store, meta(7, 5, 10), &sample(0, 300))?;
    let mut bytes = image(&store, &info.key)?;
    let footer_and_last_blocks = 68 + (300 - 3 * 64) + 2 * 12;
    let third_of_five = bytes.len() - footer_and_last_blocks - 1;
    bytes[third_of_five] ^= 1;
    overwrite(&fs, &info.key, &bytes)?;
    let report = store.verify(&info.key)?;
    let [damage] = &report.damage[..] else {
        panic!("one flipped bit, found: {report}");
    };
    assert_eq!(damage.part, SnapshotPart::Block(2));
    let block_2 = bytes.len() - (68 + (300 - 2 * 64) + 3 * 12);
    assert_eq!(damage.offset, block_2 as u64);
    assert_eq!((report.blocks, report.content_bytes), (4, 300 - 64));
    let text = report.to_string();
    for part in ["7-5-10-0", "block 2 at offset", "crc 0x", "computed 0x"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // What is before the damage can be read.
    let mut first = [0; 128];
    store.open(&info.key)?.read_exact(&mut first).map_err(own)?;
    assert_eq!(first, sample(0, 300)[..128]);
    Ok(())
}

#[test]
fn a_damaged_snapshot_is_left_out_of_the_list_and_the_others_are_served() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let mut keys = Vec::new();
    for region in 1..=20 {
        keys.push(create(&store, meta(region, 5, 10), &sample(region as u8, 200))?.key);
    }
    let newer = newer_version(image(&store, &keys[1])?);
    drop(store);
    overwrite(&fs, &keys[0], b"nothing like a snapshot")?;
    overwrite(&fs, &keys[1], &newer)?;
    let store = open_dir(&fs, Compression::Lz4)?;
    assert_eq!(store.list(None)?.len(), 18);
    assert!(store.list(Some(RegionId(1)))?.is_empty());
    assert!(matches!(
        store.open(&keys[0]).map(drop),
        Err(Error::Corruption { .. })
    ));
    let report = store.verify(&keys[0])?;
    assert_eq!(report.damage[0].part, SnapshotPart::Header, "{report}");
    let unsupported = |e| matches!(e, Err(Error::UnsupportedVersion { got: 3, max: 2, .. }));
    assert!(unsupported(store.open(&keys[1]).map(drop)));
    assert!(unsupported(store.verify(&keys[1]).map(drop)));
    for (key, region) in keys.iter().zip(1u8..).skip(2) {
        assert_eq!(read(&store, key)?, sample(region, 200));
    }
    // Its name stays taken until it is deleted.
    assert_eq!(create(&store, meta(1, 5, 10), b"again")?.key.id.sequence, 1);
    store.delete(&keys[0])?;
    assert!(!fs.exists(&path_of(&keys[0]))?);
    Ok(())
}

#[test]
fn a_snapshot_under_the_name_of_another_is_refused() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let mine = create(&store, meta(1, 5, 10), b"mine")?;
    let other = create(&store, meta(2, 5, 10), b"other")?;
    overwrite(&fs, &mine.key, &image(&store, &other.key)?)?;
    assert!(matches!(
        read(&store, &mine.key),
        Err(Error::Corruption { .. })
    ));
    drop(store);
    assert_eq!(open_dir(&fs, Compression::None)?.list(None)?, [other]);
    Ok(())
}

#[test]
fn a_transfer_replaces_a_copy_that_was_damaged() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let content = sample(0, 300);
    let info = create(&store, meta(1, 5, 10), &content)?;
    let good = image(&store, &info.key)?;
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1; // in a block: head and foot are as they were
    overwrite(&fs, &info.key, &bad)?;
    let received = receive(&store, &good)?;
    assert_ne!(received.key, info.key);
    assert_eq!(read(&store, &received.key)?, content);
    Ok(())
}

#[test]
fn files_of_every_compression_are_read_whatever_the_options_say() -> Result<()> {
    let fs = MemFs::new();
    let mut keys = Vec::new();
    for (compression, index) in COMPRESSIONS.into_iter().zip(1..) {
        let store = open_dir(&fs, compression)?;
        keys.push(create(&store, meta(1, 5, index), &sample(index as u8, 300))?.key);
    }
    for compression in COMPRESSIONS {
        let store = open_dir(&fs, compression)?;
        assert_eq!(store.list(None)?.len(), COMPRESSIONS.len());
        for (key, seed) in keys.iter().zip(1u8..) {
            assert_eq!(read(&store, key)?, sample(seed, 300));
        }
    }
    Ok(())
}

#[test]
fn foreign_names_and_symbolic_links_are_left_alone() -> Result<()> {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("snapshots");
    let open = || SnapshotDir::open(Arc::new(DiskFs), &dir, options(Compression::Lz4));
    let info = create(&open()?, meta(1, 5, 10), b"content")?;
    let outside = temp.path().join("outside");
    std::fs::rename(dir.join("1-5-10-0.snap"), &outside).expect("a rename");
    let foreign = ["notes.tmp", "01-5-10-0.snap", "1-5-10-0.snap.bak", "readme"];
    for name in foreign {
        std::fs::write(dir.join(name), b"not ours").expect("a file");
    }
    std::fs::write(dir.join("3.tmp"), b"unfinished").expect("a file");
    std::os::unix::fs::symlink(&outside, dir.join("1-5-10-0.snap")).expect("a link");
    let store = open()?;
    assert!(store.list(None)?.is_empty());
    assert!(matches!(
        store.open(&info.key).map(drop),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        store.send(&info.key).map(drop),
        Err(Error::Io { .. })
    ));
    for name in foreign {
        assert!(dir.join(name).exists(), "{name}");
    }
    assert!(
        !dir.join("3.tmp").exists(),
        "what was unfinished is removed"
    );
    store.delete(&info.key)?;
    assert!(outside.exists(), "the link went, not what it pointed to");
    Ok(())
}
