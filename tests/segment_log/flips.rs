//! Every bit of a small log turned over, one at a time: an error that says what and where, or the same
//! content. Of a long entry whose bytes are all alike it is one byte in 311, unless `PEERSTORE_FLIPS` is
//! in the environment.

use std::ops::Range;
use std::path::Path;

use peerstore::memory::{Lost, MemFs};
use peerstore::{Durability, Error, FileSystem, LogBatch, RaftLogStorage, RegionId};

use crate::support::{Content, DIR, Random, content, entry, open, options, segments, state};

/// How the log was left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Closed,
    Killed,
    /// Killed, after what lives was copied into a cold segment.
    Copied,
}

/// A log of two segments and a bit, with everything that a frame can hold. Returns also where the last
/// frame begins: nothing was written after its fsync that could prove it.
fn fixture(left: Left) -> (MemFs, Content, Range<u64>) {
    let fs = MemFs::new();
    let mut options = options();
    options.copy_below_percent = if left == Left::Copied { 100 } else { 25 };
    let log = open(&fs, &options).expect("open");
    let write = |fill: &dyn Fn(&mut LogBatch)| {
        let mut batch = LogBatch::default();
        fill(&mut batch);
        log.write(&batch, Durability::Synced).expect("write");
    };
    for round in 1..6 {
        write(&|batch| {
            for region in [1, 2, 300] {
                let data = |n: u64| vec![(region + round * n) as u8; 20];
                let entries = (round * 2..round * 2 + 2).map(|i| entry(i, round / 3 + 1, data(i)));
                batch.append(RegionId(region), entries.collect());
                batch.state(RegionId(region), state(round / 3 + 1, round * 2 + 1));
            }
        });
    }
    write(&|batch| {
        batch.remove(RegionId(2), 0..5);
        batch.clear_region(RegionId(300));
    });
    // Larger than what is left, so that the log goes on in the next segment.
    let filler = || vec![entry(1, 1, Random(1).bytes(12_000))];
    write(&|batch| batch.append(RegionId(9), filler()));
    write(&|batch| batch.remove(RegionId(9), 0..9));
    write(&|batch| batch.append(RegionId(1), vec![entry(12, 2, b"behind".to_vec())]));
    if left == Left::Copied {
        log.maintain().expect("maintain");
        assert_eq!(log.segment_stats().cold_segments, 1, "it was copied");
    }
    let before = log.segment_stats().log_bytes;
    write(&|batch| batch.append(RegionId(2), vec![entry(12, 2, b"the last".to_vec())]));
    let last = log.segment_stats().log_bytes - before;
    assert_eq!(log.segment_stats().rotations, 2);
    let seen = content(&log).expect("read");
    let image = match left {
        Left::Killed | Left::Copied => fs.after_power_cut(Lost::Everything, 0),
        Left::Closed => {
            drop(log);
            fs.after_power_cut(Lost::Everything, 0)
        }
    };
    (image, seen, 0..last)
}

fn bytes_of(fs: &MemFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("open");
    let mut bytes = vec![0; file.length().expect("length") as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

/// What a flip came to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Same,
    /// An error that names segment, offset, region and indexes.
    Named,
    /// An error that names the file.
    File,
    /// The last frame is gone, as if it had never been acknowledged.
    LastCut,
}

/// Whether an error says which segment, the offset of what the flipped byte is in, and which entries
/// or which other operation it holds.
fn is_named(text: &str, path: &Path, at: usize) -> bool {
    let number = |word: &str| {
        let behind = text.split(word).nth(1)?;
        let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let file = path.file_stem().and_then(|stem| stem.to_str());
    let segment = file.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let kinds = [
        "entries [",
        "a copy of [",
        "state with last index ",
        "removal of ",
    ];
    // No frame of the fixture is longer.
    let is_within = number("offset ").is_some_and(|o| (o..o + 13_000).contains(&(at as u64)));
    segment == number("segment ") && is_within && kinds.iter().any(|kind| text.contains(kind))
}

fn outcome(
    image: &MemFs,
    path: &Path,
    at: usize,
    bit: u8,
    want: &Content,
    without: &Content,
) -> Outcome {
    let fs = image.after_kill();
    let file = fs.open_for_write(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("read");
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at as u64).expect("write");
    match open(&fs, &options()).and_then(|log| content(&log)) {
        Ok(seen) if seen == *want => Outcome::Same,
        Ok(seen) if seen == *without => Outcome::LastCut,
        Ok(seen) => panic!(
            "{} byte {at} bit {bit}: other content: {seen:?}",
            path.display()
        ),
        Err(
            error @ Error::Corruption {
                region: Some(_), ..
            },
        ) => {
            let text = error.to_string();
            let named = is_named(&text, path, at);
            assert!(named, "{} byte {at} bit {bit}: {text}", path.display());
            Outcome::Named
        }
        Err(Error::Corruption { .. } | Error::UnsupportedVersion { .. }) => Outcome::File,
        Err(error) => panic!("{} byte {at} bit {bit}: {error}", path.display()),
    }
}

/// The content without the last frame.
fn without_last(content: &Content) -> Content {
    let mut content = content.clone();
    let (_, entries) = content.0.get_mut(&2).expect("region 2 has entries");
    entries.pop();
    content
}

fn hold(left: Left) {
    let (image, want, last) = fixture(left);
    assert_eq!(
        open(&image.after_kill(), &options())
            .and_then(|l| content(&l))
            .expect("whole"),
        want
    );
    let without = without_last(&want);
    let (mut same, mut named, mut cut) = (0, 0, 0);
    let every = std::env::var_os("PEERSTORE_FLIPS").is_some();
    for path in segments(&image) {
        let bytes = bytes_of(&image, &path);
        // Zeroes behind the last frame are no part of the log; a byte of them tells of all.
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 2);
        let used = used.min(bytes.len());
        for at in (0..64).chain(4096..used.max(4096)) {
            // The filler's own bytes are all alike.
            if at > 6_000 && at + 200 < used && at % 311 != 0 && !every {
                continue;
            }
            for bit in 0..8 {
                match outcome(&image, &path, at, bit, &want, &without) {
                    Outcome::Same => same += 1,
                    Outcome::Named => named += 1,
                    Outcome::File => assert!(at < 64, "{} byte {at}: no region", path.display()),
                    Outcome::LastCut => {
                        let from_end = (used - at) as u64;
                        assert!(
                            left != Left::Closed && from_end <= last.end + 2,
                            "byte {at} cut"
                        );
                        cut += 1;
                    }
                }
            }
        }
    }
    eprintln!("{left:?}: {named} errors, {same} the same, {cut} took the last frame");
    assert!(named > 1_000, "{named} flips were named");
    assert_eq!(
        cut > 0,
        left != Left::Closed,
        "only the frame that nothing proves may go"
    );
}

#[test]
fn a_flipped_bit_of_a_closed_log_is_named_or_changes_nothing() {
    hold(Left::Closed);
}

#[test]
fn a_flipped_bit_of_a_killed_log_is_named_or_changes_nothing() {
    hold(Left::Killed);
}

#[test]
fn a_flipped_bit_of_a_copy_is_named_or_changes_nothing() {
    hold(Left::Copied);
}

#[test]
fn a_flipped_bit_of_a_checkpoint_is_an_error() {
    let (image, want, _) = fixture(Left::Closed);
    let path = Path::new(DIR).join("CHECKPOINT");
    for at in 0..bytes_of(&image, &path).len() {
        for bit in 0..8 {
            let seen = outcome(&image, &path, at, bit, &want, &want);
            assert_eq!(seen, Outcome::File, "byte {at} bit {bit}");
        }
    }
}

/// Damages the first entry of region 1: its bytes are the first of their kind.
fn damage_first_entry(image: &MemFs, path: &Path) {
    let bytes = bytes_of(image, path);
    let at = bytes
        .windows(20)
        .position(|w| w == [3u8; 20])
        .expect("it is there");
    let file = image.open_for_write(path).expect("open");
    file.write_all_at(&[0xff], at as u64).expect("write");
    file.sync().expect("sync");
}

#[test]
fn a_quarantined_region_lets_the_others_be_opened() {
    let (image, want, _) = fixture(Left::Killed);
    let path = &segments(&image)[0];
    damage_first_entry(&image, path);
    let refused = open(&image.after_kill(), &options())
        .err()
        .expect("damaged");
    let is_named = matches!(
        &refused,
        Error::Corruption {
            region: Some(RegionId(1)),
            ..
        }
    );
    assert!(
        is_named && refused.to_string().contains("entries [2, 4)"),
        "{refused}"
    );
    let mut options = options();
    options.quarantine = [RegionId(1)].into();
    let log = open(&image, &options).expect("open without region 1");
    let mut want = want;
    want.0.remove(&1);
    assert_eq!(content(&log).expect("read"), want);
    drop(log);
    // It is gone for good: nobody has to say so again.
    options.quarantine.clear();
    assert_eq!(
        open(&image, &options)
            .and_then(|l| content(&l))
            .expect("open"),
        want
    );
}

#[test]
fn a_damaged_entry_of_a_closed_log_leaves_the_other_regions_readable() {
    let (image, want, _) = fixture(Left::Closed);
    let path = &segments(&image)[0];
    damage_first_entry(&image, path);
    let log = open(&image, &options()).expect("open");
    assert!(matches!(
        log.read_entry(RegionId(1), 2),
        Err(Error::Corruption { .. })
    ));
    let (_, entries) = &want.0[&2];
    let range = entries[0].index..entries[0].index + entries.len() as u64;
    assert_eq!(
        &log.read_entries(RegionId(2), range, u64::MAX)
            .expect("read"),
        entries
    );
    log.quarantine(RegionId(1)).expect("quarantine");
    assert_eq!(log.read_entry(RegionId(1), 2).expect("read"), None);
}
