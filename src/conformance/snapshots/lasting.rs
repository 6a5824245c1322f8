//! Cases of stores that are opened again. Uses: the seam.

use std::io::Write as _;

use super::transfers::{send_rest, send_until, sent};
use super::{R, SnapshotHarness, create, meta, names, read, sample};
use crate::SnapshotTransfer;

pub(super) fn reopening_keeps_every_snapshot(h: &mut SnapshotHarness) {
    for index in [10, 20] {
        create(h.store(), meta(R, 5, index), &sample(index as u8, 5000));
    }
    let before = h.store().list(None).expect("list");
    if !h.reopen().expect("reopen") {
        return;
    }
    assert_eq!(h.store().list(None).expect("list"), before);
    for info in before {
        let index = info.meta.position.index;
        assert_eq!(read(h.store(), &info.key), sample(index as u8, 5000));
        assert!(h.store().verify(&info.key).expect("verify").is_intact());
    }
    let next = create(h.store(), meta(R, 5, 20), b"content");
    assert_eq!(next.key.id.sequence, 1, "names are not given twice");
}

pub(super) fn a_power_cut_forgets_what_was_not_committed(h: &mut SnapshotHarness) {
    let mut writer = h.store().create(meta(R, 5, 10)).expect("create");
    writer.write_all(&sample(0, 100_000)).expect("write");
    // Nobody gets to say that it is given up.
    std::mem::forget(writer);
    if h.crash().expect("crash") {
        assert_eq!(names(h.store(), None), [""; 0]);
        assert_eq!(create(h.store(), meta(R, 5, 10), b"").key.id.sequence, 0);
    }
}

pub(super) fn reopening_does_not_bring_back_what_was_deleted(h: &mut SnapshotHarness) {
    let one = create(h.store(), meta(R, 5, 10), b"one");
    create(h.store(), meta(R, 5, 20), b"two");
    h.store().delete(&one.key).expect("delete");
    if h.reopen().expect("reopen") {
        assert_eq!(names(h.store(), None), ["7-5-20-0"]);
    }
}

pub(super) fn a_transfer_goes_on_after_reopening(h: &mut SnapshotHarness) {
    let content = sample(0, 200_000);
    let (info, bytes) = sent(h.store(), &content);
    let transfer = SnapshotTransfer::of(&info);
    send_until(h.store(), &transfer, &bytes, bytes.len() / 2);
    if !h.reopen().expect("reopen") {
        return;
    }
    assert_eq!(names(h.store(), None), [""; 0]);
    let received = send_rest(h.store(), &transfer, &bytes);
    assert_eq!(received.expect("the rest"), info);
    assert_eq!(read(h.store(), &info.key), content);
}

pub(super) fn a_power_cut_spares_what_was_committed(h: &mut SnapshotHarness) {
    let one = create(h.store(), meta(R, 5, 10), &sample(1, 5000));
    let (_, bytes) = sent(h.store(), &sample(2, 5000));
    let two = h.store().install(&mut &bytes[..]).expect("install");
    let gone = create(h.store(), meta(R, 5, 30), b"gone");
    h.store().delete(&gone.key).expect("delete");
    if h.crash().expect("crash") {
        assert_eq!(
            h.store().list(None).expect("list"),
            [one.clone(), two.clone()]
        );
        assert_eq!(read(h.store(), &one.key), sample(1, 5000));
        assert_eq!(read(h.store(), &two.key), sample(2, 5000));
    }
}

pub(super) fn a_transfer_goes_on_after_a_power_cut(h: &mut SnapshotHarness) {
    let content = sample(0, 200_000);
    let (info, bytes) = sent(h.store(), &content);
    let transfer = SnapshotTransfer::of(&info);
    send_until(h.store(), &transfer, &bytes, bytes.len() - 1);
    if h.crash().expect("crash") {
        // Whatever is left of it: less may be there, never anything else.
        let received = send_rest(h.store(), &transfer, &bytes);
        assert_eq!(received.expect("the rest"), info);
        assert_eq!(read(h.store(), &info.key), content);
    }
}
