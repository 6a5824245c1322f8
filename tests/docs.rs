//! The documents: what they say of bytes, keyspaces and tests is so.

use std::path::{Path, PathBuf};

use peerstore::{
    RaftApplyState, RaftLocalState, RaftTruncatedState, RecoveryError, StoreIdent, keys,
};
use prost::Message as _;
use raft::eraftpb::HardState;

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The hexadecimal bytes in the row of the golden bytes that begins with `what`.
fn golden(what: &str) -> Vec<u8> {
    let text = read("docs/data-model.md");
    let row = (text
        .lines()
        .find(|line| line.starts_with(&format!("| `{what}` {{"))))
    .unwrap_or_else(|| panic!("no golden bytes of {what}"));
    let hex: String = row.split('`').nth_back(1).unwrap().split(' ').collect();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn the_golden_bytes_are_those_of_the_code() {
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.vote, hard_state.commit) = (7, 2, 300);
    let raft = RaftLocalState {
        hard_state,
        last_index: 301,
    };
    let apply = RaftApplyState {
        applied_index: 299,
        truncated_state: RaftTruncatedState { index: 5, term: 6 },
        commit_index: 300,
        commit_term: 7,
    };
    let ident = StoreIdent {
        cluster_id: 1,
        store_id: 2,
    };
    assert_eq!(golden("RaftLocalState"), raft.encode_to_vec());
    assert_eq!(golden("RaftApplyState"), apply.encode_to_vec());
    assert_eq!(golden("StoreIdent"), ident.encode_to_vec());
}

#[test]
fn the_data_model_has_every_keyspace_and_the_version() {
    let text = read("docs/data-model.md");
    for keyspace in keys::KEYSPACES {
        let (store, name) = (keyspace.store, format!("`{}`", keyspace.name));
        let rows = text
            .lines()
            .filter(|line| line.starts_with(&format!("| {store} |")));
        assert!(
            rows.into_iter().any(|row| row.contains(&name)),
            "{store}: {name}"
        );
    }
    assert!(text.contains(&format!("`FORMAT_VERSION` is {}.", keys::FORMAT_VERSION)));
    assert!(text.contains(&format!("\nformat {}\n", keys::FORMAT_VERSION)));
}

/// The name of each refusal that belongs to a rule or has none.
#[test]
fn every_refusal_of_an_open_is_explained() {
    let text = read("docs/architecture.md");
    let refusals = [
        RecoveryError::CommitBeyondLog {
            commit: 0,
            last_index: 0,
        },
        RecoveryError::HardStateMissing,
        RecoveryError::PendingSnapshotMissing,
        RecoveryError::AppliedBeyondCommit {
            applied: 0,
            commit: 0,
        },
        RecoveryError::AppliedBeyondLog {
            applied: 0,
            last_index: 0,
        },
        RecoveryError::TermBehindCommit {
            got: 0,
            expected: 0,
        },
        RecoveryError::CommitTermMismatch {
            index: 0,
            got: None,
            expected: 0,
        },
        RecoveryError::LastEntryMissing {
            last_index: 0,
            truncated_index: 0,
        },
        RecoveryError::AppliedEntryMissing {
            applied: 0,
            truncated_index: 0,
        },
        RecoveryError::SnapshotFileMissing {
            name: String::new(),
            reason: String::new(),
        },
        RecoveryError::StateMissing { what: "" },
        RecoveryError::ConfStateInvalid {
            reason: String::new(),
        },
    ];
    for refusal in refusals {
        let shown = format!("{refusal:?}");
        let name = shown.split([' ', '{']).next().unwrap();
        assert!(
            text.contains(&format!("`{name}`")),
            "{name} is not explained"
        );
    }
}

fn tests_under(dir: &Path, found: &mut String) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            tests_under(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            *found += &std::fs::read_to_string(&path).unwrap();
        }
    }
}

#[test]
fn every_test_of_a_rule_that_is_named_exists() {
    let mut tests = String::new();
    tests_under(&root().join("tests"), &mut tests);
    tests_under(&root().join("src"), &mut tests);
    let text = read("docs/architecture.md");
    let names = text
        .split('`')
        .filter(|word| word.starts_with("rule_") && word.len() > 7);
    for name in names {
        assert!(
            tests.contains(&format!("fn {name}()")),
            "{name} is named, and not there"
        );
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for name in [
        "architecture.md",
        "application-data.md",
        "data-model.md",
        "snapshot-format.md",
        "dependencies.md",
        "d-engine.md",
    ] {
        let text = read(&format!("docs/{name}"));
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let is_file = !target.starts_with("http") && !target.is_empty();
            assert!(
                !is_file || root().join("docs").join(target).exists(),
                "{name}: {target}"
            );
        }
    }
}
