//! The page about d-engine names tests that exist.

use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// The names in the last column of a row.
fn last_cell(row: &str) -> impl Iterator<Item = &str> {
    let cell = row.rsplit(" | ").next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_page_names_exists() {
    let files = [
        "storage_engine",
        "state_machine",
        "log_rules",
        "state_machine_rules",
    ];
    let tests = files.map(|name| read(&format!("tests/{name}.rs"))).concat();
    let page = read("../../docs/d-engine.md");
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("The operations"));
    let rows = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| `"));
    let named: Vec<&str> = rows.flat_map(last_cell).collect();
    assert!(named.len() >= 24, "{named:?}");
    for name in named {
        let is_there = tests.contains(&format!("async fn {name}()"));
        assert!(is_there, "{name} is named, and not there");
    }
}
