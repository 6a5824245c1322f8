//! d-engine's own suite of state machines, case by case and as a whole, on every data store.

mod support;

use std::sync::atomic::Ordering;

use d_engine_core::state_machine_test::{StateMachineBuilder as _, StateMachineTestSuite as Suite};
use peerstore_d_engine::Persistence;
use support::{Builder, DATA, on_all_data};

/// The cases of d-engine-core 0.2.4 that open once: seven before those that reopen, and one behind.
const SINGLE_CASES: usize = 8;
/// Those that open a second time what they have left.
const REOPENING_CASES: usize = 4;
/// The second builds of those, counted from 1 over the whole suite.
const REOPENS: &[usize] = &[9, 11, 13, 15];

/// A case that a newer d-engine adds makes a build more, and is missing below.
#[tokio::test]
async fn the_whole_suite_passes_and_has_the_cases_that_are_named_here() {
    for stores in DATA {
        println!("on {stores:?}");
        let (builder, builds) = Builder::of_suite(*stores, Persistence::DiskFirst, REOPENS);
        Suite::run_all_tests(builder).await.unwrap();
        let expected = SINGLE_CASES + 2 * REOPENING_CASES;
        assert_eq!(builds.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn start_stop() {
    on_all_data(|b| async move { Suite::test_start_stop(b.build().await?).await }).await;
}

#[tokio::test]
async fn basic_kv_operations() {
    on_all_data(|b| async move { Suite::test_basic_kv_operations(b.build().await?).await }).await;
}

#[tokio::test]
async fn apply_chunk_functionality() {
    on_all_data(|b| async move { Suite::test_apply_chunk_functionality(b.build().await?).await })
        .await;
}

#[tokio::test]
async fn cas_operations() {
    on_all_data(|b| async move { Suite::test_cas_operations(b.build().await?).await }).await;
}

#[tokio::test]
async fn last_applied_detection() {
    on_all_data(|b| async move { Suite::test_last_applied_detection(b.build().await?).await })
        .await;
}

#[tokio::test]
async fn snapshot_operations() {
    on_all_data(|b| async move { Suite::test_snapshot_operations(b.build().await?).await }).await;
}

#[tokio::test]
async fn persistence() {
    on_all_data(|b| async move { Suite::test_persistence(b.build().await?).await }).await;
}

#[tokio::test]
async fn drop_flushes_data() {
    on_all_data(|b| async move { Suite::test_drop_flushes_data(&b).await }).await;
}

#[tokio::test]
async fn drop_persists_last_applied() {
    on_all_data(|b| async move { Suite::test_drop_persists_last_applied(&b).await }).await;
}

#[tokio::test]
async fn data_survives_reopen() {
    on_all_data(|b| async move { Suite::test_data_survives_reopen(&b).await }).await;
}

#[tokio::test]
async fn ungraceful_shutdown_recovery() {
    on_all_data(|b| async move { Suite::test_ungraceful_shutdown_recovery(&b).await }).await;
}

#[tokio::test]
async fn reset_operation() {
    on_all_data(|b| async move { Suite::test_reset_operation(b.build().await?).await }).await;
}

/// d-engine keeps these two apart from its suite and out of its own runs: they compare times.
#[tokio::test]
#[ignore = "it fails where the machine is busy with something else"]
async fn performance() {
    on_all_data(
        |b| async move { Suite::test_apply_chunk_performance_smoke(b.build().await?).await },
    )
    .await;
    on_all_data(|b| async move { Suite::test_apply_chunk_scalability(b.build().await?).await })
        .await;
}
