//! Messages on their way out: with the peers' addresses, the epoch, and the range where a peer may have
//! to be made. Uses: transport, peer_storage.

use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};

use super::{Outbox, Peer, Refusal, Stage};
use crate::proto::Peer as PeerMeta;
use crate::transport::{PeerBody, PeerMessage};

impl Peer {
    /// Puts raft's messages into envelopes. One to a peer that nobody knows is reported as not sent.
    pub(super) fn send(&mut self, messages: Vec<Message>, out: &mut Outbox) {
        for message in messages {
            let Some(to) = self.peer_meta(message.to) else {
                tracing::debug!(region = %self.region_id(), to = message.to, "peer not known");
                self.unsent.push(message.to);
                continue;
            };
            let kind = message.get_msg_type();
            let envelope = self.envelope(to, needs_range(&message), PeerBody::Raft(message), out);
            match kind {
                MessageType::MsgSnapshot => out.snapshots.push((to.store_id, envelope)),
                _ => out.messages.push((to.store_id, envelope)),
            }
        }
    }

    /// Says `body` to a peer.
    pub fn say(&self, to: PeerMeta, body: PeerBody, out: &mut Outbox) {
        let envelope = self.envelope(to, false, body, out);
        out.messages.push((to.store_id, envelope));
    }

    fn envelope(
        &self,
        to: PeerMeta,
        with_range: bool,
        body: PeerBody,
        out: &Outbox,
    ) -> PeerMessage {
        let region = self.region();
        PeerMessage {
            region: self.region_id(),
            from: self.own_meta(out.store_id),
            to,
            epoch: region.region_epoch,
            range: (with_range && region.is_initialized()).then(|| region.range()),
            body,
        }
    }

    /// Gives raft a message of another peer.
    ///
    /// # Errors
    /// Why it was refused: nothing has changed then.
    pub fn step(&mut self, envelope: &PeerMessage, message: Message) -> Result<(), Refusal> {
        if !matches!(self.stage, Stage::Active) {
            // raft makes up for what is lost.
            return Ok(());
        }
        self.check_message(envelope, &message)?;
        if !self.region().is_initialized() || self.peer_meta(envelope.from.id).is_none() {
            self.learn(envelope.from);
        }
        match message.get_msg_type() {
            MessageType::MsgSnapshot => self.snapshot = Some(Box::new(message)),
            // With writes on their way raft must not become a leader at once.
            MessageType::MsgTimeoutNow if !self.in_flight.is_empty() => {}
            kind => {
                if wakes(kind) {
                    self.busy();
                }
                if let Err(error) = self.raft.step(message) {
                    tracing::debug!(region = %self.region_id(), %error, "message not taken");
                }
            }
        }
        Ok(())
    }

    /// A message to `to` did not leave.
    pub fn unreachable(&mut self, to: u64) {
        if matches!(self.stage, Stage::Active) {
            self.raft.report_unreachable(to);
        }
    }

    /// The snapshot for `to` has arrived, or will not.
    pub fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        if !matches!(self.stage, Stage::Active) {
            return;
        }
        let status = match arrived {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.raft.report_snapshot(to, status);
        self.busy();
    }
}

/// Whether a message may make the peer it is for; that one has to know its keys.
fn needs_range(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
        MessageType::MsgHeartbeat => message.commit == 0,
        _ => false,
    }
}

/// Whether a region that hears this has something to do.
fn wakes(kind: MessageType) -> bool {
    !matches!(
        kind,
        MessageType::MsgHeartbeatResponse | MessageType::MsgHeartbeat
    )
}
