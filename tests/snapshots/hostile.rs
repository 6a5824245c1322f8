//! Files and names that somebody has made up.

use std::io::{Seek, SeekFrom};

use peerstore::{Codec, SnapshotPart};

use super::*;

/// What a file of one block of `raw_len` bytes needs, with every checksum right, but whose content is
/// the caller's: a store would not write it.
fn forge(codec: u8, block_bytes: u32, raw_len: u32, stored: &[u8], digest: [u8; 32]) -> Vec<u8> {
    let store = MemorySnapshots::new();
    let empty = create(&store, meta(1, 5, 10), b"").expect("memory");
    let mut bytes = image(&store, &empty.key).expect("memory");
    let header_bytes = bytes.len() - 68;
    bytes.truncate(header_bytes);
    bytes[16] = codec;
    bytes[17..21].copy_from_slice(&block_bytes.to_le_bytes());
    let identity: [u8; 8] = bytes[21..29].try_into().expect("8 bytes");
    let crc = crc32c::crc32c(&bytes[..header_bytes - 4]);
    bytes[header_bytes - 4..].copy_from_slice(&crc.to_le_bytes());
    let mut lengths = raw_len.to_le_bytes().to_vec();
    lengths.extend((stored.len() as u32).to_le_bytes());
    let checked = [&identity[..], &[0; 8], &lengths, stored].concat();
    bytes.extend(&lengths);
    bytes.extend(crc32c::crc32c(&checked).to_le_bytes());
    bytes.extend(stored);
    let mut footer = 0u64.to_le_bytes().to_vec();
    footer.extend(u64::from(raw_len).to_le_bytes());
    footer.extend(1u64.to_le_bytes());
    footer.extend(digest);
    let crc = crc32c::crc32c(&[&identity[..], &footer].concat());
    bytes.extend(footer);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(b"snap.end");
    bytes
}

fn gzip(raw: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    gzip.write_all(raw).expect("a vector takes all");
    gzip.finish().expect("a vector takes all")
}

/// 64 MiB of zeros, by each codec.
fn bombs() -> [(u8, Vec<u8>); 3] {
    let zeros = vec![0; 64 << 20];
    [
        (1, lz4_flex::block::compress(&zeros)),
        (2, zstd::bulk::compress(&zeros, 3).expect("zeros")),
        (3, gzip(&zeros)),
    ]
}

#[test]
fn a_decompression_bomb_is_refused_and_nothing_has_changed() -> Result<()> {
    let fs = MemFs::new();
    let dir = open_dir(&fs, Compression::Lz4)?;
    let memory = MemorySnapshots::new();
    for store in [&dir as &dyn RaftSnapshotStorage, &memory] {
        let old = create(store, meta(1, 5, 10), b"there before")?;
        for (codec, bomb) in bombs() {
            let block = 1 << 20;
            let file = forge(codec, block, block, &bomb, [0; 32]);
            // The declared size is all the memory that it gets.
            let refused = receive(store, &file);
            let Err(Error::Corruption { detail, .. }) = refused else {
                panic!("codec {codec}: {refused:?}");
            };
            assert!(detail.starts_with("block 0 at offset"), "{codec}: {detail}");
            // Announced as larger than a block may be.
            let file = forge(codec, 64 << 20, 64 << 20, &bomb, [0; 32]);
            let refused = receive(store, &file);
            let Err(Error::Corruption { detail, .. }) = refused else {
                panic!("codec {codec}: {refused:?}");
            };
            assert!(
                detail.contains("expected 1 to 1048576"),
                "{codec}: {detail}"
            );
            assert_eq!(store.list(None)?, std::slice::from_ref(&old));
        }
    }
    assert_eq!(names(&fs)?, [Path::new("1-5-10-0.snap")]);
    Ok(())
}

#[test]
fn bytes_between_the_last_block_and_the_footer_are_refused() -> Result<()> {
    let content = b"content".to_vec();
    let digest = *blake3::hash(&content).as_bytes();
    let mut file = forge(0, 64, content.len() as u32, &content, digest);
    let footer = file.len() - 68;
    file.splice(footer..footer, [0; 3]);
    let fs = MemFs::new();
    let refused = receive(&open_dir(&fs, Compression::Lz4)?, &file);
    let Err(Error::Corruption { detail, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(detail.contains("the last block ends"), "{detail}");
    assert!(names(&fs)?.is_empty());
    Ok(())
}

#[test]
fn a_footer_with_another_number_of_blocks_is_refused() -> Result<()> {
    let content = b"content".to_vec();
    let digest = *blake3::hash(&content).as_bytes();
    for count in [0u64, 2, u64::MAX] {
        let mut file = forge(0, 64, content.len() as u32, &content, digest);
        let footer = file.len() - 68;
        file[footer + 16..footer + 24].copy_from_slice(&count.to_le_bytes());
        let crc = crc32c::crc32c(&[&file[21..29], &file[footer..footer + 56]].concat());
        file[footer + 56..footer + 60].copy_from_slice(&crc.to_le_bytes());
        let fs = MemFs::new();
        let refused = receive(&open_dir(&fs, Compression::Lz4)?, &file);
        let Err(Error::Corruption { detail, .. }) = refused else {
            panic!("{count}: {refused:?}");
        };
        assert!(
            detail.contains("blocks for 7 bytes, expected 1"),
            "{detail}"
        );
        assert!(names(&fs)?.is_empty());
    }
    Ok(())
}

#[test]
fn a_digest_that_does_not_match_is_refused_received_and_reported_stored() -> Result<()> {
    let content = b"content".to_vec();
    let raw = content.len() as u32;
    let right = forge(0, 64, raw, &content, *blake3::hash(&content).as_bytes());
    let wrong = forge(0, 64, raw, &content, *blake3::hash(b"other").as_bytes());
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::Lz4)?;
    let refused = receive(&store, &wrong);
    let Err(Error::Corruption { detail, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(detail.starts_with("digest"), "{detail}");
    assert!(names(&fs)?.is_empty());
    let info = receive(&store, &right)?;
    assert_eq!(info.codec, Codec::None);
    overwrite(&fs, &info.key, &wrong)?;
    let report = store.verify(&info.key)?;
    assert_eq!(report.damage.len(), 1, "{report}");
    assert_eq!(report.damage[0].part, SnapshotPart::Digest);
    assert_eq!(
        (report.blocks, report.content_bytes),
        (1, 7),
        "its block is right"
    );
    Ok(())
}

#[test]
fn no_name_of_a_snapshot_leads_out_of_its_directory() -> Result<()> {
    // Names are built from integers: the largest ones are names as well, and nothing but that.
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let info = create(&store, meta(u64::MAX, u64::MAX, u64::MAX), b"content")?;
    let max = u64::MAX;
    assert_eq!(
        names(&fs)?,
        [PathBuf::from(format!("{max}-{max}-{max}-0.snap"))]
    );
    let bytes = image(&store, &info.key)?;
    let transfer = SnapshotTransfer {
        file_id: u64::MAX,
        ..SnapshotTransfer::of(&info)
    };
    send_until(&store, &transfer, &bytes, 100)?;
    assert!(
        names(&fs)?
            .iter()
            .all(|name| name.components().count() == 1)
    );
    Ok(())
}

#[test]
fn what_lies_about_under_other_names_is_not_touched() -> Result<()> {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("snapshots");
    let open = || SnapshotDir::open(Arc::new(DiskFs), &dir, options(Compression::Lz4));
    let info = create(&open()?, meta(1, 5, 10), b"content")?;
    let bytes = image(&open()?, &info.key)?;
    let transfer = SnapshotTransfer {
        file_id: 9,
        ..SnapshotTransfer::of(&info)
    };
    // A part that is a link to something outside is refused, and what it points to stays.
    let outside = temp.path().join("outside");
    std::fs::write(&outside, b"precious").expect("a file");
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let begun = begun.expect("after 1970").as_secs();
    let link = dir.join(format!("1-5-10-0-9-{begun}.part"));
    std::os::unix::fs::symlink(&outside, &link).expect("a link");
    let store = open()?;
    let refused = store.resume(&transfer).map(drop);
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&outside).expect("a file"), b"precious");
    std::fs::remove_file(&link).expect("the link");
    assert_eq!(send_rest(&store, &transfer, &bytes)?, info, "the twin");
    // A directory with the name of a snapshot, or of a part.
    std::fs::create_dir(dir.join("2-5-10-0.snap")).expect("a directory");
    drop(store);
    let store = open()?;
    assert_eq!(store.list(None)?, [info]);
    assert!(dir.join("2-5-10-0.snap").is_dir());
    Ok(())
}

#[test]
fn a_reader_that_is_moved_never_gives_out_what_was_not_checked() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let content = sample(0, 640);
    let info = create(&store, meta(1, 5, 10), &content)?;
    let bytes = image(&store, &info.key)?;
    for byte in (0..bytes.len()).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[byte] ^= 0x20;
        overwrite(&fs, &info.key, &damaged)?;
        let Ok(mut reader) = store.open(&info.key) else {
            continue;
        };
        // From the last block to the first.
        for start in (0..10).rev().map(|block| block * 64 + 3) {
            let mut got = [0; 20];
            reader.seek(SeekFrom::Start(start as u64)).map_err(own)?;
            match reader.read_exact(&mut got) {
                Ok(()) => assert_eq!(got, content[start..start + 20], "byte {byte}"),
                Err(error) => {
                    assert!(matches!(own(error), Error::Corruption { .. }));
                    break;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_damaged_block_is_reported_up_to_a_limit() -> Result<()> {
    let fs = MemFs::new();
    let store = open_dir(&fs, Compression::None)?;
    let info = create(&store, meta(1, 5, 10), &sample(0, 64 * 40))?;
    let mut bytes = image(&store, &info.key)?;
    let start = bytes.len() - 68 - 40 * 76;
    for block in [3, 7, 39] {
        bytes[start + block * 76 + 20] ^= 1;
    }
    overwrite(&fs, &info.key, &bytes)?;
    let report = store.verify(&info.key)?;
    let parts: Vec<_> = report.damage.iter().map(|damage| damage.part).collect();
    let block = SnapshotPart::Block;
    assert_eq!(parts, [block(3), block(7), block(39)], "{report}");
    let offsets: Vec<u64> = report.damage.iter().map(|damage| damage.offset).collect();
    assert_eq!(offsets, [3, 7, 39].map(|block| (start + block * 76) as u64));
    assert_eq!((report.blocks, report.content_bytes), (37, 37 * 64));
    // A length that lies: nobody knows what is behind it.
    let mut lying = bytes.clone();
    lying[start + 5 * 76] ^= 1;
    overwrite(&fs, &info.key, &lying)?;
    let report = store.verify(&info.key)?;
    let parts: Vec<_> = report.damage.iter().map(|damage| damage.part).collect();
    assert_eq!(parts, [block(3), block(5)], "{report}");
    for block in 0..40 {
        bytes[start + block * 76 + 30] ^= 2;
    }
    overwrite(&fs, &info.key, &bytes)?;
    let report = store.verify(&info.key)?;
    assert_eq!(report.damage.len(), peerstore::DAMAGE_MAX);
    Ok(())
}
