//! The readme shows what is there.

fn read(path: &str) -> String {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let full = std::path::Path::new(&root).join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

#[test]
fn the_programs_shown_are_the_examples_that_run() {
    let readme = read("README.md");
    let blocks = readme.split("```rust\n").skip(1);
    let shown: Vec<&str> = blocks.filter_map(|b| b.split("```").next()).collect();
    let examples = ["examples/single_region.rs", "examples/kv_store.rs"].map(read);
    assert_eq!(shown, examples, "all of them, which the doctests run");
}

/// Digits apart, each line of the demonstration's output is one that the example can say.
#[test]
fn the_demonstration_says_what_is_shown() {
    let readme = read("README.md");
    let shown = readme.split("```text\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    assert!(shown.lines().count() > 3, "{shown}");
    let sources = read("examples/cluster/story.rs");
    // The texts between the numbers.
    for line in shown.lines() {
        let line = line.split_once("%: ").map_or(line, |(_, line)| line);
        let pieces = line.split(|c: char| c.is_ascii_digit() || c == '.');
        for piece in pieces.map(str::trim).filter(|p| p.len() > 8) {
            // What becomes of the store depends on the options.
            let said = piece.strip_prefix("was killed ").unwrap_or(piece);
            assert!(sources.contains(said), "{piece}");
        }
    }
}

#[test]
fn every_file_linked_to_exists() {
    let readme = read("README.md");
    let links = readme
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let local: Vec<&str> = links.filter(|link| !link.starts_with("http")).collect();
    assert!(local.len() > 5, "{local:?}");
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    for link in local {
        let path = std::path::Path::new(&root).join(link);
        assert!(path.exists(), "{link}");
    }
}
