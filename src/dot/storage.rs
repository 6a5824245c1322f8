//! The three records of a region, and what raft-rs is answered from them. Uses: the public API.

use super::graph::{Graph, Kind, Row, Way, row};
use crate::{
    CacheStats, PeerStorage, RaftApplyState, RaftLocalState, RaftTruncatedState, RegionLocalState,
};

/// How `first_index`, `last_index`, `term`, `initial_state` and the applied index come out of
/// [`RegionLocalState`], [`RaftLocalState`] and [`RaftApplyState`].
pub fn peer_storage() -> String {
    let region = RegionLocalState::default();
    let (raft, apply) = (RaftLocalState::default(), RaftApplyState::default());
    let names = |fields: Vec<Field>| fields.iter().map(Field::name_only).collect();
    let records = Records {
        region: names(region_fields(&region)),
        raft: names(raft_fields(&raft)),
        apply: names(apply_fields(&apply)),
        answers: Answers {
            initial_state: ["HardState".into(), "ConfState".into()],
            first_index: "first_index()\ntruncated_index + 1".into(),
            term: "term(first_index - 1)".into(),
            last_index: "last_index()".into(),
            config: ["id".into(), "applied".into()],
            snapshot: "snapshot()\nup to applied_index".into(),
        },
    };
    let mut graph = Graph::new("peerstorage", Way::Right);
    records.draw(&mut graph);
    graph.finish()
}

/// The same for one region, with the numbers that it has now, and with what it keeps in memory.
pub fn live(storage: &PeerStorage) -> String {
    let (raft, apply) = (storage.raft_state(), storage.apply_state());
    let conf = storage.conf_state();
    let values = |fields: Vec<Field>| fields.iter().map(Field::with_value).collect();
    let (first, last) = (storage.truncated_index() + 1, storage.last_position());
    let hard = storage.hard_state();
    let records = Records {
        region: values(region_fields(storage.region_state())),
        raft: values(raft_fields(raft)),
        apply: values(apply_fields(apply)),
        answers: Answers {
            initial_state: [
                format!(
                    "HardState: term {}, vote {}, commit {}",
                    hard.term, hard.vote, hard.commit
                ),
                format!(
                    "ConfState: voters {:?}, learners {:?}",
                    conf.voters, conf.learners
                ),
            ],
            first_index: format!("first_index() = {first}"),
            term: format!("term({}) = {}", first - 1, storage.truncated_term()),
            last_index: format!("last_index() = {}", last.index),
            config: [
                format!("id = {}", storage.peer_id()),
                format!("applied = {}", storage.applied_index()),
            ],
            snapshot: format!("snapshot()\n{}", storage.snapshot_state()),
        },
    };
    let mut graph = Graph::new("peerstorage", Way::Right);
    records.draw(&mut graph);
    draw_log(&mut graph, storage);
    graph.finish()
}

/// The entries: in the log store up to the persisted index, the newest in the cache as well.
fn draw_log(graph: &mut Graph, storage: &PeerStorage) {
    let (first, last) = (storage.truncated_index() + 1, storage.last_position());
    let CacheStats {
        hits,
        misses,
        bytes,
    } = storage.cache_stats();
    let held = match storage.cached_from() {
        Some(from) => format!("entries [{from}, {})", last.index + 1),
        None => "no entries".into(),
    };
    let log = [
        row("", format!("entries [{first}, {})", last.index + 1)),
        row("", format!("last {last}")),
        row("", format!("durable up to {}", storage.persisted_index())),
    ];
    let cache = [
        row("", held),
        row("", format!("{bytes} bytes")),
        row("", format!("{hits} hits, {misses} misses")),
    ];
    graph.record("log", Kind::Log, "raft_log", &log);
    graph.record("cache", Kind::Memory, "EntryCache", &cache);
    let range = format!("entries() of [{first}, {})", last.index + 1);
    graph.node("entries", Kind::Call, &range);
    graph.edge("log", "entries", "");
    graph.edge("cache", "entries", "");
}

/// A field of a record: by which name arrows know it, and what it holds.
struct Field {
    name: &'static str,
    value: String,
}

impl Field {
    fn new(name: &'static str, value: impl ToString) -> Field {
        let value = value.to_string();
        Field { name, value }
    }

    fn name_only(&self) -> Row {
        row(self.name, self.name)
    }

    fn with_value(&self) -> Row {
        row(self.name, format!("{} = {}", self.name, self.value))
    }
}

// A new field does not compile here before somebody has drawn it.

fn region_fields(state: &RegionLocalState) -> Vec<Field> {
    let RegionLocalState {
        state,
        region,
        merge_state,
        peer_id,
        conf_state,
    } = state;
    let crate::Region {
        id,
        start_key,
        end_key,
        region_epoch,
        peers,
    } = region;
    let crate::RegionEpoch { conf_ver, version } = region_epoch;
    let peers: Vec<u64> = peers.iter().map(|peer| peer.id).collect();
    let merging = match merge_state {
        Some(merge) => format!("from {}", merge.min_index),
        None => "none".into(),
    };
    vec![
        Field::new("state", format!("{state:?}")),
        Field::new("region_id", id),
        Field::new("start_key", shown_key(start_key)),
        Field::new("end_key", shown_key(end_key)),
        Field::new("epoch", format!("conf_ver {conf_ver}, version {version}")),
        Field::new("peers", format!("{peers:?}")),
        Field::new("merge_state", merging),
        Field::new("peer_id", peer_id),
        Field::new("conf_state", format!("voters {:?}", conf_state.voters)),
    ]
}

/// A key for the picture: its beginning, if it is long.
fn shown_key(key: &[u8]) -> String {
    const SHOWN: usize = 16;
    match key.get(..SHOWN) {
        None if key.is_empty() => "none".into(),
        None => format!("\"{}\"", key.escape_ascii()),
        Some(head) => format!("\"{}...\", {} bytes", head.escape_ascii(), key.len()),
    }
}

fn raft_fields(state: &RaftLocalState) -> Vec<Field> {
    let RaftLocalState {
        hard_state,
        last_index,
    } = state;
    vec![
        Field::new("term", hard_state.term),
        Field::new("vote", hard_state.vote),
        Field::new("commit", hard_state.commit),
        Field::new("last_index", last_index),
    ]
}

fn apply_fields(state: &RaftApplyState) -> Vec<Field> {
    let RaftApplyState {
        applied_index,
        truncated_state,
        commit_index,
        commit_term,
    } = state;
    let RaftTruncatedState { index, term } = truncated_state;
    vec![
        Field::new("truncated_index", index),
        Field::new("truncated_term", term),
        Field::new("applied_index", applied_index),
        Field::new("commit_index", commit_index),
        Field::new("commit_term", commit_term),
    ]
}

/// The rows of the records, and the lines of the answers.
struct Records {
    region: Vec<Row>,
    raft: Vec<Row>,
    apply: Vec<Row>,
    answers: Answers,
}

struct Answers {
    initial_state: [String; 2],
    first_index: String,
    term: String,
    last_index: String,
    config: [String; 2],
    snapshot: String,
}

impl Records {
    fn draw(self, graph: &mut Graph) {
        graph.record(
            "raft",
            Kind::Log,
            "RaftLocalState\nlog store, raft_state",
            &self.raft,
        );
        graph.record(
            "region",
            Kind::Data,
            "RegionLocalState\ndata store, region_state",
            &self.region,
        );
        graph.record(
            "apply",
            Kind::Data,
            "RaftApplyState\ndata store, apply_state",
            &self.apply,
        );
        let Answers {
            initial_state: [hard_state, conf_state],
            first_index,
            term,
            last_index,
            config: [id, applied],
            snapshot,
        } = self.answers;
        let initial = [row("hard", hard_state), row("conf", conf_state)];
        graph.record("initial_state", Kind::Call, "initial_state()", &initial);
        graph.node("last_index", Kind::Call, &last_index);
        graph.node("first_index", Kind::Call, &first_index);
        graph.node("first_term", Kind::Call, &term);
        let config = [row("id", id), row("applied", applied)];
        graph.record("config", Kind::Call, "raft_config()", &config);
        graph.node("snapshot", Kind::Call, &snapshot);

        for field in ["term", "vote", "commit"] {
            graph.edge(&format!("raft:{field}"), "initial_state:hard", "");
        }
        graph.edge("raft:last_index", "last_index", "");
        graph.edge("region:conf_state", "initial_state:conf", "");
        graph.edge("region:peer_id", "config:id", "");
        graph.edge("region:start_key", "snapshot", "");
        graph.edge("apply:truncated_index", "first_index", "");
        graph.edge("apply:truncated_term", "first_term", "");
        graph.edge("apply:applied_index", "config:applied", "");
        graph.edge("apply:applied_index", "snapshot", "");
        // An open moves the commit up to what is known here.
        graph.dashed("apply:commit_index", "initial_state:hard", "");
    }
}
