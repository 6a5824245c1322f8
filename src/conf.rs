//! Which configurations raft can restore. Uses: nothing of ours. Never does I/O.
//!
//! `Raft::new` and a restored snapshot panic on one that it cannot reproduce, so it is refused before.

use std::collections::HashSet;

use raft::eraftpb::ConfState;

/// Says what is wrong with `conf_state`, if raft 0.7 could not restore it. Having no voters at all is
/// fine: a peer that knows nothing yet.
pub(crate) fn check_conf_state(conf_state: &ConfState) -> Result<(), String> {
    let voters = distinct("voters", &conf_state.voters)?;
    let learners = distinct("learners", &conf_state.learners)?;
    let outgoing = distinct("voters_outgoing", &conf_state.voters_outgoing)?;
    let next = distinct("learners_next", &conf_state.learners_next)?;
    if let Some(id) = learners.iter().find(|id| voters.contains(id)) {
        return Err(format!("peer {id} is both a voter and a learner"));
    }
    if let Some(id) = learners.iter().find(|id| outgoing.contains(id)) {
        return Err(format!("peer {id} is both an outgoing voter and a learner"));
    }
    if let Some(id) = next.iter().find(|id| !outgoing.contains(id)) {
        return Err(format!(
            "peer {id} is in learners_next, but not an outgoing voter"
        ));
    }
    if let Some(id) = next.iter().find(|id| voters.contains(id)) {
        return Err(format!(
            "peer {id} is in learners_next, but an incoming voter"
        ));
    }
    if voters.is_empty() && !(learners.is_empty() && outgoing.is_empty()) {
        return Err("it has learners or outgoing voters, but no voters".into());
    }
    if conf_state.auto_leave && outgoing.is_empty() {
        return Err("auto_leave is set, but it is not joint".into());
    }
    Ok(())
}

fn distinct(name: &str, ids: &[u64]) -> Result<HashSet<u64>, String> {
    let mut set = HashSet::with_capacity(ids.len());
    for id in ids {
        if *id == 0 {
            return Err(format!("{name} has the peer id 0"));
        }
        if !set.insert(*id) {
            return Err(format!("{name} has peer {id} twice"));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64]) -> ConfState {
        let mut conf = ConfState::default();
        conf.voters = voters.to_vec();
        conf.voters_outgoing = outgoing.to_vec();
        conf.learners = learners.to_vec();
        conf.learners_next = next.to_vec();
        conf
    }

    /// raft-rs itself is the judge: a storage with this configuration either starts or panics.
    fn raft_restores(conf_state: &ConfState) -> bool {
        let storage = raft::storage::MemStorage::new();
        storage.wl().set_conf_state(conf_state.clone());
        let config = raft::Config::new(1);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let start = || raft::RawNode::new(&config, storage, &logger).is_ok();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(start)).unwrap_or(false)
    }

    #[test]
    fn exactly_what_raft_restores_is_accepted() {
        let mut auto_leave = conf(&[1, 2], &[1, 3], &[4], &[3]);
        auto_leave.auto_leave = true;
        let mut stray_auto_leave = conf(&[1], &[], &[], &[]);
        stray_auto_leave.auto_leave = true;
        let cases = [
            conf(&[], &[], &[], &[]),
            conf(&[1], &[], &[], &[]),
            conf(&[1, 2, 3], &[], &[4, 5], &[]),
            conf(&[1, 2], &[1, 3], &[4], &[3]),
            conf(&[1, 2], &[1, 2, 3], &[], &[]),
            auto_leave,
            stray_auto_leave,
            conf(&[1], &[], &[1], &[]),
            conf(&[1], &[2], &[2], &[]),
            conf(&[1], &[2], &[], &[3]),
            conf(&[1], &[1, 2], &[], &[1]),
            conf(&[], &[], &[2], &[]),
            conf(&[], &[1], &[], &[]),
        ];
        for case in cases {
            let checked = check_conf_state(&case);
            assert_eq!(
                checked.is_ok(),
                raft_restores(&case),
                "{case:?}: {checked:?}"
            );
        }
    }

    #[test]
    fn ids_that_raft_would_fold_or_misuse_are_refused() {
        assert!(check_conf_state(&conf(&[1, 1], &[], &[], &[])).is_err());
        assert!(check_conf_state(&conf(&[1, 0], &[], &[], &[])).is_err());
    }
}
