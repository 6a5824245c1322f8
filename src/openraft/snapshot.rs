//! The files of snapshots: what is in front of their content, which one is the current one, and building
//! one. Uses: snapshot_store, peer_storage, gate, wire. Waits for the disk.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use openraft::{BasicNode, LogId, Snapshot, SnapshotMeta, StoredMembership};
use prost::Message as _;
use raft::eraftpb::ConfState;
use tokio::runtime::Handle;

use super::TypeConfig;
use super::gate::Gate;
use super::stream::SnapshotStream;
use super::wire::About;
use crate::app_store::DataView;
use crate::error::{Error, Result};
use crate::peer_storage::{Cancel, write_content};
use crate::proto::{Peer, PeerRole, Region, decode};
use crate::snapshot_store::{
    RaftSnapshotStorage, SnapshotInfo, SnapshotKey, SnapshotMeta as FileMeta, SnapshotReader,
};
use crate::types::{KeyRange, LogPosition, RegionId};

/// The tag of the record in front of the content, which has none of its own.
const ABOUT: u8 = 4;
/// Tag, length of the key, which is 0, length of the value: as the head of any record of the content.
const HEAD_BYTES: usize = 9;
/// A membership beyond this is none.
const ABOUT_BYTES_MAX: u32 = 16 << 20;

/// What a state machine has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Applied {
    pub log_id: Option<LogId<u64>>,
    pub membership: StoredMembership<u64, BasicNode>,
}

impl Applied {
    /// The index behind the last applied entry.
    pub fn end(&self) -> u64 {
        self.log_id.map_or(0, |id| id.index.saturating_add(1))
    }
}

impl From<About> for Applied {
    fn from(about: About) -> Self {
        Applied {
            log_id: about.last_log_id.map(LogId::from),
            membership: about.membership.into(),
        }
    }
}

/// The snapshots of one group.
#[derive(Clone)]
pub(super) struct Files {
    pub store: Arc<dyn RaftSnapshotStorage>,
    pub region: RegionId,
    pub range: KeyRange,
}

impl Files {
    /// Writes a snapshot of what `view` has, which stands at `applied`.
    ///
    /// # Errors
    /// Those of both stores; nothing is left of it then.
    pub fn write(&self, view: &dyn DataView, applied: &Applied) -> Result<SnapshotInfo> {
        let mut writer = self.store.create(self.meta(applied))?;
        let about = About {
            last_log_id: applied.log_id.map(Into::into),
            membership: (&applied.membership).into(),
        };
        let about = about.encode_to_vec();
        let mut head = [0; HEAD_BYTES];
        head[0] = ABOUT;
        let length = u32::try_from(about.len())
            .ok()
            .filter(|n| *n <= ABOUT_BYTES_MAX);
        let length = length.ok_or_else(|| {
            let got = format!("{} bytes", about.len());
            let expected = format!("at most {ABOUT_BYTES_MAX}");
            Error::invalid(self.region, "membership", got, expected)
        })?;
        head[5..].copy_from_slice(&length.to_le_bytes());
        let failed = |e: std::io::Error| stream_error("write snapshot", e);
        writer.write_all(&head).map_err(failed)?;
        writer.write_all(&about).map_err(failed)?;
        let cancel = Cancel::default();
        write_content(self.region, view, &self.range, &cancel, &mut *writer)?;
        writer.commit()
    }

    /// For the head of the file, which tools read.
    fn meta(&self, applied: &Applied) -> FileMeta {
        let membership = applied.membership.membership();
        let mut conf_state = ConfState::default();
        let ids = |voters: &std::collections::BTreeSet<u64>| voters.iter().copied().collect();
        if let Some((incoming, outgoing)) = membership.get_joint_config().split_last() {
            conf_state.voters = ids(incoming);
            conf_state.voters_outgoing = outgoing.first().map(ids).unwrap_or_default();
        }
        conf_state.learners = membership.learner_ids().collect();
        let mut region = Region::with_voters(self.region, self.range.clone(), []);
        region.peers = (membership.nodes())
            .map(|(id, _)| Peer {
                id: *id,
                store_id: *id,
                role: match conf_state.learners.contains(id) {
                    true => PeerRole::Learner as i32,
                    false => PeerRole::Voter as i32,
                },
            })
            .collect();
        let position = applied.log_id.map_or(LogPosition::default(), |id| {
            LogPosition::new(id.leader_id.term, id.index)
        });
        FileMeta {
            region,
            position,
            conf_state,
        }
    }

    /// Opens the content of `key`, behind what the snapshot is of.
    ///
    /// # Errors
    /// `SnapshotNotFound`; `Corruption` if it is no snapshot of openraft's; those of the store.
    pub fn open(&self, key: &SnapshotKey) -> Result<(Applied, Box<dyn SnapshotReader>)> {
        let mut reader = self.store.open(key)?;
        let corrupt =
            |detail: String| Error::corruption(Some(key.region), format!("snapshot {key}"), detail);
        let failed = |e: std::io::Error| match e.downcast::<Error>() {
            Ok(typed) => typed,
            Err(e) => corrupt(e.to_string()),
        };
        let mut head = [0; HEAD_BYTES];
        reader.read_exact(&mut head).map_err(failed)?;
        let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        if head[..5] != [ABOUT, 0, 0, 0, 0] || length > ABOUT_BYTES_MAX {
            return Err(corrupt(format!(
                "it begins with {head:02x?}, expected tag {ABOUT}: was it built by raft-rs?"
            )));
        }
        let mut about = Vec::new();
        let mut part = (&mut reader).take(u64::from(length));
        part.read_to_end(&mut about).map_err(failed)?;
        if about.len() < length as usize {
            let got = about.len();
            return Err(corrupt(format!("{got} bytes left, expected {length}")));
        }
        let about: About = decode(key.region, "what a snapshot is of", &about)?;
        Ok((about.into(), reader))
    }

    /// The newest snapshot that covers no more than `applied`: what was received and never installed is
    /// none of ours.
    ///
    /// # Errors
    /// Those of the store. A damaged file is passed over, and reported.
    pub fn current(&self, applied: &Applied) -> Result<Option<(Applied, SnapshotInfo)>> {
        let mut infos = self.store.list(Some(self.region))?;
        infos.sort_by_key(|info| std::cmp::Reverse(info.key));
        for info in infos {
            match self.open(&info.key) {
                Ok((of, _)) if of.log_id <= applied.log_id => return Ok(Some((of, info))),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a snapshot is passed over"),
            }
        }
        Ok(None)
    }

    /// Removes every snapshot but `keep` for which `goes` says so. One that is being sent stays until a
    /// later call.
    ///
    /// # Errors
    /// Those of the store.
    pub fn clean_up(
        &self,
        keep: Option<SnapshotKey>,
        goes: impl Fn(SnapshotKey) -> bool,
    ) -> Result<()> {
        for info in self.store.list(Some(self.region))? {
            if Some(info.key) == keep || !goes(info.key) {
                continue;
            }
            match self.store.delete(&info.key) {
                Ok(()) | Err(Error::SnapshotInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As openraft wants it, to be sent. Called in a runtime.
    ///
    /// # Errors
    /// Those of the store.
    pub fn to_send(&self, of: Applied, info: &SnapshotInfo) -> Result<Snapshot<TypeConfig>> {
        let file = self.store.send(&info.key)?;
        Ok(Snapshot {
            meta: meta_of(of, info),
            snapshot: Box::new(SnapshotStream::sending(Handle::current(), file)),
        })
    }

    /// Builds a snapshot of `view`, which stands at `applied`, and removes older ones. The data that it
    /// has read is durable before the snapshot is: openraft drops the log that it covers.
    ///
    /// # Errors
    /// Those of the stores; nothing is left of it then.
    pub fn build(
        &self,
        view: &dyn DataView,
        applied: &Applied,
        gate: &Gate,
    ) -> Result<Snapshot<TypeConfig>> {
        gate.sync()?;
        let info = self.write(view, applied)?;
        let built = info.key;
        if let Err(error) = self.clean_up(Some(built), |key| key < built) {
            tracing::warn!(%error, "older snapshots were not removed");
        }
        self.to_send(applied.clone(), &info)
    }
}

/// What openraft tells of a snapshot: the same on every node that has the file.
fn meta_of(of: Applied, info: &SnapshotInfo) -> SnapshotMeta<u64, BasicNode> {
    let place = match of.log_id {
        Some(id) => format!(
            "{}-{}-{}",
            id.leader_id.term, id.leader_id.node_id, id.index
        ),
        None => "empty".to_string(),
    };
    SnapshotMeta {
        last_log_id: of.log_id,
        last_membership: of.membership,
        snapshot_id: format!("{place}-{:016x}", info.file_id),
    }
}

/// A stream of ours has this crate's own error inside.
fn stream_error(op: &'static str, error: std::io::Error) -> Error {
    let stream = Path::new("(stream)");
    error
        .downcast()
        .unwrap_or_else(|e| Error::io(op, stream, e))
}
