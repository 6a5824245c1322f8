//! What d-engine's suite does not ask of a log, and d-engine relies on.

mod support;

use d_engine_core::{
    Error, HardState, LogStore, MetaStore as _, StateMachine as _, StorageEngine as _,
};
use d_engine_proto::common::{Entry, EntryPayload, LogId, Noop, entry_payload::Payload};
use d_engine_proto::server::election::VotedFor;
use peerstore::{Durability, LogBatch, RaftLogStorage as _, RegionId};
use peerstore_d_engine::{Options, Persistence, RECORD_REGION_BIT};
use support::{Home, LOGS, Stores, entries, entry, fields, insert};

/// Calls `case` with a home on each log store.
async fn on_every_home<F>(case: impl Fn(Home) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    for stores in LOGS {
        println!("on {stores:?}");
        let dir = tempfile::tempdir().unwrap();
        case(Home::new(dir.path(), *stores, Persistence::DiskFirst))
            .await
            .unwrap();
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

/// The indexes and terms of all that is there.
fn all(log: &impl LogStore) -> Vec<(u64, u64)> {
    let entries = log.get_entries(0..=u64::MAX).unwrap();
    for found in &entries {
        assert_eq!(*found, entry(found.index, found.term));
    }
    entries
        .iter()
        .map(|entry| (entry.index, entry.term))
        .collect()
}

fn refused(result: Result<(), Error>, part: &str) {
    let error = format!("{:?}", result.expect_err("it is refused"));
    assert!(error.contains(part), "{error}");
}

#[tokio::test]
async fn the_same_entries_again_leave_what_is_behind_them_and_others_take_it_away() {
    on_every_home(|home| async move {
        let log = home.open()?.0.log_store();
        log.persist_entries(entries(1..=6, 1)).await?;
        log.persist_entries(entries(2..=3, 1)).await?;
        assert_eq!(
            log.last_index(),
            6,
            "acknowledged, and persisted a second time"
        );
        log.persist_entries(entries(3..=4, 2)).await?;
        let expected = [(1, 1), (2, 1), (3, 2), (4, 2)];
        assert_eq!((log.last_index(), all(&*log)), (4, expected.to_vec()));
        drop(log);
        let log = home.open()?.0.log_store();
        assert_eq!((log.last_index(), all(&*log)), (4, expected.to_vec()));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_replaced_range_takes_the_tail_away_in_one_batch() {
    on_every_home(|home| async move {
        let engine = home.open()?.0;
        let log = engine.log_store();
        log.persist_entries(entries(1..=5, 1)).await?;
        log.replace_range(3, entries(3..=4, 2)).await?;
        assert_eq!(all(&*log), [(1, 1), (2, 1), (3, 2), (4, 2)]);
        log.replace_range(3, Vec::new()).await?;
        assert_eq!(log.last_index(), 2);
        refused(log.replace_range(2, entries(4..=4, 3)).await, "gap");
        assert_eq!(all(&*log), [(1, 1), (2, 1)], "nothing of it was done");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gap_and_what_was_purged_are_refused() {
    on_every_home(|home| async move {
        let log = home.open()?.0.log_store();
        refused(log.persist_entries(entries(0..=1, 1)).await, "1 or later");
        log.persist_entries(entries(1..=5, 1)).await?;
        refused(log.persist_entries(entries(7..=8, 1)).await, "gap");
        let torn = vec![entry(6, 1), entry(8, 1)];
        refused(log.persist_entries(torn).await, "expected entry 7");
        log.purge(id(1, 3)).await?;
        refused(log.persist_entries(entries(3..=4, 1)).await, "purged");
        assert_eq!(all(&*log), [(4, 1), (5, 1)]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_log_that_was_purged_whole_goes_on_behind_it_over_a_restart() {
    on_every_home(|home| async move {
        let log = home.open()?.0.log_store();
        log.persist_entries(entries(1..=5, 1)).await?;
        // A snapshot came that is further than the log.
        log.purge(id(3, 9)).await?;
        log.purge(id(2, 7)).await?;
        assert_eq!((log.last_index(), log.entry(5).await?), (9, None));
        drop(log);
        let log = home.open()?.0.log_store();
        assert_eq!(log.load_purge_boundary()?, Some(id(3, 9)));
        assert_eq!(log.last_index(), 9, "the next one is 10, not 1");
        refused(log.persist_entries(entries(11..=11, 3)).await, "gap");
        log.persist_entries(entries(10..=11, 3)).await?;
        log.truncate(1).await?;
        assert_eq!((log.last_index(), all(&*log)), (9, Vec::new()));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_truncation_behind_the_end_does_nothing() {
    on_every_home(|home| async move {
        let log = home.open()?.0.log_store();
        log.persist_entries(entries(1..=5, 1)).await?;
        log.truncate(6).await?;
        log.truncate(u64::MAX).await?;
        assert_eq!(log.last_index(), 5);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_reset_forgets_what_was_purged_and_keeps_the_vote() {
    on_every_home(|home| async move {
        let engine = home.open()?.0;
        let log = engine.log_store();
        engine.meta_store().save_hard_state(&hard_state(4, true))?;
        log.persist_entries(entries(1..=5, 1)).await?;
        log.purge(id(1, 3)).await?;
        log.reset().await?;
        drop((engine, log));
        let engine = home.open()?.0;
        let log = engine.log_store();
        assert_eq!((log.last_index(), log.load_purge_boundary()?), (0, None));
        assert_eq!(
            fields(engine.meta_store().load_hard_state()?),
            fields(Some(hard_state(4, true)))
        );
        log.persist_entries(entries(1..=2, 6)).await?;
        assert_eq!(all(&*log), [(1, 6), (2, 6)]);
        Ok(())
    })
    .await;
}

fn hard_state(term: u64, committed: bool) -> HardState {
    HardState {
        current_term: term,
        voted_for: Some(VotedFor {
            voted_for_id: 9,
            voted_for_term: term - 1,
            committed,
        }),
    }
}

#[tokio::test]
async fn a_hard_state_comes_back_with_every_field() {
    on_every_home(|home| async move {
        let none = HardState {
            current_term: 7,
            voted_for: None,
        };
        for state in [hard_state(5, false), hard_state(6, true), none] {
            home.open()?.0.meta_store().save_hard_state(&state)?;
            let loaded = home.open()?.0.meta_store().load_hard_state()?;
            assert_eq!(fields(loaded), fields(Some(state)));
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_payload_comes_back_as_it_was() {
    on_every_home(|home| async move {
        let payload = |payload| Some(EntryPayload { payload });
        let payloads = [
            None,
            payload(None),
            payload(Some(Payload::Noop(Noop {}))),
            payload(Some(Payload::Command("".into()))),
            payload(Some(Payload::Command(vec![0; 100_000].into()))),
        ];
        let entries: Vec<Entry> = (1..)
            .zip(payloads)
            .map(|(index, payload)| Entry {
                index,
                term: 2,
                payload,
            })
            .collect();
        home.open()?
            .0
            .log_store()
            .persist_entries(entries.clone())
            .await?;
        let log = home.open()?.0.log_store();
        assert_eq!(log.get_entries(1..=9)?, entries);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn disk_first_syncs_each_time_and_mem_first_when_it_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    for persistence in support::PERSISTENCES {
        let home = Home::new(dir.path(), Stores::Memory, persistence);
        let engine = home.open().unwrap().0;
        let log = engine.log_store();
        assert_eq!(
            log.is_write_durable(),
            persistence == Persistence::DiskFirst
        );
        log.persist_entries(entries(1..=3, 1)).await.unwrap();
        assert_eq!(log.last_index(), 3, "it can be read at once");
        let unsynced = home.memory_log().unsynced();
        assert_eq!(unsynced == 0, persistence == Persistence::DiskFirst);
        engine
            .meta_store()
            .save_hard_state(&hard_state(2, false))
            .unwrap();
        assert_eq!(home.memory_log().unsynced(), 0, "a vote is always durable");
        log.persist_entries(entries(4..=4, 1)).await.unwrap();
        log.flush().unwrap();
        assert_eq!(home.memory_log().unsynced(), 0);
    }
}

#[tokio::test]
async fn every_call_is_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path(), Stores::Memory, Persistence::DiskFirst);
    let engine = home.open().unwrap().0;
    let (log, meta) = (engine.log_store(), engine.meta_store());
    let mut batches = 0;
    let mut wrote = |number: u64| {
        batches += number;
        assert_eq!(home.memory_log().stats().writes, batches);
    };
    log.persist_entries(entries(1..=9, 1)).await.unwrap();
    wrote(1);
    meta.save_hard_state(&hard_state(2, false)).unwrap();
    wrote(1);
    log.replace_range(5, entries(5..=6, 2)).await.unwrap();
    wrote(1);
    log.truncate(6).await.unwrap();
    wrote(1);
    log.purge(id(1, 3)).await.unwrap();
    wrote(1);
    // What changes nothing writes nothing.
    log.purge(id(1, 3)).await.unwrap();
    log.truncate(6).await.unwrap();
    log.persist_entries(Vec::new()).await.unwrap();
    meta.save_hard_state(&hard_state(2, false)).unwrap();
    wrote(0);
    log.reset().await.unwrap();
    wrote(1);
}

#[tokio::test]
async fn entries_are_purged_only_behind_an_fsync_of_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path(), Stores::Memory, Persistence::DiskFirst);
    let (engine, state_machine) = home.open().unwrap();
    let log = engine.log_store();
    log.persist_entries(entries(1..=3, 1)).await.unwrap();
    let chunk = [insert(1, "a", "1"), insert(2, "b", "2")];
    state_machine.apply_chunk(&chunk).await.unwrap();
    assert!(
        home.memory_data().unsynced() > 0,
        "applying does not wait for the disk"
    );
    log.purge(id(1, 2)).await.unwrap();
    assert_eq!(home.memory_data().unsynced(), 0);
}

#[tokio::test]
async fn a_log_that_lost_an_entry_is_not_opened() {
    on_every_home(|home| async move {
        home.open()?
            .0
            .log_store()
            .persist_entries(entries(1..=5, 1))
            .await?;
        let node = home.node().unwrap();
        let mut batch = LogBatch::new();
        batch.remove(RegionId(1), 5..6);
        node.log().write(&batch, Durability::Synced).unwrap();
        drop(node);
        let error = home.open().err().expect("refused");
        assert!(error.is_fatal(), "{error:?}");
        assert!(format!("{error:?}").contains("entry 5"), "{error:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_group_takes_no_region_that_is_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path(), Stores::Memory, Persistence::DiskFirst);
    let node = std::sync::Arc::new(home.node().unwrap());
    for region in [0, RECORD_REGION_BIT, RECORD_REGION_BIT | 1] {
        let options = Options {
            region: RegionId(region),
            ..Options::default()
        };
        assert!(
            peerstore_d_engine::open(&node, options).is_err(),
            "{region}"
        );
    }
}
