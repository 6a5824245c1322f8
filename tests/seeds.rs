//! Holds `docs/seeds.md` to the code: every test that it names is there, and every public name.

use std::fs;
use std::path::{Path, PathBuf};

/// A row of a table: the line, and the cells.
struct Row {
    line: usize,
    cells: Vec<String>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/seeds.md")).expect("the page");
    let cells = |line: &str| -> Vec<String> {
        let inside = line.trim_start_matches('|').trim_end_matches('|');
        inside
            .split(" | ")
            .map(|cell| cell.trim().to_string())
            .collect()
    };
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.starts_with('|'));
    let rows = lines.map(|(line, text)| Row {
        line,
        cells: cells(text),
    });
    // Heads of tables, and the lines below them.
    rows.filter(|row| row.cells.get(2).is_some_and(|cell| cell.starts_with('`')))
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Every line of the product's code, without what is compiled for tests only.
fn code() -> Vec<String> {
    fn add(dir: &Path, lines: &mut Vec<String>) {
        for item in fs::read_dir(dir).expect("a directory") {
            let path = item.expect("an item").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                add(&path, lines);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path).expect("a file");
                lines.extend(text.lines().map(|line| line.trim_start().to_string()));
            }
        }
    }
    let mut lines = Vec::new();
    add(&root().join("src"), &mut lines);
    lines
}

/// Whether a line of `code` declares `name`: an item, a method, a field or a variant.
fn declares(code: &[String], name: &str) -> bool {
    let items = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
    code.iter().any(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let kind = items
            .iter()
            .find_map(|item| line.strip_prefix(item)?.strip_prefix(' '));
        let rest = kind.unwrap_or(line).strip_prefix(name);
        let follows = |rest: &str| {
            let next = rest.trim_start().chars().next();
            match kind {
                Some(_) => next.is_none_or(|c| "(<{;:=".contains(c)),
                None => next.is_none_or(|c| "({,:".contains(c)),
            }
        };
        rest.is_some_and(follows)
    })
}

#[test]
fn every_row_names_a_test_that_is_there() {
    let mut wrong = Vec::new();
    for Row { line, cells } in rows() {
        let found = match (&cells[..], quoted(&cells[2])[..].as_ref()) {
            ([_, _, _], [path, name]) => {
                let text = fs::read_to_string(root().join(path)).unwrap_or_default();
                ["(", "<"]
                    .iter()
                    .any(|next| text.contains(&format!("fn {name}{next}")))
            }
            _ => false,
        };
        if !found {
            wrong.push(format!(
                "docs/seeds.md:{line}: no such test: {}",
                cells.join(" | ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_names_what_the_crate_declares() {
    let code = code();
    let mut wrong = Vec::new();
    for Row { line, cells } in rows() {
        for name in quoted(&cells[1])
            .into_iter()
            .filter(|name| *name != "eraftpb")
        {
            let parts: Vec<&str> = name.split("::").collect();
            if !parts.iter().all(|part| declares(&code, part)) {
                wrong.push(format!(
                    "docs/seeds.md:{line}: `{name}` is not declared in src/"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_has_every_table_and_the_checks_can_fail() {
    assert!(rows().len() > 90, "{} rows", rows().len());
    let code = code();
    assert!(declares(&code, "PeerStorage") && declares(&code, "commit"));
    assert!(!declares(&code, "PeerStorag") && !declares(&code, "no_such_name"));
}
