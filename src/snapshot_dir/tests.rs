//! Names and options.

use super::*;
use crate::memory::MemFs; // a test may look sideways

#[test]
fn only_names_that_the_store_would_build_are_its_own() {
    let key = parse_snapshot_name("7-5-42-0.snap").expect("a name of ours");
    assert_eq!(
        (key.region.0, key.id.term, key.id.index, key.id.sequence),
        (7, 5, 42, 0)
    );
    let foreign = [
        "",
        ".snap",
        "..",
        "../1-2-3-4.snap",
        "/1-2-3-4.snap",
        "1-2-3.snap",
        "1-2-3-4-5.snap",
        "01-2-3-4.snap",
        "+1-2-3-4.snap",
        "1-2-3-4.snap.tmp",
        "1-2-3-4\0.snap",
        "1-2-3-x.snap",
        "1--3-4.snap",
        "1-2-3-99999999999999999999.snap",
        "1-2-3-4",
        "1-2-3-4.SNAP",
        "LOCK",
    ];
    for name in foreign {
        assert_eq!(parse_snapshot_name(name), None, "{name:?}");
    }
    assert!(is_staged_name("12.tmp"));
    for name in [
        ".tmp",
        "a.tmp",
        "012.tmp",
        "-1.tmp",
        "12.snap",
        "1-2-3-4.tmp",
        "../1.tmp",
    ] {
        assert!(!is_staged_name(name), "{name:?}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_touched() {
    let fs = Arc::new(MemFs::new());
    let zstd = |level| SnapshotOptions {
        compression: Compression::Zstd { level },
        ..SnapshotOptions::default()
    };
    let blocks = |block_bytes| SnapshotOptions {
        block_bytes,
        ..SnapshotOptions::default()
    };
    for options in [
        zstd(0),
        zstd(23),
        zstd(-1),
        blocks(0),
        blocks(BLOCK_BYTES_MAX + 1),
    ] {
        let refused = SnapshotDir::open(fs.clone(), "snapshots", options).map(drop);
        assert!(matches!(refused, Err(Error::Config { .. })), "{options:?}");
    }
    assert_eq!(fs.operations(), 0);
}
