//! The readme shows what is there.

fn read(path: &str) -> String {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let full = std::path::Path::new(&root).join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

#[test]
fn the_program_shown_is_the_example_that_runs() {
    let readme = read("README.md");
    let blocks: Vec<&str> = readme.split("```rust\n").skip(1).collect();
    assert_eq!(blocks.len(), 1, "one program, which the doctests run");
    let shown = blocks[0].split("```").next().unwrap();
    assert_eq!(shown, read("examples/single_region.rs"));
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
