//! What a restart finds: openraft's suite never restarts.

use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};
use openraft::{RaftLogReader as _, RaftSnapshotBuilder as _, Vote};
use peerstore::openraft::Groups;
use peerstore::{CompositeStorage, Config, Error, KvReply, RecoveryError, Region};

use crate::entries::{append, blank, everything, log_id, members, put};
use crate::support::{BACKENDS, Backend, Site, run_with};

#[test]
fn vote_entries_purge_and_snapshot_come_back_byte_for_byte() {
    for backend in BACKENDS {
        run_with(async {
            let site = Site::new(*backend);
            let entries = vec![
                members(log_id(0, 0, 0), &[1, 2, 300]),
                blank(log_id(1, 2, 1)),
                put(log_id(1, 2, 2), "a", "1"),
                put(log_id(1, 2, 3), "b", "2"),
                blank(log_id(3, 300, 4)),
                put(log_id(3, 300, 5), "a", "3"),
                put(log_id(3, 300, 6), "never", "applied"),
            ];
            let vote = Vote::new_committed(3, 300);
            let snapshot = {
                let (mut log, mut machine) = site.open().expect("a new group opens");
                log.save_vote(&vote).await?;
                append(&mut log, entries.clone()).await?;
                let replies = machine.apply(entries[..6].to_vec()).await?;
                let done = Some(KvReply::Done);
                let expected = [None, None, done.clone(), done.clone(), None, done];
                assert_eq!(replies, expected);
                let mut builder = machine.get_snapshot_builder().await;
                let snapshot = builder.build_snapshot().await?;
                log.purge(log_id(1, 2, 3)).await?;
                log.save_committed(Some(log_id(3, 300, 5))).await?;
                snapshot.meta
            };

            let (mut log, mut machine) = site.open_when_free().await;
            assert_eq!(log.read_vote().await?, Some(vote));
            assert_eq!(log.read_committed().await?, Some(log_id(3, 300, 5)));
            let state = log.get_log_state().await?;
            assert_eq!(state.last_purged_log_id, Some(log_id(1, 2, 3)));
            assert_eq!(state.last_log_id, Some(log_id(3, 300, 6)));
            assert_eq!(log.try_get_log_entries(0..100).await?, entries[4..]);
            let (applied, membership) = machine.applied_state().await?;
            assert_eq!(applied, Some(log_id(3, 300, 5)));
            assert_eq!(*membership.log_id(), Some(log_id(0, 0, 0)));
            let nodes = membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone()));
            let expected = [1, 2, 300].map(|id| (id, format!("node {id}")));
            assert_eq!(nodes.collect::<Vec<_>>(), expected);
            let current = machine.get_current_snapshot().await?.expect("it was built");
            assert_eq!(current.meta, snapshot);
            let data = everything(&machine.reader());
            let expected = [("a", "3"), ("b", "2")].map(|(k, v)| (k.to_string(), v.to_string()));
            assert_eq!(data, expected.into());
            Ok(())
        });
    }
}

#[test]
fn a_truncated_tail_does_not_come_back_in_front_of_what_replaced_it() {
    for backend in BACKENDS {
        run_with(async {
            let site = Site::new(*backend);
            {
                let (mut log, _machine) = site.open().expect("a new group opens");
                log.save_vote(&Vote::new(1, 1)).await?;
                let old = (0..9).map(|index| put(log_id(1, 1, index), "old", "old"));
                append(&mut log, old.collect()).await?;
                log.truncate(log_id(1, 1, 4)).await?;
                let state = log.get_log_state().await?;
                assert_eq!(state.last_log_id, Some(log_id(1, 1, 3)));
                append(&mut log, vec![put(log_id(2, 2, 4), "new", "new")]).await?;
            }
            let (mut log, _machine) = site.open_when_free().await;
            let ids = log
                .try_get_log_entries(..)
                .await?
                .into_iter()
                .map(|e| e.log_id);
            let mut expected: Vec<_> = (0..4).map(|index| log_id(1, 1, index)).collect();
            expected.push(log_id(2, 2, 4));
            assert_eq!(ids.collect::<Vec<_>>(), expected);
            Ok(())
        });
    }
}

#[test]
fn long_reads_are_cut_and_end_where_the_log_does() {
    run_with(async {
        let site = Site::new(Backend::AppendLog);
        let big = "x".repeat(300 << 10);
        {
            let (mut log, _machine) = site.open().expect("a new group opens");
            let entries = (0..9).map(|index| put(log_id(1, 1, index), "key", &big));
            append(&mut log, entries.collect()).await?;
            // From the cache, which has them all.
            let some = log.limited_get_log_entries(2, 100).await?;
            assert_eq!((some[0].log_id.index, some.len()), (2, 3));
        }
        // From the store: the cache is empty.
        let (mut log, _machine) = site.open_when_free().await;
        let some = log.limited_get_log_entries(2, 100).await?;
        assert_eq!((some[0].log_id.index, some.len()), (2, 3));
        append(&mut log, vec![put(log_id(1, 1, 9), "key", "small")]).await?;
        // Both of them have a part.
        let all = log.try_get_log_entries(7..).await?;
        let indexes: Vec<u64> = all.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(indexes, [7, 8, 9]);
        Ok(())
    });
}

#[test]
fn a_group_has_one_owner_and_an_id_of_its_own() {
    let config = Config {
        log: peerstore::LogBackend::Memory,
        app: peerstore::AppBackend::Memory,
        snapshot: peerstore::SnapshotConfig {
            backend: peerstore::SnapshotBackend::Memory,
            ..Default::default()
        },
        ..Config::default()
    };
    let node = CompositeStorage::open("nowhere", config).expect("a node in memory");
    let groups = Groups::of(&node).expect("a thread");
    let opened = groups.open(1).expect("a new group opens");
    assert!(matches!(groups.open(1), Err(Error::RegionOpen { .. })));
    drop(opened);
    drop(groups.open(1).expect("it is free again"));
    let refused = groups.open(1 << 63).unwrap_err();
    assert!(
        matches!(refused, Error::InvalidArgument { .. }),
        "{refused}"
    );
    drop(
        node.create_region(&Region::single(2, 1))
            .expect("a region of raft-rs"),
    );
    let refused = groups.open(2).unwrap_err().to_string();
    assert!(refused.contains("got a region of raft-rs, expected an id that no region has"));
}

#[test]
fn stores_that_do_not_belong_together_are_refused() {
    run_with(async {
        let mut site = Site::new(Backend::AppendLog);
        {
            let (mut log, mut machine) = site.open().expect("a new group opens");
            log.save_vote(&Vote::new(1, 1)).await?;
            let entries: Vec<_> = (0..5).map(|i| put(log_id(1, 1, i), "k", "v")).collect();
            append(&mut log, entries.clone()).await?;
            machine.apply(entries).await?;
            log.purge(log_id(1, 1, 2)).await?;
        }
        // The data is lost, and the entries that would bring it back are purged.
        let data = std::mem::take(&mut site.data);
        let lost = site.open().unwrap_err();
        let Error::Recovery { source, .. } = &lost else {
            panic!("{lost}");
        };
        let expected = RecoveryError::AppliedEntryMissing {
            applied: 0,
            truncated_index: 2,
        };
        assert_eq!(*source, expected);
        // The log is lost, and with it the vote.
        let mut other = Site::new(Backend::AppendLog);
        other.data = data;
        let lost = other.open().unwrap_err();
        let source = RecoveryError::HardStateMissing;
        assert!(matches!(lost, Error::Recovery { source: s, .. } if s == source));
        Ok(())
    });
}
