//! Cases of files that come from another store. Uses: the seam.

use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use super::{R, SnapshotHarness, Store, create, image, meta, names, read, sample};
use crate::{Error, SnapshotInfo, SnapshotTransfer};

/// A file that the store had once and has no more: what another store would send.
pub(super) fn sent(store: Store, content: &[u8]) -> (SnapshotInfo, Vec<u8>) {
    let info = create(store, meta(R, 5, 10), content);
    let bytes = image(store, &info.key);
    store.delete(&info.key).expect("delete");
    (info, bytes)
}

fn install(store: Store, mut bytes: &[u8]) -> Result<SnapshotInfo, Error> {
    store.install(&mut bytes)
}

pub(super) fn a_file_that_was_sent_is_installed_as_it_was(h: &mut SnapshotHarness) {
    let store = h.store();
    let content = sample(0, 150_000);
    let (info, bytes) = sent(store, &content);
    assert_eq!(install(store, &bytes).expect("install"), info);
    assert_eq!(read(store, &info.key), content);
    assert_eq!(image(store, &info.key), bytes);
    assert_eq!(store.list(Some(R)).expect("list"), [info]);
}

pub(super) fn the_same_content_is_kept_once(h: &mut SnapshotHarness) {
    let store = h.store();
    let (_, other_file) = sent(store, b"content");
    let info = create(store, meta(R, 5, 10), b"content");
    let received = install(store, &other_file).expect("install");
    assert_eq!(received, info, "the one that was there");
    assert_eq!(names(store, None), ["7-5-10-0"]);
}

pub(super) fn other_content_gets_another_sequence(h: &mut SnapshotHarness) {
    let store = h.store();
    let (_, bytes) = sent(store, b"one");
    create(store, meta(R, 5, 10), b"two");
    let received = install(store, &bytes).expect("install");
    assert_eq!(received.key.id.sequence, 1);
    assert_eq!(read(store, &received.key), b"one");
}

pub(super) fn a_file_that_is_not_whole_is_refused_and_nothing_is_left(h: &mut SnapshotHarness) {
    let store = h.store();
    let (info, bytes) = sent(store, &sample(0, 3000));
    let refused = |bytes: &[u8]| matches!(install(store, bytes), Err(Error::Corruption { .. }));
    for length in (0..bytes.len()).step_by(37).chain([bytes.len() - 1]) {
        assert!(refused(&bytes[..length]), "{length} bytes");
    }
    for byte in (0..bytes.len()).step_by(17) {
        let mut damaged = bytes.clone();
        damaged[byte] ^= 0x10;
        assert!(refused(&damaged), "byte {byte}");
    }
    assert!(refused(&[&bytes[..], b"x"].concat()), "a byte too many");
    assert_eq!(names(store, None), [""; 0]);
    let installed = install(store, &bytes).expect("the store still works");
    assert_eq!(installed, info);
}

/// A stream that breaks after what it has.
struct Breaks<'a>(&'a [u8]);

impl Read for Breaks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

pub(super) fn a_stream_that_fails_leaves_nothing(h: &mut SnapshotHarness) {
    let store = h.store();
    let (_, bytes) = sent(store, &sample(0, 3000));
    // It breaks even behind the last byte: the file is whole, the stream was not.
    for length in [0, 100, bytes.len()] {
        let failed = store.install(&mut Breaks(&bytes[..length]));
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        assert_eq!(names(store, None), [""; 0]);
    }
}

pub(super) fn a_sent_file_is_read_from_any_offset(h: &mut SnapshotHarness) {
    let store = h.store();
    let info = create(store, meta(R, 5, 10), &sample(0, 3000));
    let bytes = image(store, &info.key);
    let mut file = store.send(&info.key).expect("send");
    assert_eq!(file.seek(SeekFrom::End(0)).expect("seek"), info.file_bytes);
    let middle = bytes.len() / 2;
    file.seek(SeekFrom::Start(middle as u64)).expect("seek");
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("read");
    assert_eq!(rest, bytes[middle..]);
    assert!(file.seek(SeekFrom::Current(-1 << 40)).is_err());
}

/// Sends from where the receiver is up to `end`, and lets the connection break. Says where it was.
pub(super) fn send_until(
    store: Store,
    transfer: &SnapshotTransfer,
    bytes: &[u8],
    end: usize,
) -> usize {
    let mut receiver = store.resume(transfer).expect("resume");
    let offset = usize::try_from(receiver.offset()).expect("small");
    assert!(offset <= bytes.len(), "{offset} bytes of {}", bytes.len());
    if offset < end {
        receiver.write_all(&bytes[offset..end]).expect("write");
        assert_eq!(receiver.offset(), end as u64, "it counts what comes");
    }
    offset
}

/// Sends the rest.
pub(super) fn send_rest(
    store: Store,
    transfer: &SnapshotTransfer,
    bytes: &[u8],
) -> Result<SnapshotInfo, Error> {
    let mut receiver = store.resume(transfer)?;
    let offset = usize::try_from(receiver.offset()).expect("small");
    receiver.write_all(&bytes[offset..]).expect("write");
    receiver.commit()
}

pub(super) fn a_transfer_goes_on_where_it_broke_off(h: &mut SnapshotHarness) {
    let store = h.store();
    let content = sample(0, 300_000);
    let (info, bytes) = sent(store, &content);
    let transfer = SnapshotTransfer::of(&info);
    let mut before = 0;
    for end in [0, 10, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        let offset = send_until(store, &transfer, &bytes, end);
        assert!(offset <= before, "{offset} bytes, only {before} had come");
        assert_eq!(names(store, None), [""; 0]);
        before = end;
    }
    let received = send_rest(store, &transfer, &bytes).expect("the rest");
    assert_eq!(received, info);
    assert_eq!(read(store, &info.key), content);
    assert_eq!(image(store, &info.key), bytes);
    // It is whole: nothing of the transfer is left.
    store.delete(&info.key).expect("delete");
    let receiver = store.resume(&transfer).expect("resume");
    assert_eq!(receiver.offset(), 0);
}

pub(super) fn a_transfer_that_ends_too_early_is_no_snapshot(h: &mut SnapshotHarness) {
    let store = h.store();
    let (info, bytes) = sent(store, &sample(0, 3000));
    let transfer = SnapshotTransfer::of(&info);
    let mut receiver = store.resume(&transfer).expect("resume");
    let most = &bytes[..bytes.len() - 1];
    receiver.write_all(most).expect("write");
    let early = receiver.commit();
    assert!(matches!(early, Err(Error::Corruption { .. })), "{early:?}");
    assert_eq!(names(store, None), [""; 0]);
    assert_eq!(send_rest(store, &transfer, &bytes).expect("resume"), info);
}

pub(super) fn more_than_was_announced_is_refused(h: &mut SnapshotHarness) {
    let store = h.store();
    let (info, bytes) = sent(store, &sample(0, 3000));
    let mut receiver = store.resume(&SnapshotTransfer::of(&info)).expect("resume");
    receiver.write_all(&bytes).expect("all of it");
    let refused = receiver.write_all(b"x").is_err() || receiver.commit().is_err();
    assert!(refused, "one byte more than there are");
    assert_eq!(names(store, None), [""; 0]);
}

pub(super) fn a_transfer_that_went_wrong_can_begin_again(h: &mut SnapshotHarness) {
    let store = h.store();
    let (info, bytes) = sent(store, &sample(0, 3000));
    let transfer = SnapshotTransfer::of(&info);
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let refused = send_rest(store, &transfer, &damaged);
    assert!(
        matches!(refused, Err(Error::Corruption { .. })),
        "{refused:?}"
    );
    assert_eq!(names(store, None), [""; 0]);
    assert_eq!(send_rest(store, &transfer, &bytes).expect("again"), info);
}

pub(super) fn another_file_of_the_position_is_not_mixed_in(h: &mut SnapshotHarness) {
    let store = h.store();
    // The same name at two senders, or at one that has built it again.
    let (info, bytes) = sent(store, &sample(0, 3000));
    let (other, other_bytes) = sent(store, &sample(1, 3000));
    assert_eq!(info.key, other.key);
    let half = bytes.len() / 2;
    send_until(store, &SnapshotTransfer::of(&info), &bytes, half);
    let received = send_rest(store, &SnapshotTransfer::of(&other), &other_bytes);
    assert_eq!(received.expect("the other"), other);
    assert_eq!(read(store, &other.key), sample(1, 3000));
}
