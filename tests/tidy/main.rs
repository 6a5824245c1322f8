//! Holds the source tree to the style and the layers that the project has agreed on.

mod layers;
mod rules;
mod samples;
mod source;

use std::path::{Path, PathBuf};

use layers::Layers;
use rules::File;

fn root() -> PathBuf {
    // Not `env!`: a test binary may be run from a copy of the tree.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    PathBuf::from(root)
}

fn read(path: &str) -> String {
    let full = root().join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

/// The files under `dir` of the project with one of the endings, as paths from its root.
fn files_under(dir: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root().join(dir)) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_under(&path, endings));
        } else if endings.iter().any(|ending| path.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<File> {
    let places = ["src", "tests", "examples", "benches"];
    let paths = places.iter().flat_map(|dir| files_under(dir, &[".rs"]));
    let files: Vec<File> = paths.map(|p| File::new(&p, &read(&p))).collect();
    let names_this_one = files.iter().any(|f| f.path == "tests/tidy/main.rs");
    assert!(
        names_this_one,
        "the tree under {} was not read",
        root().display()
    );
    files
}

#[track_caller]
fn hold_to(rule: impl Fn(&File) -> Vec<String>) {
    let found: Vec<String> = rust_files().iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_file_uses_a_layer_below_its_own() {
    let layers = Layers::parse(&read("docs/layers.txt"));
    hold_to(|file| layers.check(file));
}

#[test]
fn files_and_functions_stay_short() {
    hold_to(rules::sizes);
}

#[test]
fn nothing_has_two_type_parameters() {
    hold_to(rules::type_parameters);
}

#[test]
fn nothing_is_unfinished_or_a_macro() {
    hold_to(rules::unfinished_or_unreadable);
}

#[test]
fn a_panic_states_why_it_cannot_happen() {
    hold_to(rules::panics);
}

#[test]
fn every_file_says_what_lives_in_it() {
    hold_to(rules::head);
}

#[test]
fn every_waiver_has_a_reason() {
    hold_to(rules::waivers);
}

#[test]
fn files_and_threads_are_where_they_belong() {
    hold_to(rules::files_and_threads);
}

#[test]
fn no_text_has_stray_space_or_a_path_of_a_machine() {
    let mut paths: Vec<String> = [
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "Cargo.toml",
        "deny.toml",
    ]
    .map(str::to_string)
    .to_vec();
    for dir in ["src", "tests", "examples", "benches", "docs", "dot"] {
        paths.extend(files_under(dir, &[".rs", ".md", ".txt", ".yaml", ".dot"]));
    }
    paths.extend(files_under("scripts", &[""]));
    paths.extend(files_under(".ci", &[""]));
    let found: Vec<String> = (paths.iter())
        .flat_map(|path| rules::plain_text(path, &read(path)))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let mut paths = vec!["README.md".to_string()];
    paths.extend(files_under("docs", &[".md"]));
    let found: Vec<String> = (paths.iter())
        .flat_map(|path| rules::unknown_targets(path, &read(path), &makefile))
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    for path in files_under("scripts", &[""])
        .iter()
        .map(String::as_str)
        .chain([".ci/run"])
    {
        let metadata = std::fs::metadata(root().join(Path::new(path))).unwrap();
        assert!(
            metadata.permissions().mode() & 0o111 == 0o111,
            "{path} is not executable"
        );
    }
}
