//! How `entries` and `term` find their answer. Uses: the public API.

use super::graph::{Graph, Kind, Way};
use raft::StorageError;

/// How `entries` and `term` find their answer: in the cache, in the term runs, in the log, or not now.
pub fn entries() -> String {
    let mut graph = Graph::new("peerstorage_entries", Way::Down);
    draw_entries(&mut graph);
    draw_term(&mut graph);
    graph.finish()
}

fn draw_entries(graph: &mut Graph) {
    let later = StorageError::LogTemporarilyUnavailable;
    graph.node(
        "entries",
        Kind::Call,
        "entries(low, high, max_size, context)",
    );
    graph.node("below_first", Kind::Question, "low below first_index?");
    graph.node("above_last", Kind::Question, "high above last_index + 1?");
    graph.node("cached", Kind::Question, "low in the EntryCache?");
    graph.node(
        "may_wait",
        Kind::Question,
        "may raft wait?\ncontext.can_async()",
    );
    graph.node("fetched", Kind::Question, "has the worker read it?");
    refusal(graph, "compacted", &StorageError::Compacted, "");
    graph.node("panic", Kind::Refusal, "panic,\nas the trait says");
    graph.node("warm", Kind::Memory, "EntryCache");
    graph.node("here", Kind::Log, "read the log now");
    graph.node(
        "tail",
        Kind::Memory,
        "and on from the EntryCache\nas far as max_size allows",
    );
    refusal(
        graph,
        "later",
        &later,
        "asked again after\non_entries_fetched",
    );
    refusal(
        graph,
        "failed",
        &StorageError::Compacted,
        "raft sends a snapshot",
    );
    graph.edge("entries", "below_first", "");
    graph.edge("below_first", "compacted", "yes");
    graph.edge("below_first", "above_last", "no");
    graph.edge("above_last", "panic", "yes");
    graph.edge("above_last", "cached", "no");
    graph.edge("cached", "warm", "yes");
    graph.edge("cached", "may_wait", "no");
    graph.edge("may_wait", "here", "no");
    graph.edge("may_wait", "fetched", "yes");
    graph.edge("fetched", "later", "not yet");
    graph.edge("fetched", "failed", "it failed");
    graph.edge("fetched", "tail", "yes");
    graph.edge("here", "tail", "");
}

fn draw_term(graph: &mut Graph) {
    graph.node("term", Kind::Call, "term(index)");
    graph.node("at_cut", Kind::Question, "is it truncated_index?");
    graph.node("below", Kind::Question, "below first_index?");
    graph.node("above", Kind::Question, "above last_index?");
    graph.node("known", Kind::Question, "in the term runs?");
    graph.node("truncated", Kind::Data, "truncated_term");
    refusal(graph, "term_compacted", &StorageError::Compacted, "");
    refusal(graph, "term_unavailable", &StorageError::Unavailable, "");
    graph.node("runs", Kind::Memory, "the term of its run");
    graph.node(
        "look_up",
        Kind::Log,
        "read the entry in the log,\nand learn its term",
    );
    graph.edge("term", "at_cut", "");
    graph.edge("at_cut", "truncated", "yes");
    graph.edge("at_cut", "below", "no");
    graph.edge("below", "term_compacted", "yes");
    graph.edge("below", "above", "no");
    graph.edge("above", "term_unavailable", "yes");
    graph.edge("above", "known", "no");
    graph.edge("known", "runs", "yes");
    graph.edge("known", "look_up", "no: only after an open");
}

fn refusal(graph: &mut Graph, id: &str, error: &StorageError, then: &str) {
    let label = match then {
        "" => name(error).to_string(),
        then => format!("{}\n{then}", name(error)),
    };
    graph.node(id, Kind::Refusal, &label);
}

/// raft-rs's name of an error. One that raft adds does not compile here before somebody looked at it.
fn name(error: &StorageError) -> &'static str {
    match error {
        StorageError::Compacted => "Compacted",
        StorageError::Unavailable => "Unavailable",
        StorageError::LogTemporarilyUnavailable => "LogTemporarilyUnavailable",
        StorageError::SnapshotOutOfDate => "SnapshotOutOfDate",
        StorageError::SnapshotTemporarilyUnavailable => "SnapshotTemporarilyUnavailable",
        StorageError::Other(_) => "Other",
    }
}
