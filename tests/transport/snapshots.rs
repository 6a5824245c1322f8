//! Files of snapshots: whole at the other store or not at all, and reported once.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use peerstore::tcp::{Reason, TcpOptions};
use peerstore::{
    PeerId, PeerMessage, RaftSnapshotData, RaftSnapshotStorage as _, RegionId, SnapshotInfo,
    SnapshotKey, StoreMessage, Transport as _,
};

use crate::garbage::offer;
use crate::support::*;

const MIB: usize = 1 << 20;

/// Two stores; the first has a snapshot with `bytes` of content, and its message to the second.
fn with_snapshot(bytes: usize) -> (Store, Store, SnapshotInfo, PeerMessage) {
    let (one, two) = pair();
    let info = write_snapshot(&*one.snapshots, 5, bytes);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    (one, two, info, message)
}

/// The one report of a snapshot of region 5 to store 2.
#[track_caller]
fn assert_reported(store: &Store, arrived: bool) {
    store.inbox.wait(|seen| !seen.snapshots_sent.is_empty());
    store.transport.stop(); // Whatever else were to be reported has been.
    let seen = store.inbox.seen();
    assert_eq!(seen.snapshots_sent, [(RegionId(5), PeerId(12), arrived)]);
    assert!(seen.unreachable.is_empty());
}

/// Nothing of a snapshot has stayed, and nobody was told of one.
#[track_caller]
fn assert_nothing_left(store: &Store) {
    store.transport.stop();
    let names = store.snapshot_names();
    assert!(names.is_empty(), "{names:?}");
    assert!(store.snapshots.list(None).unwrap().is_empty());
    assert!(store.inbox.seen().messages.is_empty());
    assert_eq!(store.transport.stats().snapshots_received, 0);
}

#[test]
fn a_file_of_some_megabytes_arrives_and_then_its_message() {
    let (one, two, info, message) = with_snapshot(5 * MIB);
    one.transport.send_snapshot(2, message.clone(), info.key);
    let seen = two.inbox.when(|seen| !seen.messages.is_empty());
    // When the message comes, the file is there.
    assert_eq!(seen.messages, [(1, StoreMessage::Peer(Box::new(message)))]);
    assert_eq!(seen.asked, 1);
    drop(seen);
    let received = two.snapshots.list(Some(RegionId(5))).unwrap();
    assert_eq!((received.len(), received[0].digest), (1, info.digest));
    let verdict = two.snapshots.verify(&received[0].key).unwrap();
    assert!(verdict.is_intact(), "{verdict}");
    let file = file_of(&*one.snapshots, &info.key);
    assert_eq!(file_of(&*two.snapshots, &received[0].key), file);
    assert_reported(&one, true);
    let (sent, got) = (one.transport.stats(), two.transport.stats());
    let bytes = info.file_bytes;
    assert_eq!((sent.snapshots_sent, sent.snapshot_bytes_sent), (1, bytes));
    assert_eq!(
        (got.snapshots_received, got.snapshot_bytes_received),
        (1, bytes)
    );
}

#[test]
fn a_file_takes_as_long_as_the_limit_of_bytes_per_second_says() {
    const RATE: u64 = 32 << 20;
    const BURST_US: u64 = 100_000;
    let one = Store::with(TcpOptions {
        snapshot_bytes_per_second: RATE,
        ..options(1)
    });
    let two = Store::new(2);
    one.knows(&two);
    let info = write_snapshot(&*one.snapshots, 5, 8 * MIB);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    let start = Instant::now();
    one.transport.send_snapshot(2, message, info.key);
    assert_reported(&one, true);
    // A slow machine takes longer, and then pauses less; none may be faster.
    let spent = start.elapsed().as_micros() as u64;
    let wanted = info.file_bytes * 1_000_000 / RATE;
    assert!(spent + BURST_US >= wanted, "{spent} us, expected {wanted}");
    assert!(one.transport.stats().snapshot_pauses_us <= wanted);
}

#[test]
fn a_file_that_travels_inside_goes_as_a_message_and_is_reported() {
    let (one, two, info, _) = with_snapshot(1000);
    let inline = file_of(&*one.snapshots, &info.key);
    let message = snapshot_message(&info, 1, 2, inline);
    one.transport.send_snapshot(2, message.clone(), info.key);
    two.inbox
        .wait(|seen| seen.messages == [(1, StoreMessage::Peer(Box::new(message.clone())))]);
    one.inbox.wait(|seen| seen.snapshots_sent.len() == 1);
    // Given as any message it is reported too.
    one.send(2, message);
    one.inbox
        .wait(|seen| seen.snapshots_sent == [(RegionId(5), PeerId(12), true); 2]);
    assert_eq!(
        (one.transport.stats().snapshots_sent, two.inbox.seen().asked),
        (0, 0)
    );
}

#[test]
fn a_snapshot_that_nobody_wants_is_refused_before_a_byte_of_it() {
    let (one, two, info, message) = with_snapshot(MIB);
    two.inbox.unwanted.lock().unwrap().push(RegionId(5));
    one.transport.send_snapshot(2, message, info.key);
    assert_reported(&one, false);
    assert_eq!(one.transport.stats().snapshot_bytes_sent, 0);
    assert_eq!(one.transport.stats().ended, [(Reason::Unwanted, 1)].into());
    two.wait_refused(Reason::Unwanted, 1);
    assert_nothing_left(&two);
}

#[test]
fn a_file_over_the_limit_is_refused_before_anybody_is_asked() {
    let one = Store::new(1);
    let two = Store::with(TcpOptions {
        snapshot_bytes_max: MIB as u64,
        ..options(2)
    });
    one.knows(&two);
    let info = write_snapshot(&*one.snapshots, 5, MIB);
    assert!(info.file_bytes > MIB as u64);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    one.transport.send_snapshot(2, message, info.key);
    assert_reported(&one, false);
    two.wait_refused(Reason::TooLong, 1);
    assert_eq!(two.inbox.seen().asked, 0);
    assert_nothing_left(&two);
}

#[test]
fn a_file_that_is_gone_and_a_store_that_is_away_are_reported() {
    let (one, two, info, message) = with_snapshot(1000);
    one.snapshots.delete(&info.key).unwrap();
    one.transport.send_snapshot(2, message.clone(), info.key);
    assert_reported(&one, false);
    assert_nothing_left(&two);
    // The second has stopped now.
    let three = Store::new(3);
    three.knows(&two);
    let info = write_snapshot(&*three.snapshots, 5, 1000);
    let message = snapshot_message(&info, 3, 2, Vec::new());
    three.transport.send_snapshot(2, message, info.key);
    assert_reported(&three, false);
}

/// The same, but for what has come of a file, which the next try goes on with.
#[track_caller]
fn assert_only_a_part_left(store: &Store) {
    store.transport.stop();
    let names = store.snapshot_names();
    let is_part = |name: &String| name.ends_with(".part");
    assert!(names.len() <= 1 && names.iter().all(is_part), "{names:?}");
    assert!(store.snapshots.list(None).unwrap().is_empty());
    assert!(store.inbox.seen().messages.is_empty());
    assert_eq!(store.transport.stats().snapshots_received, 0);
}

/// A client that has offered `message` and is to send its file.
fn accepted(store: &Store, bytes: u64, message: &PeerMessage) -> Client {
    let (client, offset) = resumed(store, bytes, message);
    assert_eq!(offset, 0, "nothing has come yet");
    client
}

/// The same, and where in the file it is to begin.
fn resumed(store: &Store, bytes: u64, message: &PeerMessage) -> (Client, usize) {
    let mut client = Client::welcomed(store, 1, SNAPSHOT);
    client.write(&offer(bytes, message));
    let answer = client.read_frame().unwrap();
    assert_eq!(answer[..5], [5, 0, 0, 16, 0], "a megabyte may come");
    let offset = match &answer[5..] {
        [] => 0,
        offset => u64::from_le_bytes(offset.try_into().unwrap()),
    };
    (client, offset as usize)
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    framed(&[&[6], bytes].concat())
}

/// What the receiver says last, after its grants.
fn verdict(client: &mut Client) -> Vec<u8> {
    loop {
        let payload = client.read_frame().unwrap();
        if payload[0] != 7 {
            return payload;
        }
    }
}

#[test]
fn a_transfer_that_is_cut_anywhere_leaves_no_snapshot_and_is_gone_on_with() {
    let (one, two, info, message) = with_snapshot(5 * MIB);
    let file = file_of(&*one.snapshots, &info.key);
    let (mut cuts, mut before) = (0, 0);
    for cut in [0, 1, 1000, file.len() / 2, file.len() - 1] {
        let (mut client, offset) = resumed(&two, info.file_bytes, &message);
        assert!(offset <= before, "{offset} bytes, {before} had come");
        assert_eq!(offset > MIB, before > 2 * MIB, "{offset} of {before}");
        for part in file[offset.min(cut)..cut].chunks(200_000) {
            client.write(&chunk(part));
        }
        client.finish_writing();
        let last = verdict(&mut client);
        assert_eq!(last[..2], [9, Reason::Closed as u8], "cut at {cut}");
        assert!(client.is_closed());
        (cuts, before) = (cuts + 1, cut);
        two.wait_refused(Reason::Closed, cuts);
        assert!(two.snapshots.list(None).unwrap().is_empty());
    }
    let sent_before = one.transport.stats().snapshot_bytes_sent;
    one.transport.send_snapshot(2, message, info.key);
    assert_reported(&one, true);
    let sent = one.transport.stats().snapshot_bytes_sent - sent_before;
    assert!(sent < 2 * MIB as u64, "{sent} bytes of {}", file.len());
    let received = two.snapshots.list(None).unwrap();
    assert_eq!(received, [info]);
    assert_eq!(file_of(&*two.snapshots, &received[0].key), file);
    assert_eq!(
        two.snapshot_names().len(),
        1,
        "nothing of the tries is left"
    );
}

#[test]
fn a_receiver_that_wants_more_than_there_is_is_refused() {
    let one = Store::new(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows_address(2, &listener.local_addr().unwrap().to_string());
    let info = write_snapshot(&*one.snapshots, 5, 3000);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    one.transport.send_snapshot(2, message, info.key);
    let mut client = Client(listener.accept().unwrap().0);
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_frame().unwrap();
    client.write(&crate::messages::welcome(2, 30_000));
    assert_eq!(client.read_frame().unwrap()[0], 4, "an offer");
    let offset = (info.file_bytes + 1).to_le_bytes();
    client.write(&framed(&[&[5, 0, 0, 16, 0], &offset[..]].concat()));
    assert_reported(&one, false);
    assert_eq!(one.transport.stats().ended, [(Reason::Protocol, 1)].into());
}

#[test]
fn a_sender_that_names_no_file_begins_at_the_start_each_time() {
    let (one, two, info, mut message) = with_snapshot(3000);
    let file = file_of(&*one.snapshots, &info.key);
    without_file_id(&mut message);
    for cut in [1000, file.len()] {
        let mut client = accepted(&two, info.file_bytes, &message);
        client.write(&chunk(&file[..cut]));
        client.finish_writing();
        let last = verdict(&mut client);
        assert_eq!(last[0], if cut < file.len() { 9 } else { 8 });
    }
    assert_eq!(two.snapshots.list(None).unwrap(), [info]);
}

/// As a store writes it that knows nothing of going on.
fn without_file_id(message: &mut PeerMessage) {
    use prost::Message as _;
    let peerstore::PeerBody::Raft(raft) = &mut message.body else {
        panic!("a message of raft");
    };
    let snapshot = raft.mut_snapshot();
    let data = RaftSnapshotData::of_snapshot(message.region, snapshot);
    let mut data = data.unwrap().unwrap();
    data.file_id = 0;
    snapshot.data = data.encode_to_vec().into();
}

/// Two stores, of which the first is sending the second a snapshot, slowly.
fn in_the_middle() -> (Store, Store) {
    let one = Store::with(TcpOptions {
        snapshot_bytes_per_second: 1 << 20,
        ..options(1)
    });
    let two = Store::new(2);
    one.knows(&two);
    let info = write_snapshot(&*one.snapshots, 5, 100 * MIB);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    one.transport.send_snapshot(2, message, info.key);
    two.wait_stats(|stats| stats.snapshot_bytes_received > 0);
    (one, two)
}

#[test]
fn a_sender_that_is_stopped_in_the_middle_reports_once_and_leaves_no_snapshot() {
    let (one, two) = in_the_middle();
    one.transport.stop();
    assert_reported(&one, false);
    two.wait_stats(|stats| stats.snapshots_refused == 1);
    assert_only_a_part_left(&two);
}

#[test]
fn a_receiver_that_is_stopped_in_the_middle_leaves_no_snapshot() {
    let (one, two) = in_the_middle();
    assert_only_a_part_left(&two);
    assert_reported(&one, false);
}

#[test]
fn content_that_is_not_what_was_announced_is_refused() {
    let (one, two, info, message) = with_snapshot(3000);
    let file = file_of(&*one.snapshots, &info.key);
    let refused = |client: &mut Client, reason: Reason| {
        assert_eq!(verdict(client)[..2], [9, reason as u8]);
        assert!(client.is_closed());
    };
    // Longer than announced.
    let mut client = accepted(&two, info.file_bytes, &message);
    client.write(&chunk(&[&file[..], b"more"].concat()));
    refused(&mut client, Reason::File);
    // A byte that was changed before it was framed: the file's own checksums find it.
    let mut client = accepted(&two, info.file_bytes, &message);
    let mut damaged = file.clone();
    damaged[500] ^= 1;
    client.write(&chunk(&damaged));
    refused(&mut client, Reason::File);
    // A byte that was changed on the way.
    let mut client = accepted(&two, info.file_bytes, &message);
    let mut frame = chunk(&file);
    frame[500] ^= 1;
    client.write(&frame);
    refused(&mut client, Reason::Checksum);
    // Another snapshot, whole.
    let other = write_snapshot(&*one.snapshots, 6, 3000);
    let other_file = file_of(&*one.snapshots, &other.key);
    assert_eq!(other_file.len(), file.len());
    let mut client = accepted(&two, info.file_bytes, &message);
    client.write(&chunk(&other_file));
    refused(&mut client, Reason::File);
    // A chunk without content, and one that is too long.
    for (bytes, reason) in [(0, Reason::Protocol), ((256 << 10) + 1, Reason::TooLong)] {
        let mut client = accepted(&two, info.file_bytes, &message);
        client.write(&chunk(&vec![0; bytes]));
        refused(&mut client, reason);
    }
    assert_nothing_left(&two);
}

#[test]
fn offers_that_make_no_sense_are_refused_before_anybody_is_asked() {
    let (one, two, info, message) = with_snapshot(3000);
    let inline = snapshot_message(&info, 1, 2, vec![1; 3000]);
    let mut mute = message.clone();
    mute.body = peerstore::PeerBody::Wake;
    let mut foreign = message.clone();
    foreign.from.store_id = 9;
    let bytes = info.file_bytes;
    let cases = [
        (offer(bytes + 1, &message), Reason::File),
        (offer(bytes, &inline), Reason::Protocol),
        (offer(bytes, &mute), Reason::Protocol),
        (offer(bytes, &foreign), Reason::Misaddressed),
        (chunk(b"unasked"), Reason::Protocol),
    ];
    for (frame, reason) in cases {
        let mut client = Client::welcomed(&two, 1, SNAPSHOT);
        client.write(&frame);
        assert_eq!(client.read_frame().unwrap()[..2], [9, reason as u8]);
    }
    assert_eq!(two.inbox.seen().asked, 0);
    assert_nothing_left(&two);
    drop(one);
}

#[test]
fn a_disk_that_fails_at_any_operation_refuses_and_leaves_nothing() {
    let (one, two, info, message) = with_snapshot(3000);
    let three = Store::new(3);
    one.knows(&three);
    let to_three = snapshot_message(&info, 1, 3, Vec::new());
    let before = three.fs.operations();
    one.transport.send_snapshot(3, to_three, info.key);
    one.inbox
        .wait(|seen| seen.snapshots_sent == [(RegionId(5), PeerId(13), true)]);
    let operations = three.fs.operations() - before;
    assert!(operations >= 4, "{operations}");
    for number in 0..operations {
        two.fs
            .fail_at(two.fs.operations() + number, ErrorKind::Other);
        one.transport.send_snapshot(2, message.clone(), info.key);
        let seen = one
            .inbox
            .when(|seen| seen.snapshots_sent.len() == 2 + number as usize);
        assert!(
            !seen.snapshots_sent[1 + number as usize].2,
            "operation {number}"
        );
    }
    two.wait_refused(Reason::File, operations);
    assert_nothing_left(&two);
}

#[test]
fn a_receiver_that_does_not_answer_in_time_is_given_up() {
    let one = Store::with(TcpOptions {
        snapshot_timeout: Duration::from_millis(100),
        ..options(1)
    });
    let two = Store::new(2);
    one.knows(&two);
    let info = write_snapshot(&*one.snapshots, 5, 1000);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    let thinks = two.inbox.asking.lock().unwrap();
    one.transport.send_snapshot(2, message, info.key);
    assert_reported(&one, false);
    drop(thinks);
    assert_eq!(one.transport.stats().ended, [(Reason::Slow, 1)].into());
    two.wait_stats(|stats| stats.snapshots_refused == 1);
    assert_nothing_left(&two);
}

#[test]
fn no_more_is_sent_than_the_receiver_grants() {
    let one = Store::new(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.knows_address(2, &listener.local_addr().unwrap().to_string());
    let info = write_snapshot(&*one.snapshots, 5, 2 * MIB);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    one.transport.send_snapshot(2, message, info.key);
    let mut client = Client(listener.accept().unwrap().0);
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_frame().unwrap();
    client.write(&crate::messages::welcome(2, 30_000));
    assert_eq!(client.read_frame().unwrap()[0], 4, "an offer");
    const CHUNK: u32 = 256 << 10;
    client.write(&framed(&[&[5], &CHUNK.to_le_bytes()[..]].concat()));
    let mut granted = u64::from(CHUNK);
    let mut received = 0;
    while received < info.file_bytes {
        let chunk = client.read_frame().unwrap();
        received += chunk.len() as u64 - 1;
        assert!(chunk[0] == 6 && received <= granted);
        assert_eq!(
            one.transport.stats().snapshot_bytes_sent.max(received),
            received
        );
        client.write(&framed(&[&[7], &CHUNK.to_le_bytes()[..]].concat()));
        granted += u64::from(CHUNK);
    }
    // All of it was sent, and it has not arrived before the receiver says so.
    assert!(one.inbox.seen().snapshots_sent.is_empty());
    client.write(&framed(&[8]));
    assert_reported(&one, true);
}

#[test]
fn two_arrive_at_once_and_a_third_waits_or_is_refused() {
    let one = Store::with(TcpOptions {
        snapshots_sent_at_once: 3,
        ..options(1)
    });
    let two = Store::with(TcpOptions {
        snapshots_received_at_once: 2,
        ..options(2)
    });
    one.knows(&two);
    let send = |region| {
        let info = write_snapshot(&*one.snapshots, region, MIB);
        let message = snapshot_message(&info, 1, 2, Vec::new());
        one.transport.send_snapshot(2, message, info.key);
    };
    let thinks = two.inbox.asking.lock().unwrap();
    send(5);
    send(6);
    two.inbox.wait(|seen| seen.asked == 2);
    send(7);
    one.inbox
        .wait(|seen| seen.snapshots_sent == [(RegionId(7), PeerId(12), false)]);
    two.wait_refused(Reason::Busy, 1);
    drop(thinks);
    one.inbox.wait(|seen| seen.snapshots_sent.len() == 3);
    assert!(
        one.inbox.seen().snapshots_sent[1..]
            .iter()
            .all(|(.., arrived)| *arrived)
    );
    assert_eq!(two.snapshots.list(None).unwrap().len(), 2);
    send(8); // There is room again.
    one.inbox
        .wait(|seen| seen.snapshots_sent.last() == Some(&(RegionId(8), PeerId(12), true)));
}

#[test]
fn snapshots_that_wait_are_sent_in_turn_and_reported_when_it_is_over() {
    let one = Store::with(TcpOptions {
        snapshots_sent_at_once: 1,
        snapshots_queued_max: 3,
        ..options(1)
    });
    let two = Store::new(2);
    one.knows(&two);
    let info = write_snapshot(&*one.snapshots, 5, 1000);
    let send = || {
        let message = snapshot_message(&info, 1, 2, Vec::new());
        one.transport.send_snapshot(2, message, info.key);
    };
    (0..3).for_each(|_| send());
    one.inbox
        .wait(|seen| seen.snapshots_sent == [(RegionId(5), PeerId(12), true); 3]);
    let thinks = two.inbox.asking.lock().unwrap();
    send();
    two.inbox.wait(|seen| seen.asked == 4);
    (0..4).for_each(|_| send()); // One more than may wait.
    one.inbox.wait(|seen| seen.snapshots_sent.len() == 4);
    drop(thinks);
    one.transport.stop();
    let seen = one.inbox.seen();
    assert_eq!(seen.snapshots_sent.len(), 8, "each is reported once");
    assert_eq!(seen.snapshots_sent[3], (RegionId(5), PeerId(12), false));
}

#[test]
fn the_message_says_which_file_it_means() {
    let one = Store::new(1);
    let info = write_snapshot(&*one.snapshots, 5, 1000);
    let message = snapshot_message(&info, 1, 2, Vec::new());
    let peerstore::PeerBody::Raft(raft) = &message.body else {
        panic!("{message:?}");
    };
    let data = RaftSnapshotData::of_snapshot(RegionId(5), raft.get_snapshot())
        .unwrap()
        .unwrap();
    assert_eq!(data.key(raft.get_snapshot()), info.key);
    assert_eq!(data.file_size, info.file_bytes);
    assert_ne!(info.key, SnapshotKey::default());
}
