//! The suite of [`RaftSnapshotStorage`]. Uses: the seam. Never knows a backend.

mod keeping;
mod lasting;
mod transfers;

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::time::{Duration, SystemTime};

use raft::eraftpb::ConfState;

use super::{Case, Failure, Harness, report};
use crate::{
    Error, LogPosition, Peer, RaftSnapshotStorage, Region, RegionEpoch, RegionId, SnapshotId,
    SnapshotInfo, SnapshotKey, SnapshotMeta,
};

/// What the cases run over.
pub type SnapshotHarness = dyn Harness<dyn RaftSnapshotStorage>;

const R: RegionId = RegionId(7);

/// Every case, to be run one by one.
pub fn cases() -> Vec<Case<SnapshotHarness>> {
    vec![
        Case::new(an_empty_store_has_nothing),
        Case::new(committed_content_is_read_back),
        Case::new(every_field_of_the_metadata_is_kept),
        Case::new(the_entries_that_were_counted_and_the_date_are_kept),
        Case::new(every_file_has_an_id_of_its_own),
        Case::new(a_snapshot_is_not_seen_before_it_is_committed),
        Case::new(a_writer_that_is_dropped_leaves_nothing),
        Case::new(snapshots_of_one_position_are_told_apart_by_sequence),
        Case::new(many_writers_of_one_position_get_a_name_each),
        Case::new(the_list_is_by_region_and_oldest_position_first),
        Case::new(the_latest_is_of_the_highest_position_and_the_last_there),
        Case::new(a_reader_goes_wherever_it_is_told),
        Case::new(a_reader_that_is_sent_behind_the_end_finds_nothing),
        Case::new(readers_do_not_disturb_each_other),
        Case::new(what_is_not_there_is_not_found),
        Case::new(a_snapshot_in_use_is_not_deleted),
        Case::new(a_deleted_snapshot_is_gone_and_the_others_stay),
        Case::new(a_whole_snapshot_is_reported_intact),
        Case::new(keeping::without_a_limit_everything_stays),
        Case::new(keeping::the_latest_of_each_region_are_kept),
        Case::new(keeping::the_newest_stays_whatever_its_age),
        Case::new(keeping::those_that_are_too_old_go),
        Case::new(keeping::number_and_age_hold_both),
        Case::new(keeping::the_newest_that_fit_are_kept),
        Case::new(keeping::one_in_use_is_left_and_counted),
        Case::new(keeping::the_first_that_reaches_the_truncated_log_is_kept),
        Case::new(transfers::a_file_that_was_sent_is_installed_as_it_was),
        Case::new(transfers::the_same_content_is_kept_once),
        Case::new(transfers::other_content_gets_another_sequence),
        Case::new(transfers::a_file_that_is_not_whole_is_refused_and_nothing_is_left),
        Case::new(transfers::a_stream_that_fails_leaves_nothing),
        Case::new(transfers::a_sent_file_is_read_from_any_offset),
        Case::new(transfers::a_transfer_goes_on_where_it_broke_off),
        Case::new(transfers::a_transfer_that_ends_too_early_is_no_snapshot),
        Case::new(transfers::more_than_was_announced_is_refused),
        Case::new(transfers::a_transfer_that_went_wrong_can_begin_again),
        Case::new(transfers::another_file_of_the_position_is_not_mixed_in),
        Case::new(lasting::reopening_keeps_every_snapshot),
        Case::new(lasting::reopening_does_not_bring_back_what_was_deleted),
        Case::new(lasting::a_transfer_goes_on_after_reopening),
        Case::new(lasting::a_power_cut_forgets_what_was_not_committed),
        Case::new(lasting::a_power_cut_spares_what_was_committed),
        Case::new(lasting::a_transfer_goes_on_after_a_power_cut),
    ]
}

/// Runs every case over a store of its own and returns those that failed.
pub fn check<H: Harness<dyn RaftSnapshotStorage> + 'static>(
    mut new: impl FnMut() -> H,
) -> Vec<Failure> {
    let run = |case: &Case<SnapshotHarness>| case.run(&mut new()).err();
    cases().iter().filter_map(run).collect()
}

/// Runs every case over a store of its own.
///
/// # Panics
/// At the end, if a case failed; the message names all that did.
pub fn run<H: Harness<dyn RaftSnapshotStorage> + 'static>(new: impl FnMut() -> H) {
    report("snapshots", &check(new));
}

type Store<'a> = &'a dyn RaftSnapshotStorage;

fn meta(region: RegionId, term: u64, index: u64) -> SnapshotMeta {
    let region = Region::single(region.0, 1);
    SnapshotMeta {
        position: LogPosition::new(term, index),
        conf_state: region.conf_state(),
        region,
    }
}

/// Content that compresses, differs by `seed`, and at every place.
fn sample(seed: u8, bytes: usize) -> Vec<u8> {
    let byte = |i: usize| match i % 8 {
        0 => (i / 8) as u8 ^ seed,
        1 => (i / 2048) as u8,
        _ => b'x',
    };
    (0..bytes).map(byte).collect()
}

fn create(store: Store, meta: SnapshotMeta, content: &[u8]) -> SnapshotInfo {
    let mut writer = store.create(meta).expect("create");
    for chunk in content.chunks(700) {
        writer.write_all(chunk).expect("write");
    }
    writer.commit().expect("commit")
}

fn read(store: Store, key: &SnapshotKey) -> Vec<u8> {
    let mut content = Vec::new();
    let mut reader = store.open(key).expect("open");
    reader.read_to_end(&mut content).expect("read");
    content
}

/// The bytes of its file.
fn image(store: Store, key: &SnapshotKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = store.send(key).expect("send");
    file.read_to_end(&mut bytes).expect("read");
    bytes
}

fn names(store: Store, region: Option<RegionId>) -> Vec<String> {
    let infos = store.list(region).expect("list");
    infos.iter().map(|info| info.key.to_string()).collect()
}

fn an_empty_store_has_nothing(h: &mut SnapshotHarness) {
    let store = h.store();
    assert_eq!(store.list(None).expect("list"), []);
    assert_eq!(store.list(Some(R)).expect("list"), []);
    assert_eq!(store.latest(R).expect("latest"), None);
}

fn committed_content_is_read_back(h: &mut SnapshotHarness) {
    let store = h.store();
    for (index, length) in (1..).zip([0, 1, 63, 64, 65, 4096, 200_000]) {
        let (meta, content) = (meta(R, 5, index), sample(index as u8, length));
        let info = create(store, meta.clone(), &content);
        assert_eq!((&info.meta, info.content_bytes), (&meta, length as u64));
        assert_eq!(info.digest, *blake3::hash(&content).as_bytes(), "digest");
        assert_eq!(read(store, &info.key), content, "{length} bytes");
        assert_eq!(store.open(&info.key).expect("open").info(), &info);
        let file_bytes = image(store, &info.key).len() as u64;
        assert_eq!(info.file_bytes, file_bytes, "the bytes of its file");
        assert!(store.list(Some(R)).expect("list").contains(&info));
    }
}

fn every_field_of_the_metadata_is_kept(h: &mut SnapshotHarness) {
    let peer = |id: u64| Peer {
        id,
        store_id: u64::MAX - id,
        ..Peer::default()
    };
    let region = Region {
        id: u64::MAX,
        start_key: vec![0, 1, 255],
        end_key: vec![0, 2],
        region_epoch: RegionEpoch {
            conf_ver: 3,
            version: u64::MAX,
        },
        peers: vec![peer(3), peer(5), peer(9)],
    };
    let mut conf_state = ConfState::default();
    conf_state.voters = vec![3, 5];
    conf_state.voters_outgoing = vec![5, 9];
    conf_state.learners = vec![11];
    conf_state.learners_next = vec![9];
    conf_state.auto_leave = true;
    let meta = SnapshotMeta {
        region,
        position: LogPosition::new(u64::MAX, u64::MAX),
        conf_state,
    };
    let info = create(h.store(), meta.clone(), b"content");
    assert_eq!(info.meta, meta);
    let opened = h.store().open(&info.key).expect("open");
    assert_eq!(opened.info().meta, meta);
    assert_eq!(h.store().list(None).expect("list"), [info]);
}

fn the_entries_that_were_counted_and_the_date_are_kept(h: &mut SnapshotHarness) {
    let store = h.store();
    // Dates are in whole milliseconds.
    let before = SystemTime::now() - Duration::from_millis(1);
    let mut writer = store.create(meta(R, 5, 10)).expect("create");
    writer.count_entries(1);
    writer.write_all(b"content").expect("write");
    writer.count_entries(41);
    let info = writer.commit().expect("commit");
    assert_eq!(info.entry_count, 42);
    let created = info.created.expect("a date");
    assert!(before <= created && created <= SystemTime::now());
    assert_eq!(store.list(Some(R)).expect("list"), [info]);
}

fn every_file_has_an_id_of_its_own(h: &mut SnapshotHarness) {
    let ids = (0..4).map(|_| create(h.store(), meta(R, 5, 10), b"the same").file_id);
    assert_eq!(ids.collect::<BTreeSet<u64>>().len(), 4);
}

fn a_snapshot_is_not_seen_before_it_is_committed(h: &mut SnapshotHarness) {
    let store = h.store();
    let mut writer = store.create(meta(R, 5, 10)).expect("create");
    writer.write_all(&sample(0, 5000)).expect("write");
    writer.flush().expect("flush");
    assert_eq!(names(store, None), [""; 0]);
    let info = writer.commit().expect("commit");
    assert_eq!(store.list(None).expect("list"), [info]);
}

fn a_writer_that_is_dropped_leaves_nothing(h: &mut SnapshotHarness) {
    let store = h.store();
    let mut writer = store.create(meta(R, 5, 10)).expect("create");
    writer.write_all(&sample(0, 5000)).expect("write");
    drop(writer);
    drop(store.receive().expect("receive"));
    assert_eq!(names(store, None), [""; 0]);
    let info = create(store, meta(R, 5, 10), b"content");
    let said = "the one that was given up took no name";
    assert_eq!(info.key.id.sequence, 0, "{said}");
}

fn snapshots_of_one_position_are_told_apart_by_sequence(h: &mut SnapshotHarness) {
    let store = h.store();
    let first = create(store, meta(R, 5, 10), b"first");
    let second = create(store, meta(R, 5, 10), b"second");
    let elsewhere = create(store, meta(R, 5, 11), b"elsewhere");
    let sequences = [&first, &second, &elsewhere].map(|info| info.key.id.sequence);
    assert_eq!(sequences, [0, 1, 0]);
    assert_eq!(read(store, &first.key), b"first");
    assert_eq!(read(store, &second.key), b"second");
}

fn many_writers_of_one_position_get_a_name_each(h: &mut SnapshotHarness) {
    let store = h.store();
    let infos: Vec<SnapshotInfo> = std::thread::scope(|scope| {
        let write = |n| create(store, meta(R, 5, 10), &sample(n, 5000));
        let writers: Vec<_> = (0..6).map(|n| scope.spawn(move || write(n))).collect();
        let infos = writers.into_iter().map(|w| w.join().expect("a writer"));
        infos.collect()
    });
    let sequences: BTreeSet<u64> = infos.iter().map(|info| info.key.id.sequence).collect();
    assert_eq!(sequences, (0..6).collect());
    for info in infos {
        let digest = blake3::hash(&read(store, &info.key));
        assert_eq!(info.digest, *digest.as_bytes());
    }
}

fn the_list_is_by_region_and_oldest_position_first(h: &mut SnapshotHarness) {
    let store = h.store();
    for (region, term, index) in [(2, 6, 9), (1, 6, 10), (2, 5, 30), (1, 6, 9)] {
        create(store, meta(RegionId(region), term, index), b"content");
    }
    let all = ["1-6-9-0", "1-6-10-0", "2-5-30-0", "2-6-9-0"];
    assert_eq!(names(store, None), all);
    assert_eq!(names(store, Some(RegionId(2))), all[2..]);
    assert_eq!(names(store, Some(RegionId(3))), [""; 0]);
}

fn the_latest_is_of_the_highest_position_and_the_last_there(h: &mut SnapshotHarness) {
    let store = h.store();
    for (region, index) in [(7, 20), (7, 30), (7, 30), (7, 10), (8, 40)] {
        create(store, meta(RegionId(region), 5, index), b"content");
    }
    let latest = |region| store.latest(RegionId(region)).expect("latest");
    assert_eq!(
        latest(7).map(|info| info.key.to_string()).as_deref(),
        Some("7-5-30-1")
    );
    assert_eq!(
        latest(8).map(|info| info.key.to_string()).as_deref(),
        Some("8-5-40-0")
    );
    assert_eq!(latest(9), None);
}

fn a_reader_goes_wherever_it_is_told(h: &mut SnapshotHarness) {
    let content = sample(3, 300_000);
    let info = create(h.store(), meta(R, 5, 10), &content);
    let mut reader = h.store().open(&info.key).expect("open");
    let length = content.len() as i64;
    let mut at = 0;
    // Forward and back, within a block and over many, to the very end, and from all three ends.
    for (to, expected) in [
        (SeekFrom::Start(150_000), 150_000),
        (SeekFrom::Current(-100), 149_910),
        (SeekFrom::Start(0), 0),
        (SeekFrom::End(-10), length - 10),
        (SeekFrom::Start(65_536), 65_536),
        (SeekFrom::Current(200_000), 265_546),
        (SeekFrom::Current(-265_556), 0),
        (SeekFrom::End(-1), length - 1),
        (SeekFrom::Current(0), length),
    ] {
        let position = reader.seek(to).expect("seek");
        assert_eq!(position as i64, expected, "{to:?} from {at}");
        let mut got = [0; 10];
        let left = content.len().min(position as usize + 10) - position as usize;
        reader.read_exact(&mut got[..left]).expect("read");
        let want = &content[position as usize..][..left];
        assert_eq!(&got[..left], want, "{to:?} from {at}");
        at = position + left as u64;
    }
    reader.rewind().expect("rewind");
    let mut all = Vec::new();
    reader.read_to_end(&mut all).expect("read");
    assert_eq!(all, content);
}

fn a_reader_that_is_sent_behind_the_end_finds_nothing(h: &mut SnapshotHarness) {
    let info = create(h.store(), meta(R, 5, 10), b"content");
    let mut reader = h.store().open(&info.key).expect("open");
    assert_eq!(reader.seek(SeekFrom::End(5)).expect("seek"), 12);
    assert_eq!(reader.read(&mut [0; 4]).expect("read"), 0);
    assert_eq!(
        reader.seek(SeekFrom::Start(u64::MAX)).expect("seek"),
        u64::MAX
    );
    assert_eq!(reader.read(&mut [0; 4]).expect("read"), 0);
    assert!(reader.seek(SeekFrom::Current(1)).is_err(), "no such place");
    reader.seek(SeekFrom::Start(3)).expect("seek");
    assert!(
        reader.seek(SeekFrom::Current(-4)).is_err(),
        "before the start"
    );
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "tent", "a seek that was refused goes nowhere");
}

fn readers_do_not_disturb_each_other(h: &mut SnapshotHarness) {
    let store = h.store();
    let content = sample(1, 100_000);
    let key = create(store, meta(R, 5, 10), &content).key;
    let mut one = store.open(&key).expect("open");
    one.seek(SeekFrom::Start(50_000)).expect("seek");
    assert_eq!(read(store, &key), content);
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).expect("read");
    assert_eq!(rest, content[50_000..]);
}

fn what_is_not_there_is_not_found(h: &mut SnapshotHarness) {
    let store = h.store();
    let info = create(store, meta(R, 5, 10), b"content");
    let SnapshotId { term, index, .. } = info.key.id;
    let mut others = [info.key; 3];
    others[0].region = RegionId(8);
    others[1].id.sequence = 1;
    (others[2].id.term, others[2].id.index) = (index, term);
    for key in others {
        let not_found = |e: Option<Error>| matches!(e, Some(Error::SnapshotNotFound { .. }));
        assert!(not_found(store.open(&key).err()), "open {key}");
        assert!(not_found(store.send(&key).err()), "send {key}");
        assert!(not_found(store.verify(&key).err()), "verify {key}");
        store.delete(&key).expect("it is not there");
    }
    assert_eq!(store.list(None).expect("list"), [info]);
}

fn a_snapshot_in_use_is_not_deleted(h: &mut SnapshotHarness) {
    let store = h.store();
    let info = create(store, meta(R, 5, 10), &sample(0, 5000));
    let is_refused = || {
        let refused = store.delete(&info.key);
        matches!(refused, Err(Error::SnapshotInUse { name }) if name == "7-5-10-0")
    };
    let mut reader = store.open(&info.key).expect("open");
    let file = store.send(&info.key).expect("send");
    assert!(is_refused(), "read and sent");
    drop(file);
    assert!(is_refused(), "read");
    let mut content = Vec::new();
    reader.read_to_end(&mut content).expect("read");
    assert_eq!(content, sample(0, 5000));
    drop(reader);
    let file = store.send(&info.key).expect("send");
    assert!(is_refused(), "sent");
    drop(file);
    store.delete(&info.key).expect("delete");
}

fn a_deleted_snapshot_is_gone_and_the_others_stay(h: &mut SnapshotHarness) {
    let store = h.store();
    let one = create(store, meta(R, 5, 10), b"one");
    let two = create(store, meta(R, 5, 20), b"two");
    store.delete(&one.key).expect("delete");
    store.delete(&one.key).expect("again is no error");
    assert_eq!(store.list(None).expect("list"), std::slice::from_ref(&two));
    let gone = store.open(&one.key).err();
    assert!(matches!(gone, Some(Error::SnapshotNotFound { .. })));
    assert_eq!(read(store, &two.key), b"two");
}

fn a_whole_snapshot_is_reported_intact(h: &mut SnapshotHarness) {
    let store = h.store();
    for length in [0, 100, 200_000] {
        let info = create(store, meta(R, 5, 10), &sample(0, length));
        let report = store.verify(&info.key).expect("verify");
        assert!(report.is_intact(), "{report}");
        let found = (report.key, report.content_bytes);
        assert_eq!(found, (info.key, length as u64));
        assert_eq!(report.blocks > 0, length > 0, "{report}");
    }
}
