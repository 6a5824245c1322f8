//! RocksDB takes minutes to compile. Both crates share it as long as all that it is built from has one
//! version in both lock files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The packages of a lock file: by name, the versions with their dependencies.
type Packages = BTreeMap<String, Vec<(String, Vec<String>)>>;

fn packages(path: &str) -> Packages {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).unwrap();
    let mut packages = Packages::new();
    for block in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = block.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('"').nth(1).unwrap().to_owned()
        };
        let listed = block.split("dependencies = [").nth(1).unwrap_or("]");
        let listed = listed.split(']').next().unwrap();
        let dependencies = listed.split('"').skip(1).step_by(2).map(str::to_owned);
        let package = (field("version = "), dependencies.collect());
        packages.entry(field("name = ")).or_default().push(package);
    }
    packages
}

/// All that `librocksdb-sys` is built from, as "name version".
fn closure(packages: &Packages) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec!["librocksdb-sys".to_owned()];
    while let Some(wanted) = left.pop() {
        // A name alone, or with a version where there are several.
        let (name, version) = wanted.split_once(' ').unwrap_or((&wanted, ""));
        let versions = &packages[name];
        let package = versions
            .iter()
            .find(|(own, _)| version.is_empty() || own == version);
        let (version, dependencies) = package.unwrap();
        if found.insert(format!("{name} {version}")) {
            left.extend(dependencies.iter().cloned());
        }
    }
    found
}

#[test]
fn rocksdb_is_built_from_the_same_versions_as_for_peerstore_itself() {
    let (own, main) = (packages("Cargo.lock"), packages("../../Cargo.lock"));
    let (own, main) = (closure(&own), closure(&main));
    assert!(main.len() > 15, "{main:?}");
    // An optional dependency that nobody turns on may be listed in one of them only.
    let name = |package: &str| package.split(' ').next().map(str::to_owned);
    let names: BTreeSet<_> = own.iter().map(|package| name(package)).collect();
    let differ: Vec<_> = (main.difference(&own))
        .filter(|package| names.contains(&name(package)))
        .collect();
    assert!(
        differ.is_empty(),
        "peerstore has {differ:?}: take them with `cargo update --precise`, or RocksDB is compiled twice"
    );
}
