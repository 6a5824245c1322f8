//! The pictures: what is checked in is what the code draws, each can be drawn, and none says what is
//! not so.

#[path = "../examples/support/svg.rs"]
mod svg;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use peerstore::{
    AppBackend, CompositeStorage, Config, LogBackend, PeerStorage, Region, SNAPSHOT_TRANSITIONS,
    SnapshotBackend, dot,
};
use raft::eraftpb::{Entry, HardState};
use raft::{GetEntriesContext, Storage as _, StorageError};

fn node() -> CompositeStorage {
    let mut config = Config::default();
    (config.log, config.app) = (LogBackend::Memory, AppBackend::Memory);
    config.snapshot.backend = SnapshotBackend::Memory;
    CompositeStorage::open("unused", config).unwrap()
}

/// Region 31 of peer 17 with the entries [6, 26) of term 9: applied to 20, compacted below 12.
fn storage(node: &CompositeStorage) -> PeerStorage {
    let mut storage = node.create_region(&Region::single(31, 17)).unwrap();
    let entries: Vec<Entry> = (6..26)
        .map(|index| {
            let mut entry = Entry::default();
            (entry.index, entry.term, entry.data) = (index, 9, b"value"[..].into());
            entry
        })
        .collect();
    storage.append(&entries).unwrap();
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.vote, hard_state.commit) = (9, 17, 23);
    storage.set_hard_state(&hard_state).unwrap();
    storage.apply(&entries[..15], |_, _| Ok(())).unwrap();
    storage.compact(12).unwrap();
    storage
}

fn checked_in(name: &str) -> String {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let path = std::path::PathBuf::from(root).join("dot").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}: make dot", path.display()))
}

#[test]
fn what_is_checked_in_is_what_the_code_draws() {
    for (name, draw) in dot::PICTURES {
        let text = draw();
        let picture = svg::render(&text).unwrap();
        assert!(
            checked_in(&format!("{name}.dot")) == text,
            "dot/{name}.dot is old: make dot"
        );
        assert!(
            checked_in(&format!("{name}.svg")) == picture,
            "dot/{name}.svg is old: make dot"
        );
    }
}

/// The ports of each node, by its name.
type Nodes<'a> = HashMap<&'a str, HashSet<&'a str>>;

/// The nodes of a picture with their ports, and its arrows as `node` or `node:port`.
fn parts(text: &str) -> (Nodes<'_>, Vec<(&str, &str)>) {
    let (mut nodes, mut arrows) = (HashMap::new(), Vec::new());
    for line in text.lines().filter(|line| line.ends_with(';')) {
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        match words[..] {
            [from, "->", to, ..] => arrows.push((from, to)),
            [id, ..] if line.contains("label=") => {
                let ports = line.split('<').skip(1).filter_map(|p| p.split('>').next());
                nodes.insert(id, ports.collect());
            }
            _ => {}
        }
    }
    (nodes, arrows)
}

#[test]
fn every_arrow_runs_between_parts_that_are_drawn() {
    let node = node();
    let mut texts: Vec<String> = dot::PICTURES.iter().map(|(_, draw)| draw()).collect();
    texts.push(dot::live(&storage(&node)));
    for text in &texts {
        let (nodes, arrows) = parts(text);
        assert!(!arrows.is_empty(), "{text}");
        for end in arrows.iter().flat_map(|(from, to)| [from, to]) {
            let (id, port) = end.split_once(':').unwrap_or((end, ""));
            let ports = nodes
                .get(id)
                .unwrap_or_else(|| panic!("no node {end} in {text}"));
            assert!(
                port.is_empty() || ports.contains(port),
                "no port {end} in {text}"
            );
        }
    }
}

#[test]
fn the_states_of_a_snapshot_are_all_reached_and_all_left() {
    let text = dot::snapshot_states();
    let (nodes, arrows) = parts(&text);
    assert_eq!(arrows.len(), SNAPSHOT_TRANSITIONS.len());
    for state in nodes.keys() {
        assert!(
            arrows.iter().any(|(from, _)| from == state),
            "{state} is never left"
        );
        assert!(
            arrows.iter().any(|(_, to)| to == state),
            "{state} is never reached"
        );
    }
}

#[test]
fn every_stage_of_a_region_is_reached_and_only_leaving_is_the_end() {
    let text = dot::region_stages();
    let (nodes, arrows) = parts(&text);
    assert_eq!(arrows.len(), peerstore::REGION_TRANSITIONS.len());
    for stage in nodes.keys() {
        let left = arrows.iter().any(|(from, _)| from == stage);
        assert_eq!(left, *stage != "Leaving", "{stage}");
        assert!(
            arrows.iter().any(|(_, to)| to == stage),
            "{stage} is never reached"
        );
    }
}

#[test]
fn a_live_picture_has_the_numbers_of_the_region() {
    let node = node();
    let storage = storage(&node);
    storage
        .entries(12, 14, None, GetEntriesContext::empty(false))
        .unwrap();
    let text = dot::live(&storage);
    let bytes = storage.cache_stats().bytes;
    assert!(bytes > 0);
    let expected = [
        "region_id = 31",
        "peer_id = 17",
        "HardState: term 9, vote 17, commit 23",
        "last_index = 25",
        "applied_index = 20",
        "truncated_index = 11",
        "truncated_term = 9",
        "commit_index = 20",
        "first_index() = 12",
        "last_index() = 25",
        "term(11) = 9",
        "entries [12, 26)",
        "durable up to 25",
        "1 hits, 0 misses",
        "voters [17]",
        "Idle",
        &format!("{bytes} bytes"),
    ];
    for number in expected {
        assert!(text.contains(number), "{number} is not in {text}");
    }
    storage.compact_cache(18);
    assert!(dot::live(&storage).contains("entries [18, 26)"));
}

#[test]
fn a_live_picture_follows_the_snapshot_and_can_be_drawn() {
    let node = node();
    let storage = storage(&node);
    let before = svg::render(&dot::live(&storage)).unwrap();
    assert!(
        before.contains("Idle") && before.contains("last_index = 25"),
        "{before}"
    );
    storage.wait_snapshot(Duration::from_secs(60)).unwrap();
    let text = dot::live(&storage);
    assert!(text.contains("Ready (term 9, index 20)"), "{text}");
    assert_eq!(svg::render(&text), svg::render(&text));
}

#[test]
fn a_range_of_any_bytes_can_be_drawn() {
    let node = node();
    let hostile = br#"a"{|<b>}\;"#.to_vec();
    let range = peerstore::KeyRange::new(hostile, Vec::new());
    let storage = node
        .create_region(&Region::with_voters(1, range, [(1.into(), 1)]))
        .unwrap();
    let text = dot::live(&storage);
    assert_eq!(parts(&text).1.len(), parts(&dot::live(&storage)).1.len());
    svg::render(&text).unwrap();
}

#[test]
fn text_that_is_no_graph_is_an_error() {
    for text in [
        "",
        "digraph {",
        "digraph g { a [shape=record, label=\"\"]; }",
    ] {
        assert!(svg::render(text).is_err(), "{text:?} was drawn");
    }
}

/// The picture says which errors `entries` and `term` give; here the storage gives them.
#[test]
fn the_errors_of_the_entries_picture_are_those_of_the_storage() {
    let node = node();
    let storage = storage(&node);
    storage.compact_cache(u64::MAX);
    let now = || GetEntriesContext::empty(false);
    let later = GetEntriesContext::empty(true);
    let given = [
        storage.entries(11, 20, None, now()).map(|_| ()),
        storage.entries(12, 20, None, later).map(|_| ()),
        storage.term(10).map(|_| ()),
        storage.term(26).map(|_| ()),
    ];
    let expected = [
        ("compacted", StorageError::Compacted, "Compacted"),
        (
            "later",
            StorageError::LogTemporarilyUnavailable,
            "LogTemporarilyUnavailable",
        ),
        ("term_compacted", StorageError::Compacted, "Compacted"),
        ("term_unavailable", StorageError::Unavailable, "Unavailable"),
    ];
    let text = dot::entries();
    for (given, (id, error, name)) in given.into_iter().zip(expected) {
        assert_eq!(given, Err(raft::Error::Store(error)));
        let label = format!("  {id} [label=\"{name}");
        assert!(text.contains(&label), "{label} is not in {text}");
    }
    assert_eq!(storage.term(11), Ok(9), "truncated_term");
    assert_eq!(
        storage.entries(12, 26, None, now()).unwrap().len(),
        14,
        "read now"
    );
    assert_eq!(storage.wait_fetched(Duration::from_secs(60)).len(), 1);
    let fetched = storage
        .entries(12, 20, None, GetEntriesContext::empty(true))
        .unwrap();
    assert_eq!(fetched.len(), 8, "read by the worker");
}
