//! Taking in the file of a snapshot: nothing of it before somebody wants it, nothing left if it is cut.

use std::sync::Arc;

use raft::eraftpb::{MessageType, Snapshot};

use super::frame::{Kind, frame};
use super::reason::{Reason, Refusal};
use super::serve::{LINGER, check_stores};
use super::shared::{Connection, Shared};
use crate::error::{Error, Result};
use crate::snapshot_data::RaftSnapshotData;
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotInfo, SnapshotReceiver};
use crate::transport::{PeerBody, PeerMessage, StoreMessage};

/// The content of a chunk; the last one may have less.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// How many bytes a sender may be ahead of what was written here.
const WINDOW_BYTES: u32 = 4 * CHUNK_BYTES as u32;

/// A snapshot that is offered.
struct Offer {
    message: Box<PeerMessage>,
    data: RaftSnapshotData,
}

/// The snapshot within a message, if it is raft's message of one.
pub(super) fn snapshot_of(message: &PeerMessage) -> Option<&Snapshot> {
    match &message.body {
        PeerBody::Raft(m) if m.get_msg_type() == MessageType::MsgSnapshot => Some(m.get_snapshot()),
        _ => None,
    }
}

/// Takes in one snapshot, and says to its sender how it went.
///
/// # Errors
/// Why it was refused or cut; the sender was told.
pub(super) fn receive(
    shared: &Arc<Shared>,
    mut connection: Connection,
    from: u64,
) -> Result<(), Refusal> {
    match take_in(shared, &mut connection, from) {
        Ok(()) => {
            shared.counters.snapshots_received.add(1);
            connection.allow(shared.options.io_timeout);
            // It is here, whether or not the sender hears of it.
            let _ = connection.write_frame(Kind::Done, &[]);
            Ok(())
        }
        Err(refusal) => {
            shared.counters.snapshots_refused.add(1);
            let mut payload = Vec::new();
            refusal.encode(&mut payload);
            connection.refuse(&frame(Kind::Refuse, &payload), LINGER);
            Err(refusal)
        }
    }
}

fn take_in(shared: &Shared, connection: &mut Connection, from: u64) -> Result<(), Refusal> {
    let stopped = || Refusal::new(Reason::Stopped, "the transport was stopped");
    let _slot = shared.downloads.take("snapshots")?;
    connection.allow(shared.options.io_timeout);
    let limit = shared.options.frame_bytes_max;
    let offer = Offer::decode(connection.read(limit)?, shared, from)?;
    let snapshots = {
        let inside = shared.gate.enter().ok_or_else(stopped)?;
        let accepted = inside.ends.inbox.accepts_snapshot(from, &offer.message);
        accepted.map_err(|e| Refusal::new(Reason::Unwanted, e.to_string()))?;
        Arc::clone(&inside.ends.snapshots)
    };
    let mut receiver = offer.receiver(&*snapshots).map_err(in_file)?;
    let offset = receiver.offset();
    let mut accept = WINDOW_BYTES.to_le_bytes().to_vec();
    if offset > 0 {
        accept.extend(offset.to_le_bytes());
    }
    connection.allow(shared.options.io_timeout);
    connection.write_frame(Kind::Accept, &accept)?;
    // What is there already is a part of the file, so it is not larger.
    let left = offer.data.file_size.saturating_sub(offset);
    take_chunks(shared, connection, &mut *receiver, left)?;
    commit(&*snapshots, receiver, &offer)?;
    let inside = shared.gate.enter().ok_or_else(stopped)?;
    shared.counters.messages_received.add(1);
    (inside.ends.inbox).message(from, StoreMessage::Peer(offer.message));
    Ok(())
}

fn in_file(error: Error) -> Refusal {
    Refusal::new(Reason::File, error.to_string())
}

impl Offer {
    /// Reads and checks what is offered, and how large it is.
    fn decode(payload: &[u8], shared: &Shared, from: u64) -> Result<Offer, Refusal> {
        let protocol = |detail: String| Refusal::new(Reason::Protocol, detail);
        let (kind, rest) = payload.split_first().unwrap_or((&0, &[]));
        let (size, message) = match rest.split_first_chunk::<8>() {
            Some((size, message)) if *kind == Kind::Offer as u8 => (*size, message),
            _ => {
                return Err(protocol(format!(
                    "a frame of kind {kind}, expected an offer"
                )));
            }
        };
        let undecoded = |e: String| Refusal::new(Reason::Message, e);
        let message = match StoreMessage::decode(message).map_err(|e| undecoded(e.to_string()))? {
            StoreMessage::Peer(message) => message,
            StoreMessage::Alive { .. } => {
                return Err(protocol("an offer without a snapshot".into()));
            }
        };
        check_stores(&message, from, shared.options.store_id)?;
        let snapshot =
            snapshot_of(&message).ok_or_else(|| protocol("an offer without a snapshot".into()))?;
        let data = RaftSnapshotData::of_snapshot(message.region, snapshot)
            .map_err(|e| undecoded(e.to_string()))?
            .filter(RaftSnapshotData::needs_transfer)
            .ok_or_else(|| protocol("an offer of a snapshot without a file".into()))?;
        let size = u64::from_le_bytes(size);
        if size != data.file_size {
            let expected = data.file_size;
            let detail = format!("{size} bytes are offered, its message says {expected}");
            return Err(Refusal::new(Reason::File, detail));
        }
        let limit = shared.options.snapshot_bytes_max;
        if size > limit {
            let detail = format!("a file of {size} bytes, expected at most {limit}");
            return Err(Refusal::new(Reason::TooLong, detail));
        }
        Ok(Offer { message, data })
    }
}

/// Writes as many bytes as were announced, granting more as they are written.
fn take_chunks(
    shared: &Shared,
    connection: &mut Connection,
    receiver: &mut dyn SnapshotReceiver,
    size: u64,
) -> Result<(), Refusal> {
    let mut left = size;
    while left > 0 {
        connection.allow(shared.options.idle_timeout);
        let payload = connection.read(CHUNK_BYTES as u32 + 1)?;
        let chunk = match payload.split_first() {
            Some((kind, chunk)) if *kind == Kind::Chunk as u8 && !chunk.is_empty() => chunk,
            _ => {
                let detail = format!("a frame of kind {}, expected a chunk", payload[0]);
                return Err(Refusal::new(Reason::Protocol, detail));
            }
        };
        let count = chunk.len() as u64;
        left = left.checked_sub(count).ok_or_else(|| {
            let detail = format!("{count} bytes come, {left} are left of {size}");
            Refusal::new(Reason::File, detail)
        })?;
        (receiver.write_all(chunk)).map_err(|e| Refusal::new(Reason::File, e.to_string()))?;
        shared.counters.snapshot_bytes_received.add(count);
        connection.allow(shared.options.io_timeout);
        connection.write_frame(Kind::Grant, &(count as u32).to_le_bytes())?;
    }
    Ok(())
}

/// Makes the file durable, if it is the one that was announced.
fn commit(
    snapshots: &dyn RaftSnapshotStorage,
    receiver: Box<dyn SnapshotReceiver>,
    offer: &Offer,
) -> Result<(), Refusal> {
    let before = snapshots.list(None).map_err(in_file)?;
    let info = receiver.commit().map_err(in_file)?;
    if offer.is_of(&info) {
        return Ok(());
    }
    let is_new = |info: &SnapshotInfo| before.iter().all(|other| other.key != info.key);
    if is_new(&info) {
        snapshots.delete(&info.key).map_err(in_file)?;
    }
    let detail = format!(
        "the file is of snapshot {}, not the one announced",
        info.key
    );
    Err(Refusal::new(Reason::File, detail))
}

impl Offer {
    /// Goes on with what is there of the file, or begins.
    fn receiver(&self, snapshots: &dyn RaftSnapshotStorage) -> Result<Box<dyn SnapshotReceiver>> {
        let snapshot = snapshot_of(&self.message);
        let transfer = snapshot.and_then(|snapshot| self.data.transfer(snapshot));
        let Some(transfer) = transfer else {
            return snapshots.receive();
        };
        match snapshots.resume(&transfer) {
            // An earlier connection is not known to be dead yet. It need not be waited for.
            Err(Error::SnapshotInUse { .. }) => snapshots.receive(),
            resumed => resumed,
        }
    }

    /// Whether the file is what the message means. Its sequence may differ: each store has its own.
    fn is_of(&self, info: &SnapshotInfo) -> bool {
        let announced = snapshot_of(&self.message).map(|snapshot| self.data.key(snapshot));
        let announced = announced.map(|key| (key.region, key.id.term, key.id.index));
        let got = (info.key.region, info.key.id.term, info.key.id.index);
        announced == Some(got) && info.digest[..] == self.data.digest[..]
    }
}
