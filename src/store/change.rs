//! What a client wants changed in the members of a region, as raft's conf change. Uses: proto.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::error::{Error, Result};
use crate::proto::{Peer, PeerRole, Region};
use crate::types::PeerId;

/// One change of the members of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePeer {
    /// This peer on this store votes from now on: a new one, or one that learned so far.
    AddVoter {
        /// The peer. A new one needs an id that no peer of the region has had.
        peer: PeerId,
        /// Its store.
        store: u64,
    },
    /// This peer on this store receives the log, and does not vote.
    AddLearner {
        /// The peer.
        peer: PeerId,
        /// Its store.
        store: u64,
    },
    /// This peer goes; its store removes what it has of the region.
    Remove(PeerId),
}

/// The change for raft, and the peers that come in with it. One is a simple change; more go through a
/// joint configuration, which raft leaves by itself.
///
/// # Errors
/// `Refused` if there is nothing to change, a peer is named twice, or a peer would come to a store that
/// has one already.
pub fn conf_change(region: &Region, changes: &[ChangePeer]) -> Result<(ConfChangeV2, Vec<Peer>)> {
    let refuse = |reason: String| Error::Refused {
        region: region.region_id(),
        what: "change of peers",
        reason,
    };
    if changes.is_empty() {
        return Err(refuse("no change was given".into()));
    }
    let mut change = ConfChangeV2::default();
    let (mut steps, mut comers, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for wanted in changes {
        let (kind, id, comer) = match *wanted {
            ChangePeer::AddVoter { peer, store } => {
                let comer = member(peer, store, PeerRole::Voter);
                (ConfChangeType::AddNode, peer, Some(comer))
            }
            ChangePeer::AddLearner { peer, store } => {
                let comer = member(peer, store, PeerRole::Learner);
                (ConfChangeType::AddLearnerNode, peer, Some(comer))
            }
            ChangePeer::Remove(peer) => (ConfChangeType::RemoveNode, peer, None),
        };
        if id.0 == 0 || named.contains(&id) {
            return Err(refuse(format!("peer {id} is named twice, or is no peer")));
        }
        named.push(id);
        check_comer(region, comer, &refuse)?;
        let known = region.peers.iter().any(|p| p.id == id.0);
        if comer.is_none() && !known {
            return Err(refuse(format!("peer {id} is not in the region")));
        }
        let mut step = ConfChangeSingle::default();
        step.set_change_type(kind);
        step.node_id = id.0;
        steps.push(step);
        comers.extend(comer);
    }
    if steps.len() > 1 {
        change.set_transition(ConfChangeTransition::Implicit);
    }
    change.set_changes(steps.into());
    Ok((change, comers))
}

fn member(peer: PeerId, store_id: u64, role: PeerRole) -> Peer {
    let (id, role) = (peer.0, role as i32);
    Peer { id, store_id, role }
}

/// A store has one peer of a region, and a peer does not move.
fn check_comer(
    region: &Region,
    comer: Option<Peer>,
    refuse: &impl Fn(String) -> Error,
) -> Result<()> {
    let Some(comer) = comer else {
        return Ok(());
    };
    let clash =
        (region.peers.iter()).find(|p| (p.id == comer.id) != (p.store_id == comer.store_id));
    match clash {
        None => Ok(()),
        Some(p) => Err(refuse(format!(
            "peer {} on store {} clashes with peer {} on store {}; remove that one first",
            comer.id, comer.store_id, p.id, p.store_id
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyRange;

    fn region() -> Region {
        Region::with_voters(1, KeyRange::all(), [(PeerId(11), 1), (PeerId(12), 2)])
    }

    #[test]
    fn one_change_is_simple_and_two_are_joint() -> Result<()> {
        let add = |peer: u64, store| ChangePeer::AddVoter {
            peer: PeerId(peer),
            store,
        };
        let (one, comers) = conf_change(&region(), &[add(13, 3)])?;
        assert_eq!(one.get_transition(), ConfChangeTransition::Auto);
        assert_eq!(comers[0].store_id, 3);
        let (two, _) = conf_change(&region(), &[add(13, 3), ChangePeer::Remove(PeerId(11))])?;
        assert_eq!(two.get_transition(), ConfChangeTransition::Implicit);
        assert_eq!(two.get_changes().len(), 2);
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let voter = |peer: u64, store| ChangePeer::AddVoter {
            peer: PeerId(peer),
            store,
        };
        let cases: [&[ChangePeer]; 6] = [
            &[],
            &[voter(13, 2)],
            &[voter(11, 3)],
            &[ChangePeer::Remove(PeerId(99))],
            &[voter(13, 3), voter(13, 3)],
            &[voter(0, 3)],
        ];
        for changes in cases {
            let error = conf_change(&region(), changes).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{changes:?}");
        }
    }
}
