//! What d-engine's suite does not ask of a state machine, and its users rely on.

#[path = "support/flaky.rs"]
mod flaky;
mod support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{ApplyResult, Error, StateMachine as _};
use d_engine_proto::common::LogId;
use d_engine_proto::server::storage::SnapshotMetadata;
use flaky::Flaky;
use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{ApplicationDataStorage as _, CompositeStorage, Config, Parts};
use peerstore_d_engine::{Options, PeerstoreStateMachine, Persistence, SNAPSHOT_FILE};
use support::{DATA, Home, Stores, insert, insert_until, swap};

/// Calls `case` with a home on each data store.
async fn on_every_home<F>(case: impl Fn(Home) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    for stores in DATA {
        println!("on {stores:?}");
        let dir = tempfile::tempdir().unwrap();
        case(Home::new(dir.path(), *stores, Persistence::DiskFirst))
            .await
            .unwrap();
    }
}

fn in_memory() -> Home {
    Home::new(Path::new("unused"), Stores::Memory, Persistence::DiskFirst)
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

fn value(text: &str) -> Option<Bytes> {
    Some(text.to_owned().into())
}

/// A snapshot of `from` that d-engine calls by `included`, in the directory that d-engine would unpack.
async fn generate(from: &PeerstoreStateMachine, included: u64, dir: &Path) -> SnapshotMetadata {
    let checksum = from
        .generate_snapshot_data(dir.to_path_buf(), id(included))
        .await
        .unwrap();
    let metadata = SnapshotMetadata {
        last_included: Some(id(included)),
        checksum,
    };
    assert_eq!(from.snapshot_metadata(), Some(metadata.clone()));
    metadata
}

#[tokio::test]
async fn an_entry_that_was_applied_is_not_applied_again() {
    on_every_home(|home| async move {
        let state_machine = home.open()?.1;
        let chunk = [insert(1, "lock", "a"), swap(2, "lock", Some("a"), "b")];
        assert!(state_machine.apply_chunk(&chunk).await?[1].succeeded);
        // It would fail now, and the put before it would take the value back.
        state_machine.apply_chunk(&chunk).await?;
        assert_eq!(state_machine.get(b"lock")?, value("b"));
        drop(state_machine);
        let state_machine = home.open()?.1;
        let more = [chunk[0].clone(), chunk[1].clone(), insert(3, "more", "c")];
        let results = state_machine.apply_chunk(&more).await?;
        assert_eq!(
            (results.len(), results[2].clone()),
            (3, ApplyResult::success(3))
        );
        assert_eq!(state_machine.get(b"lock")?, value("b"));
        assert_eq!(state_machine.last_applied(), id(3));
        assert_eq!(
            (state_machine.entry_term(3), state_machine.entry_term(2)),
            (Some(1), None)
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_chunk_and_the_index_that_it_reaches_are_one_batch() {
    let home = in_memory();
    let state_machine = home.open().unwrap().1;
    let chunk = [insert(1, "a", "1"), swap(2, "a", Some("1"), "2")];
    state_machine.apply_chunk(&chunk).await.unwrap();
    assert_eq!(home.memory_data().stats().writes, 1);
}

#[tokio::test]
async fn a_chunk_with_a_gap_changes_nothing() {
    on_every_home(|home| async move {
        let state_machine = home.open()?.1;
        for chunk in [
            vec![insert(2, "a", "1")],
            vec![insert(1, "a", "1"), insert(3, "b", "2")],
            vec![insert(1, "a", "1"), insert(1, "b", "2")],
        ] {
            let error = state_machine.apply_chunk(&chunk).await.expect_err("a gap");
            assert!(
                format!("{error:?}").contains("behind what was applied"),
                "{error:?}"
            );
        }
        assert_eq!(
            (state_machine.last_applied(), state_machine.len()),
            (id(0).with_term(0), 0)
        );
        Ok(())
    })
    .await;
}

trait WithTerm {
    fn with_term(self, term: u64) -> Self;
}

impl WithTerm for LogId {
    fn with_term(self, term: u64) -> Self {
        LogId { term, ..self }
    }
}

#[tokio::test]
async fn a_snapshot_that_is_called_by_an_earlier_entry_is_not_applied_twice() {
    on_every_home(|home| async move {
        let from = in_memory().open()?.1;
        // From "c", applying the last two a second time would end in "b".
        let (first, second) = (swap(2, "x", Some("a"), "b"), swap(3, "x", Some("c"), "a"));
        let chunk = [insert(1, "x", "c"), first.clone(), second.clone()];
        from.apply_chunk(&chunk).await?;
        assert_eq!(from.get(b"x")?, value("a"));
        let dir = tempfile::tempdir().unwrap();
        let metadata = generate(&from, 1, dir.path()).await;

        let to = home.open()?.1;
        to.apply_snapshot_from_file(&metadata, dir.path().to_path_buf())
            .await?;
        assert_eq!(to.snapshot_metadata(), Some(metadata));
        assert_eq!(
            to.last_applied(),
            id(3),
            "what is in the data, not what it is called by"
        );
        to.apply_chunk(&[first, second, insert(4, "y", "1")])
            .await?;
        assert_eq!((to.get(b"x")?, to.get(b"y")?), (value("a"), value("1")));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_is_taken_from_its_file_and_survives_a_restart() {
    on_every_home(|home| async move {
        let from = in_memory().open()?.1;
        from.apply_chunk(&[insert(1, "a", "1"), insert(2, "b", "2")])
            .await?;
        let dir = tempfile::tempdir().unwrap();
        let metadata = generate(&from, 2, dir.path()).await;
        let to = home.open()?.1;
        to.apply_chunk(&[insert(1, "old", "1")]).await?;
        let file = dir.path().join(SNAPSHOT_FILE);
        to.apply_snapshot_from_file(&metadata, file).await?;
        drop(to);
        let to = home.open()?.1;
        assert_eq!(
            (to.get(b"a")?, to.get(b"old")?, to.len()),
            (value("1"), None, 2)
        );
        assert_eq!(
            (to.last_applied(), to.snapshot_metadata()),
            (id(2), Some(metadata))
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_is_not_the_announced_one_changes_nothing() {
    on_every_home(|home| async move {
        let from = in_memory().open()?.1;
        from.apply_chunk(&[insert(1, "a", "1"), insert(2, "b", "2")])
            .await?;
        let dir = tempfile::tempdir().unwrap();
        let metadata = generate(&from, 2, dir.path()).await;
        let to = home.open()?.1;
        to.apply_chunk(&[insert(1, "own", "1")]).await?;

        let mut other = metadata.clone();
        other.checksum = vec![7; 32].into();
        let mut later = metadata.clone();
        later.last_included = Some(id(3));
        let file = dir.path().join(SNAPSHOT_FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        for (metadata, part) in [(&other, "digest"), (&later, "3 at least")] {
            let applied = to.apply_snapshot_from_file(metadata, file.clone()).await;
            let error = applied.expect_err("refused");
            assert!(format!("{error:?}").contains(part), "{error:?}");
        }
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let damaged = to.apply_snapshot_from_file(&metadata, file.clone()).await;
        assert!(damaged.expect_err("damaged").is_fatal());
        let missing = to
            .apply_snapshot_from_file(&metadata, "missing".into())
            .await;
        assert!(!missing.expect_err("missing").is_fatal());

        assert!(to.is_running());
        assert_eq!((to.get(b"own")?, to.last_applied()), (value("1"), id(1)));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_is_behind_the_data_is_refused() {
    on_every_home(|home| async move {
        let from = in_memory().open()?.1;
        from.apply_chunk(&[insert(1, "a", "1")]).await?;
        let dir = tempfile::tempdir().unwrap();
        let metadata = generate(&from, 1, dir.path()).await;
        let to = home.open()?.1;
        to.apply_chunk(&[insert(1, "a", "1"), insert(2, "a", "2")])
            .await?;
        let applied = to
            .apply_snapshot_from_file(&metadata, dir.path().to_path_buf())
            .await;
        assert!(format!("{:?}", applied.expect_err("behind")).contains("2 at least"));
        assert_eq!(to.get(b"a")?, value("2"));
        let beyond = from
            .generate_snapshot_data(dir.path().join("b"), id(2))
            .await;
        assert!(format!("{:?}", beyond.expect_err("beyond")).contains("applied last"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_was_cut_anywhere_is_gone_on_with() {
    let from = in_memory().open().unwrap().1;
    from.apply_chunk(&[insert(1, "a", "1"), insert(2, "b", "2")])
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let metadata = generate(&from, 2, dir.path()).await;
    let mut cuts = Vec::new();
    // One change puts what was there; then it is noted, imported and said to be done.
    for changes in 1..=4 {
        let (log, app) = (Arc::new(MemoryLog::new()), Arc::new(MemoryData::new()));
        let snapshots = Arc::new(MemorySnapshots::new());
        let open = |changes| {
            let parts = Parts {
                log: log.clone(),
                app: Arc::new(Flaky::new(&app, changes)),
                snapshots: snapshots.clone(),
            };
            let node = CompositeStorage::from_parts(parts, &Config::default()).unwrap();
            peerstore_d_engine::open(&Arc::new(node), Options::default())
                .unwrap()
                .1
        };
        let to = open(changes);
        to.apply_chunk(&[insert(1, "old", "1")]).await.unwrap();
        let applied = to
            .apply_snapshot_from_file(&metadata, dir.path().to_path_buf())
            .await;
        let is_half = (2..4).contains(&changes);
        assert_eq!(applied.is_err(), changes < 4);
        assert_eq!(to.get(b"old").is_err(), is_half, "half of it is not shown");
        assert_eq!(to.start().await.is_err(), is_half);
        assert_eq!(
            to.apply_chunk(&[insert(2, "c", "3")]).await.is_err(),
            changes < 4
        );
        drop(to);
        let to = open(u64::MAX);
        cuts.push(to.get(b"a").unwrap().is_some());
        match changes {
            1 => assert_eq!(
                (to.get(b"old").unwrap(), to.last_applied()),
                (value("1"), id(1))
            ),
            _ => assert_eq!(
                (to.get(b"b").unwrap(), to.last_applied()),
                (value("2"), id(2))
            ),
        }
        assert_eq!(to.len(), if changes == 1 { 1 } else { 2 });
    }
    assert_eq!(
        cuts,
        [false, true, true, true],
        "before it is noted, and behind"
    );
}

#[tokio::test]
async fn a_lease_ends_at_its_time_and_its_key_is_told_once() {
    on_every_home(|home| async move {
        let state_machine = home.open()?.1;
        let chunk = [
            insert_until(1, "short", "a", Some(1)),
            insert_until(2, "long", "b", Some(60)),
            insert(3, "stays", "c"),
            insert_until(4, "kept", "d", Some(1)),
            insert(5, "kept", "e"),
        ];
        state_machine.apply_chunk(&chunk).await?;
        home.advance_ms(999);
        assert_eq!(state_machine.get(b"short")?, value("a"));
        assert!(state_machine.lease_background_cleanup().await?.is_empty());
        home.advance_ms(1);
        assert_eq!(
            (state_machine.get(b"short")?, state_machine.len()),
            (None, 3)
        );
        assert_eq!(state_machine.scan_prefix(b"")?.entries.len(), 3);
        let taken = state_machine
            .apply_chunk(&[swap(6, "short", None, "again")])
            .await?;
        assert!(
            taken[0].succeeded,
            "what nobody can read is not there for a swap"
        );
        drop(state_machine);

        let state_machine = home.open()?.1;
        home.advance_ms(59_000);
        let gone = state_machine.lease_background_cleanup().await?;
        assert_eq!(gone, ["long"]);
        assert!(state_machine.lease_background_cleanup().await?.is_empty());
        assert_eq!(state_machine.get(b"kept")?, value("e"));
        assert_eq!(state_machine.get(b"short")?, value("again"));
        assert_eq!(state_machine.len(), 3);
        drop(state_machine);
        let state_machine = home.open()?.1;
        assert!(state_machine.lease_background_cleanup().await?.is_empty());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_carries_the_leases() {
    on_every_home(|home| async move {
        let from = in_memory().open()?.1;
        from.apply_chunk(&[insert_until(1, "session", "a", Some(5))])
            .await?;
        let dir = tempfile::tempdir().unwrap();
        let metadata = generate(&from, 1, dir.path()).await;
        let to = home.open()?.1;
        to.apply_snapshot_from_file(&metadata, dir.path().to_path_buf())
            .await?;
        home.advance_ms(4_999);
        assert_eq!(to.get(b"session")?, value("a"));
        home.advance_ms(1);
        assert_eq!(to.get(b"session")?, None);
        assert_eq!(to.lease_background_cleanup().await?, ["session"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_scan_has_its_prefix_in_order_and_the_index_that_it_is_as_of() {
    on_every_home(|home| async move {
        let state_machine = home.open()?.1;
        let keys = ["b", "a/2", "a/1", "a", "a0"];
        let chunk: Vec<_> = (1..)
            .zip(keys)
            .map(|(index, key)| insert(index, key, key))
            .collect();
        state_machine.apply_chunk(&chunk).await?;
        let scan = state_machine.scan_prefix(b"a/")?;
        let found: Vec<_> = scan.entries.iter().map(|(key, _)| &key[..]).collect();
        assert_eq!((found, scan.revision), (vec![&b"a/1"[..], b"a/2"], 5));
        state_machine.stop()?;
        assert!(state_machine.scan_prefix(b"a/").is_err());
        assert!(state_machine.get(b"a").is_err());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn only_the_newest_snapshot_stays_in_the_store() {
    let home = in_memory();
    let state_machine = home.open().unwrap().1;
    for index in 1..=3 {
        state_machine
            .apply_chunk(&[insert(index, "a", "1")])
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        generate(&state_machine, index, dir.path()).await;
    }
    let list = || {
        let node = home.node().unwrap();
        let infos = node.snapshots().list(None).unwrap();
        infos
            .iter()
            .map(|info| info.key.id.index)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(), [3]);
    state_machine.reset().await.unwrap();
    assert_eq!(list(), [0; 0]);
}
