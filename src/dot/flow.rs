//! The way of the data, and the steps of an install. Uses: the public API.

use super::graph::{Graph, Kind, Way};
use crate::{AppOp, Keyspace, LogOp, PeerState, RaftLocalState, RegionId};

/// One way for the data: what becomes of a `Ready`.
pub fn data_flow() -> String {
    let mut graph = Graph::new("data_flow", Way::Down);
    graph.node("ready", Kind::Call, "RawNode::ready()");
    let parts = [
        ("entries", "entries, HardState"),
        ("committed", "committed entries"),
        ("snapshot", "a snapshot"),
    ];
    for (id, label) in parts {
        graph.node(id, Kind::Memory, label);
        graph.edge("ready", id, "");
    }
    draw_persist(&mut graph);
    draw_apply(&mut graph);
    draw_snapshot(&mut graph);
    graph.finish()
}

fn draw_persist(graph: &mut Graph) {
    graph.node("persist", Kind::Call, "PeerStorage::persist or stage");
    graph.node(
        "log_batch",
        Kind::Memory,
        &format!("LogBatch: {}\nentries and RaftLocalState", log_ops()),
    );
    graph.node(
        "log",
        Kind::Log,
        "RaftLogStorage::write\nall or nothing, one fsync",
    );
    graph.node(
        "sent",
        Kind::Call,
        "advance_append\npersisted messages leave",
    );
    graph.edge("entries", "persist", "");
    graph.edge("persist", "log_batch", "");
    graph.edge("log_batch", "log", "");
    graph.edge("log", "sent", "");
}

fn draw_apply(graph: &mut Graph) {
    graph.node(
        "apply",
        Kind::Call,
        "PeerStorage::apply\nyour code, an entry at a time",
    );
    graph.node(
        "app_batch",
        Kind::Memory,
        &format!("AppBatch: {}\ndata and RaftApplyState", app_ops()),
    );
    graph.node(
        "data",
        Kind::Data,
        "ApplicationDataStorage::write\nall or nothing, no fsync: the log replays it",
    );
    graph.node("applied", Kind::Call, "advance_apply_to");
    graph.edge("committed", "apply", "");
    graph.edge("apply", "app_batch", "");
    graph.edge("app_batch", "data", "");
    graph.edge("data", "applied", "");
}

fn draw_snapshot(graph: &mut Graph) {
    graph.node("asked", Kind::Call, "Storage::snapshot() of a leader");
    graph.node(
        "view",
        Kind::Memory,
        "a view of the data,\npinned at the applied index",
    );
    graph.node(
        "file",
        Kind::File,
        "the snapshot worker writes\na file: RaftSnapshotStorage",
    );
    graph.node(
        "transfer",
        Kind::Call,
        "small: inside MsgSnapshot\nlarge: send and receive",
    );
    graph.node(
        "install",
        Kind::Call,
        "persist or stage installs it:\nsee install.svg",
    );
    graph.edge("asked", "view", "");
    graph.edge("view", "file", "");
    graph.edge("file", "transfer", "");
    graph.dashed("transfer", "install", "another node");
    graph.edge("snapshot", "install", "");
}

/// How a snapshot of a leader replaces log and data, and where a crash leaves it.
pub fn install() -> String {
    let applying = state(PeerState::Applying);
    let normal = state(PeerState::Normal);
    let mut graph = Graph::new("install", Way::Down);
    let steps = [
        (
            Kind::Call,
            format!("state {normal}\nthe file is read whole and checked"),
            "nothing has changed",
        ),
        (
            Kind::Data,
            format!(
                "1. data store, one batch: state {applying},\nRaftApplyState, the saved RaftLocalState"
            ),
            "open wipes the log, then imports the data",
        ),
        (
            Kind::Log,
            "2. log store, one batch: old entries gone,\nRaftLocalState, newer entries".into(),
            "open imports the data",
        ),
        (
            Kind::Data,
            "3. data store: the file's content\nin place of the region's range".into(),
            "open imports the data again",
        ),
        (
            Kind::Data,
            format!("4. data store, one batch: state {normal},\nthe saved RaftLocalState gone"),
            "open removes the file",
        ),
    ];
    for (number, (kind, text, after_crash)) in steps.iter().enumerate() {
        let step = format!("step{number}");
        graph.node(&step, *kind, text);
        let crash = format!("crash{number}");
        graph.node(
            &crash,
            Kind::Refusal,
            &format!("a crash here:\n{after_crash}"),
        );
        graph.dashed(&step, &crash, "");
    }
    for number in 1..steps.len() {
        graph.edge(&format!("step{}", number - 1), &format!("step{number}"), "");
    }
    graph.finish()
}

/// A peer's state. One that is added does not compile here before somebody looked at it.
fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Normal => "Normal",
        PeerState::Applying => "Applying",
        PeerState::Tombstone => "Tombstone",
        PeerState::Merging => "Merging",
    }
}

fn log_ops() -> String {
    let region = RegionId::default();
    let ops = [
        LogOp::Append {
            region,
            entries: Vec::new(),
        },
        LogOp::Remove {
            region,
            range: 0..0,
        },
        LogOp::State {
            region,
            state: RaftLocalState::default(),
        },
        LogOp::Clear { region },
    ];
    let name = |op: &LogOp| match op {
        LogOp::Append { .. } => "Append",
        LogOp::Remove { .. } => "Remove",
        LogOp::State { .. } => "State",
        LogOp::Clear { .. } => "Clear",
    };
    ops.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn app_ops() -> String {
    let keyspace = Keyspace::Data;
    let ops = [
        AppOp::Put {
            keyspace,
            key: b"",
            value: b"",
        },
        AppOp::Delete { keyspace, key: b"" },
        AppOp::DeleteRange {
            keyspace,
            start: b"",
            end: b"",
        },
    ];
    let name = |op: &AppOp<'_>| match op {
        AppOp::Put { .. } => "Put",
        AppOp::Delete { .. } => "Delete",
        AppOp::DeleteRange { .. } => "DeleteRange",
    };
    ops.iter().map(name).collect::<Vec<_>>().join(", ")
}
