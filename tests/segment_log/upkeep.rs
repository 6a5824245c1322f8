//! Space, memory, and what an open refuses.

use std::path::Path;
use std::sync::{Arc, Mutex};

use peerstore::memory::MemFs;
use peerstore::segment_log::{Laggard, SegmentLog};
use peerstore::{Durability, Error, FileSystem, LogBatch, RaftLogStorage, RegionId};

use crate::observed::Observed;
use crate::support::{DIR, Random, bytes_on_disk, content, entry, open, open_on, options, state};

/// One entry of random bytes for `region`.
fn append(log: &SegmentLog, random: &mut Random, region: u64, index: u64, bytes: usize) {
    let mut batch = LogBatch::default();
    batch.append(RegionId(region), vec![entry(index, 1, random.bytes(bytes))]);
    batch.state(RegionId(region), state(1, index));
    log.write(&batch, Durability::Synced).expect("write");
}

fn compact(log: &SegmentLog, region: u64, first: u64) {
    let mut batch = LogBatch::default();
    batch.remove(RegionId(region), 0..first);
    log.write(&batch, Durability::Buffered).expect("write");
}

#[test]
fn laggards_are_copied_and_their_segments_used_again() {
    let fs = MemFs::new();
    let told: Arc<Mutex<Vec<Laggard>>> = Arc::default();
    let tell = Arc::clone(&told);
    let mut options = options();
    options.segment_bytes = 64 << 10;
    options.on_laggards = Some(Arc::new(move |laggards: &[Laggard]| {
        tell.lock().expect("nothing panics here").extend(laggards);
    }));
    let log = open(&fs, &options).expect("open");
    let mut random = Random(1);
    for round in 1..800u64 {
        // Region 1 is never compacted, and writes one entry in forty.
        if round % 40 == 0 {
            append(&log, &mut random, 1, round / 40, 1_000);
        }
        append(&log, &mut random, 2 + round % 3, round / 3 + 1, 1_000);
        if round % 8 == 0 {
            (2..5).for_each(|region| compact(&log, region, (round / 3).saturating_sub(3)));
            log.maintain().expect("maintain");
        }
        let stats = log.segment_stats();
        let limit = 2 * stats.live_bytes + 4 * options.segment_bytes;
        let footprint = bytes_on_disk(&fs);
        assert!(
            footprint <= limit,
            "round {round}: {footprint} bytes: {stats:?}"
        );
    }
    let stats = log.segment_stats();
    assert!(stats.rotations > 10 && stats.cold_segments > 0, "{stats:?}");
    assert!(
        stats.copied_bytes > 0 && stats.copied_bytes < 200_000,
        "{stats:?}"
    );
    let told = told.lock().expect("nothing panics here");
    assert!(
        told.iter()
            .any(|l| l.region == RegionId(1) && l.first_index == 1 && l.bytes > 0)
    );
    // As many files as are used and in reserve: the others were used again, not left behind.
    let files = fs.list(Path::new(DIR)).expect("list").len() as u64;
    assert!(
        files <= stats.segments + stats.spare_segments + 3,
        "{files} files: {stats:?}"
    );
    let seen = content(&log).expect("read");
    assert_eq!(seen.0[&1].1.len(), 19);
    drop(log);
    let again = open(&fs, &options)
        .and_then(|log| content(&log))
        .expect("open");
    assert!(again == seen, "the same after it was opened again");
}

#[test]
fn a_limit_on_memory_lets_sealed_segments_forget_their_index() {
    let fs = MemFs::new();
    let mut options = options();
    options.ring_bytes = 0;
    let log = open(&fs, &options).expect("open");
    let mut random = Random(2);
    (1..150).for_each(|index| append(&log, &mut random, 1, index, 500));
    log.maintain().expect("maintain");
    let (whole, want) = (
        log.segment_stats().index_bytes,
        content(&log).expect("read"),
    );
    drop(log);
    options.index_bytes_max = 0;
    let log = open(&fs, &options).expect("open");
    log.maintain().expect("maintain");
    assert_eq!(log.segment_stats().index_bytes, 0, "an open reads no index");
    assert_eq!(content(&log).expect("read"), want);
    // Each was dropped again for the next.
    let index_bytes = log.segment_stats().index_bytes;
    assert!(index_bytes > 0 && index_bytes < whole / 2);
    log.maintain().expect("maintain");
    assert_eq!(
        log.segment_stats().index_bytes,
        0,
        "{:?}",
        log.segment_stats()
    );
    // What is removed while it is forgotten is gone, and the rest is found.
    compact(&log, 1, 70);
    let rest = log
        .read_entries(RegionId(1), 70..150, u64::MAX)
        .expect("read");
    assert_eq!(rest, want.0[&1].1[69..]);
    assert_eq!(log.read_entry(RegionId(1), 69).expect("read"), None);
}

/// More of them than are looked up at once, and so far apart that they are not kept as they were read.
#[test]
fn tens_of_thousands_of_tiny_entries_are_read_as_they_were_written() {
    let fs = MemFs::new();
    let mut options = options();
    (options.segment_bytes, options.ring_bytes) = (256 << 10, 0);
    let log = open(&fs, &options).expect("open");
    let data = |region: u64, index: u64| (region * 100_000 + index).to_le_bytes().to_vec();
    for index in 1..10_001 {
        let mut batch = LogBatch::default();
        for region in 1..6 {
            batch.append(RegionId(region), vec![entry(index, 1, data(region, index))]);
        }
        log.write(&batch, Durability::Buffered).expect("write");
    }
    log.maintain().expect("maintain");
    for (range, bytes_max) in [
        (1..10_001, u64::MAX),
        (17..9_999, u64::MAX),
        (5..10_001, 1000),
    ] {
        let read = log
            .read_entries(RegionId(3), range.clone(), bytes_max)
            .expect("read");
        let is_whole = bytes_max == u64::MAX;
        assert!(read.len() as u64 == range.end - range.start || !is_whole && !read.is_empty());
        for (entry, index) in read.iter().zip(range) {
            assert_eq!((entry.index, entry.data.to_vec()), (index, data(3, index)));
        }
    }
}

#[test]
fn a_cold_read_reads_what_it_returns() {
    let fs = MemFs::new();
    let mut options = options();
    (options.segment_bytes, options.ring_bytes) = (1 << 20, 0);
    let log = open(&fs, &options).expect("open");
    let mut random = Random(3);
    for index in 1..65 {
        let mut batch = LogBatch::default();
        for region in 1..65 {
            batch.append(RegionId(region), vec![entry(index, 1, random.bytes(100))]);
        }
        log.write(&batch, Durability::Synced).expect("write");
    }
    let before = log.segment_stats().read_bytes;
    let read = log
        .read_entries(RegionId(30), 1..65, u64::MAX)
        .expect("read");
    let bytes = log.segment_stats().read_bytes - before;
    assert_eq!(read.len(), 64);
    // Entries of 64 regions lie between: they are less than a gap, and so read with it.
    assert!(bytes < 64 * 64 * 130, "{bytes} bytes");
    log.read_entry(RegionId(30), 7).expect("read");
    let one = log.segment_stats().read_bytes - before - bytes;
    assert!(one < 120, "{one} bytes for one entry");
}

#[test]
fn a_batch_larger_than_a_segment_fits() {
    let fs = MemFs::new();
    let log = open(&fs, &options()).expect("open");
    let mut random = Random(4);
    append(&log, &mut random, 1, 1, 100_000);
    append(&log, &mut random, 1, 2, 10);
    let want = content(&log).expect("read");
    assert_eq!(
        open(&fs.after_kill(), &options())
            .and_then(|l| content(&l))
            .expect("open"),
        want
    );
}

#[test]
fn an_append_that_is_not_contiguous_is_refused() {
    let log = open(&MemFs::new(), &options()).expect("open");
    for indexes in [vec![1, 3], vec![2, 2], vec![u64::MAX]] {
        let mut batch = LogBatch::default();
        let entries = indexes.iter().map(|i| entry(*i, 1, Vec::new())).collect();
        batch.append(RegionId(1), entries);
        let refused = log.write(&batch, Durability::Synced);
        assert!(
            matches!(refused, Err(Error::InvalidArgument { .. })),
            "{indexes:?}"
        );
    }
    assert!(log.regions().expect("regions").is_empty());
}

#[test]
fn a_log_has_one_owner_and_a_missing_one_is_not_made_unasked() {
    let fs = MemFs::new();
    let mut ask_not = options();
    ask_not.create_if_missing = false;
    assert!(matches!(
        open(&fs, &ask_not),
        Err(Error::StoreNotFound { .. })
    ));
    let log = open(&fs, &options()).expect("open");
    assert!(matches!(open(&fs, &options()), Err(Error::Locked { .. })));
    drop(log);
    open(&fs, &ask_not).expect("it is there now");
}

#[test]
fn a_missing_segment_is_an_error_that_names_its_file() {
    let fs = MemFs::new();
    let log = open(&fs, &options()).expect("open");
    let mut random = Random(5);
    (1..60).for_each(|index| append(&log, &mut random, 1, index, 700));
    let last = log.segment_stats().rotations;
    for id in 1..last {
        let image = fs.after_kill();
        let path = Path::new(DIR).join(format!("{id:016x}.seg"));
        image.remove(&path).expect("remove");
        let refused = open(&image, &options()).err().map(|e| e.to_string());
        assert!(
            refused.is_some_and(|text| text.contains(".seg")),
            "segment {id}"
        );
    }
}

#[test]
fn a_foreign_directory_and_a_lost_checkpoint_are_refused_untouched() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("create");
    fs.create(&Path::new(DIR).join("thesis.tex"))
        .expect("create");
    assert!(matches!(
        open(&fs, &options()),
        Err(Error::ForeignDirectory { .. })
    ));
    let fs = MemFs::new();
    let log = open(&fs, &options()).expect("open");
    append(&log, &mut Random(6), 1, 1, 10);
    drop(log);
    fs.remove(&Path::new(DIR).join("CHECKPOINT"))
        .expect("remove");
    assert!(matches!(
        open(&fs, &options()),
        Err(Error::IncompleteStore { .. })
    ));
}

#[test]
fn a_newer_format_is_refused() {
    let fs = MemFs::new();
    drop(open(&fs, &options()).expect("open"));
    let file = fs
        .open_for_write(&Path::new(DIR).join("CHECKPOINT"))
        .expect("open");
    file.write_all_at(&[9], 8).expect("write");
    let refused = open(&fs, &options());
    assert!(matches!(
        refused,
        Err(Error::UnsupportedVersion { got: 9, max: 1, .. })
    ));
}

/// A power cut may leave the first frames of a segment and take its header. It is a spare again then,
/// and written from its start: what lies behind must not become a part of the log.
#[test]
fn frames_of_an_earlier_opening_never_come_back() {
    // Of one of these sizes a frame ends with its page, so that nothing fills up what is behind it.
    (4_000..4_096).for_each(come_back_never);
}

fn come_back_never(bytes: usize) {
    let (fs, mut options) = (MemFs::new(), options());
    options.compress = false;
    let log = open(&fs, &options).expect("open");
    log.maintain().expect("maintain");
    let path = Path::new(DIR).join(format!("{:016x}.seg", 1));
    let header = |fs: &MemFs| {
        let (mut bytes, file) = ([0; 512], fs.open(&path).expect("open"));
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    };
    let spare = header(&fs);
    let write = |log: &SegmentLog, index, byte, durability| {
        let mut batch = LogBatch::default();
        batch.append(RegionId(1), vec![entry(index, 1, vec![byte; bytes])]);
        log.write(&batch, durability).expect("write");
    };
    write(&log, 1, 1, Durability::Buffered);
    write(&log, 2, 2, Durability::Buffered);
    assert!(header(&fs) != spare, "the first segment is in use");
    let cut = fs.after_kill();
    let file = cut.open_for_write(&path).expect("open");
    file.write_all_at(&spare, 0).expect("write");
    file.sync().expect("sync");
    let log = open(&cut, &options).expect("open");
    assert!(
        log.regions().expect("regions").is_empty(),
        "nothing was acknowledged"
    );
    // As long as the first of before, so that the second of before lies right behind it.
    write(&log, 1, 3, Durability::Synced);
    let log = open(&cut.after_kill(), &options).expect("open");
    let first = log.read_entry(RegionId(1), 1).expect("read");
    assert_eq!(first, Some(entry(1, 1, vec![3; bytes])));
    let second = log.read_entry(RegionId(1), 2).expect("read");
    assert_eq!(second, None, "of the earlier opening, {bytes} bytes");
}

#[test]
fn a_writer_that_is_ahead_of_the_reserve_gets_segments_without_zeroes() {
    let changes: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let noted = Arc::clone(&changes);
    let fs = Observed::new(&MemFs::new(), None, move |op, path| {
        if path.extension().is_some_and(|e| e == "seg") {
            noted.lock().expect("nothing panics here").push(op);
        }
    });
    let mut options = options();
    options.segment_bytes = 64 << 10;
    let log = open_on(Arc::new(fs), &options).expect("open");
    let done = |log: &SegmentLog| {
        changes.lock().expect("nothing panics here").clear();
        log.maintain().expect("maintain");
        std::mem::take(&mut *changes.lock().expect("nothing panics here"))
    };
    let zeroed = ["create", "reserve", "write", "write", "sync"];
    let set_aside = ["create", "reserve", "write", "sync"];
    let mut random = Random(7);
    append(&log, &mut random, 1, 1, 1_000);
    assert_eq!(done(&log), [zeroed, zeroed].concat(), "there is time");
    // Two segments and more than a half: the reserve is used up.
    for index in 2..165 {
        append(&log, &mut random, 1, index, 1_000);
    }
    let stats = log.segment_stats();
    assert_eq!((stats.rotations, stats.spare_segments), (3, 0), "{stats:?}");
    let made = done(&log);
    assert!(
        made.starts_with(&set_aside),
        "the first is set aside: {made:?}"
    );
    // Then the two that are full are indexed, and there is time for the next.
    assert!(made.ends_with(&zeroed), "the second is not: {made:?}");
    assert_eq!(log.segment_stats().spare_segments, 2);
}
