//! d-engine's own suite of storage engines, case by case and as a whole, on every log store.

mod support;

use std::sync::atomic::Ordering;

use d_engine_core::storage_engine_test::{
    StorageEngineBuilder as _, StorageEngineTestSuite as Suite,
};
use support::{Builder, LOGS, PERSISTENCES, on_every_log};

/// The cases of d-engine-core 0.2.4 that open once.
const SINGLE_CASES: usize = 11;
/// Those that open a second time what they have left.
const REOPENING_CASES: usize = 4;
/// The second builds of those, counted from 1 over the whole suite.
const REOPENS: &[usize] = &[13, 15, 17, 19];

/// A case that a newer d-engine adds makes a build more, and is missing below.
#[tokio::test]
async fn the_whole_suite_passes_and_has_the_cases_that_are_named_here() {
    for stores in LOGS {
        for persistence in PERSISTENCES {
            println!("on {stores:?}, {persistence:?}");
            let (builder, builds) = Builder::of_suite(*stores, persistence, REOPENS);
            Suite::run_all_tests(builder).await.unwrap();
            let expected = SINGLE_CASES + 2 * REOPENING_CASES;
            assert_eq!(builds.load(Ordering::SeqCst), expected);
        }
    }
}

#[tokio::test]
async fn empty_storage() {
    on_every_log(|b| async move { Suite::test_empty_storage(b.build().await?).await }).await;
}

#[tokio::test]
async fn single_entry_persistence() {
    on_every_log(|b| async move { Suite::test_single_entry_persistence(b.build().await?).await })
        .await;
}

#[tokio::test]
async fn batch_persistence() {
    on_every_log(|b| async move { Suite::test_batch_persistence(b.build().await?).await }).await;
}

#[tokio::test]
async fn purge_logs() {
    on_every_log(|b| async move { Suite::test_purge_logs(b.build().await?).await }).await;
}

#[tokio::test]
async fn truncation() {
    on_every_log(|b| async move { Suite::test_truncation(b.build().await?).await }).await;
}

#[tokio::test]
async fn reset_operation() {
    on_every_log(|b| async move { Suite::test_reset_operation(b.build().await?).await }).await;
}

#[tokio::test]
async fn edge_cases() {
    on_every_log(|b| async move { Suite::test_edge_cases(b.build().await?).await }).await;
}

#[tokio::test]
async fn purge_empty_range() {
    on_every_log(|b| async move { Suite::test_purge_empty_range(b.build().await?).await }).await;
}

#[tokio::test]
async fn hard_state_persistence() {
    on_every_log(|b| async move { Suite::test_hard_state_persistence(b.build().await?).await })
        .await;
}

#[tokio::test]
async fn reset_preserves_meta() {
    on_every_log(|b| async move { Suite::test_reset_preserves_meta(b.build().await?).await }).await;
}

#[tokio::test]
async fn flush_persists_all_data() {
    on_every_log(|b| async move { Suite::test_flush_persists_all_data(b.build().await?).await })
        .await;
}

#[tokio::test]
async fn persist_entries_durability() {
    on_every_log(|b| async move { Suite::test_persist_entries_durability(&b).await }).await;
}

#[tokio::test]
async fn hard_state_crash_recovery() {
    on_every_log(|b| async move { Suite::test_hard_state_crash_recovery(&b).await }).await;
}

#[tokio::test]
async fn truncate_durability() {
    on_every_log(|b| async move { Suite::test_truncate_durability(&b).await }).await;
}

#[tokio::test]
async fn purge_durability() {
    on_every_log(|b| async move { Suite::test_purge_durability(&b).await }).await;
}
