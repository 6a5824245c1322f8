//! The states of a region's snapshot, and the stages of a region. Uses: the public API.

use super::graph::{Graph, Kind, Way};
use crate::{LogPosition, REGION_TRANSITIONS, RegionStage, SNAPSHOT_TRANSITIONS, SnapshotState};

/// How a snapshot goes from being asked for to being sent, drawn from [`SNAPSHOT_TRANSITIONS`].
pub fn snapshot_states() -> String {
    let position = LogPosition::default();
    let states = [
        SnapshotState::Idle,
        SnapshotState::Generating { position },
        SnapshotState::Ready {
            position,
            file_bytes: 0,
        },
        SnapshotState::Failed {
            failures: 0,
            reason: String::new(),
        },
        SnapshotState::Applying,
    ];
    let mut graph = Graph::new("snapshot_states", Way::Down);
    for state in &states {
        let (kind, answer) = meaning(state);
        graph.node(state.name(), kind, &format!("{}\n{answer}", state.name()));
    }
    for (from, event, to) in SNAPSHOT_TRANSITIONS {
        graph.edge(from, to, event);
    }
    graph.finish()
}

/// What `snapshot()` answers meanwhile.
fn meaning(state: &SnapshotState) -> (Kind, &'static str) {
    match state {
        SnapshotState::Idle => (Kind::Question, "snapshot() asks for one"),
        SnapshotState::Generating { .. } => (Kind::Memory, "snapshot(): temporarily unavailable"),
        SnapshotState::Ready { .. } => (Kind::File, "snapshot() answers it"),
        SnapshotState::Failed { .. } => (Kind::Refusal, "snapshot(): temporarily unavailable"),
        SnapshotState::Applying => (Kind::Data, "a leader's is being installed"),
    }
}

/// What a region of a store goes through, drawn from [`REGION_TRANSITIONS`].
pub fn region_stages() -> String {
    let stages = [
        RegionStage::Active,
        RegionStage::Merging,
        RegionStage::Installing,
        RegionStage::Leaving,
        RegionStage::Stopped(String::new()),
    ];
    let mut graph = Graph::new("region_stages", Way::Down);
    for stage in &stages {
        let (name, kind, does) = serves(stage);
        graph.node(name, kind, &format!("{name}\n{does}"));
    }
    for (from, event, to) in REGION_TRANSITIONS {
        graph.edge(from, to, event);
    }
    graph.finish()
}

/// What a peer of that stage does.
fn serves(stage: &RegionStage) -> (&'static str, Kind, &'static str) {
    match stage {
        RegionStage::Active => ("Active", Kind::Question, "votes, proposes, reads"),
        RegionStage::Merging => ("Merging", Kind::Memory, "votes; no proposals, no reads"),
        RegionStage::Installing => ("Installing", Kind::Data, "neither ticks nor hears"),
        RegionStage::Leaving => ("Leaving", Kind::File, "its tombstone comes first"),
        RegionStage::Stopped(_) => (
            "Stopped",
            Kind::Refusal,
            "answers its error; the others serve",
        ),
    }
}
