//! openraft's own suite: every case of it by name, on each backend. Uses: the public API.

use std::collections::BTreeSet;
use std::process::Command;

use openraft::testing::Suite;
use peerstore::openraft::{LogStore, StateMachine, TypeConfig};
use tempfile::TempDir;

use crate::support::Builder;

type Cases = Suite<TypeConfig, LogStore, StateMachine, Builder, TempDir>;

/// The log in segment files, the data in memory.
#[path = "."]
mod append_log {
    use super::Cases;
    use crate::support::Backend;

    const BACKEND: Backend = Backend::AppendLog;

    #[path = "cases.rs"]
    mod cases;
}

/// Log and data in RocksDB.
#[cfg(feature = "rocksdb")]
#[path = "."]
mod rocksdb {
    use super::Cases;
    use crate::support::Backend;

    const BACKEND: Backend = Backend::Rocks;

    #[path = "cases.rs"]
    mod cases;
}

/// The names that follow `before` in `text`, up to the first of `after`.
fn names<'t>(text: &'t str, before: &'t str, after: &'t [char]) -> BTreeSet<&'t str> {
    let found = text.split(before).skip(1);
    found.filter_map(|rest| rest.split(after).next()).collect()
}

fn ours() -> BTreeSet<&'static str> {
    names(include_str!("cases.rs"), "Cases::", &[')', '('])
}

#[test]
fn there_are_thirty_five_cases() {
    let tests = names(include_str!("cases.rs"), "#[test]\nfn ", &['(']);
    assert_eq!(tests.len(), 35);
    assert_eq!(tests, ours(), "a test runs the case that it is named for");
}

/// Against the source of the suite that this was built with, so that a case which a later version adds
/// is missed.
#[test]
fn no_case_of_the_suite_is_missing() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = Command::new(cargo)
        .args(["metadata", "--offline", "--format-version", "1"])
        .args([
            "--no-default-features",
            "--features",
            "openraft,protobuf-codec",
        ])
        .output()
        .expect("cargo runs, it runs this test");
    let metadata = String::from_utf8(metadata.stdout).expect("JSON is UTF-8");
    let manifest = names(&metadata, "\"manifest_path\":\"", &['"']);
    let manifest = manifest.iter().find(|path| path.contains("/openraft-0.9"));
    let manifest = manifest.expect("openraft is a dependency of this test");
    let suite = manifest.replace("Cargo.toml", "src/testing/suite.rs");
    let suite = std::fs::read_to_string(&suite).expect("the source is there, it was built");
    let (_, rest) = suite
        .split_once("pub fn test_store")
        .expect("the list of the cases");
    let (list, _) = rest.split_once("Ok(())").expect("the end of the list");
    assert_eq!(names(list, "Self::", &[')', '(']), ours());
}

#[test]
fn the_suite_passes_as_a_whole_too() {
    Cases::test_all(Builder(crate::support::Backend::AppendLog)).expect("the suite passes");
}
