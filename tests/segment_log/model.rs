//! Long lives beside the plain model: closed, killed and cut in between, with every limit low or high.

use std::sync::Arc;

use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{DiskFs, Durability, RaftLogStorage};
use proptest::prelude::*;

use crate::support::{Expected, Random, Step, Writer, content, open, options};

/// How the log is set up, from a number.
fn some_options(random: &mut Random) -> SegmentLogOptions {
    let mut options = options();
    let mut any = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
    options.segment_bytes = any(&[16 << 10, 32 << 10, 64 << 10]);
    options.index_bytes_max = any(&[0, 2_000, u64::MAX]);
    options.ring_bytes = any(&[0, 8 << 10, 4 << 20]) as usize;
    options.copy_below_percent = any(&[0, 25, 90]);
    options.spare_segments = any(&[0, 1, 2]) as usize;
    options
}

fn take(log: &SegmentLog, expected: &mut Expected, step: Step) {
    match step {
        Step::Write(batch, durability) => {
            expected.begin(&batch);
            log.write(&batch, durability).expect("write");
            if durability == Durability::Synced {
                expected.synced();
            }
        }
        Step::Sync => {
            log.sync().expect("sync");
            expected.synced();
        }
        Step::Maintain => log.maintain().expect("maintain"),
    }
}

fn live(seed: u64) {
    let mut random = Random(seed);
    let options = some_options(&mut random);
    let mut fs = MemFs::new();
    let mut log = open(&fs, &options).expect("open");
    let mut writer = Writer::new(seed, 4, 1_500);
    let mut expected = Expected::new();
    for step in 0..80 {
        take(&log, &mut expected, writer.step());
        let seen = content(&log).expect("read");
        assert_eq!(&seen, expected.newest(), "seed {seed}, step {step}");
        let image = match random.below(14) {
            0 => {
                drop(log);
                fs.after_power_cut(Lost::Everything, step)
            }
            1 => fs.after_kill(),
            // What was written but not synced may be gone: so that the model knows what is left, it
            // is synced first.
            2 => {
                log.sync().expect("sync");
                fs.after_power_cut(Lost::Half, step)
            }
            _ => continue,
        };
        fs = image;
        log = open(&fs, &options).unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        expected.synced();
        let seen = content(&log).expect("read");
        assert_eq!(
            &seen,
            expected.newest(),
            "seed {seed}, step {step}, opened again"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_as_the_model_through_kills_and_cuts(seed in any::<u64>()) {
        live(seed);
    }
}

#[test]
fn the_log_on_a_disk_is_as_the_model() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut options = options();
    options.background = true;
    let path = dir.path().join("log");
    let open = || SegmentLog::open(Arc::new(DiskFs), &path, options.clone()).expect("open");
    let (mut log, mut writer, mut expected) =
        (Some(open()), Writer::new(11, 4, 1_500), Expected::new());
    for step in 0..80 {
        let one = log.as_ref().expect("it is open");
        take(one, &mut expected, writer.step());
        if step % 20 == 19 {
            log = None;
            log = Some(log.unwrap_or_else(open));
            let seen = content(log.as_ref().expect("it is open")).expect("read");
            assert_eq!(&seen, expected.newest(), "step {step}");
        }
    }
    let regions = log.map(|log| log.regions().expect("regions").len());
    assert_eq!(regions, Some(expected.newest().0.len()));
}
