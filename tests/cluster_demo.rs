//! The example cluster, run in this process on small directories: to its end, and with damage.

#[path = "../examples/cluster/mod.rs"]
mod cluster;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Runs the example with a store directory of its own. The error's text, if it failed.
fn run(args: &[&str], input: &Path) -> Result<(), String> {
    let stores = tempfile::tempdir().unwrap();
    let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
    all.extend([
        "--dir".into(),
        stores.path().join("new").into(),
        input.into(),
    ]);
    let result = cluster::run(all.into_iter()).map_err(|error| error.to_string());
    let diagrams = stores.path().join("new/diagrams");
    let drawn = fs::read_dir(diagrams).map_or(0, Iterator::count);
    assert_eq!(result.is_ok(), drawn > 0, "drawn at the end, and only then");
    result
}

/// Bytes that do not compress, so that a snapshot with them has to travel as a file.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A few files of every kind.
fn sample(dir: &Path) {
    let odd = std::ffi::OsStr::from_bytes(b"not \xff UTF-8\nand two lines");
    fs::write(dir.join(odd), "odd").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("large"), noise(300_000)).unwrap();
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::create_dir_all(dir.join("a.b")).unwrap();
    for number in 0..40 {
        fs::write(dir.join(format!("a/b/{number}")), noise(number * 1000)).unwrap();
        fs::write(dir.join(format!("a.b/{number}")), number.to_string()).unwrap();
    }
    std::os::unix::fs::symlink("large", dir.join("link")).unwrap();
}

#[test]
fn every_file_is_on_every_store_after_one_was_lost() {
    let input = tempfile::tempdir().unwrap();
    sample(input.path());
    assert_eq!(run(&["--regions", "3"], input.path()), Ok(()));
}

#[test]
fn a_single_file_is_enough() {
    let input = tempfile::tempdir().unwrap();
    fs::write(input.path().join("only"), "").unwrap();
    assert_eq!(run(&[], input.path()), Ok(()));
}

#[test]
fn damage_is_found_and_named() {
    let input = tempfile::tempdir().unwrap();
    sample(input.path());
    let error = run(&["--damage"], input.path()).unwrap_err();
    let (head, found) = error.split_once('\n').unwrap();
    assert_eq!(head, "the stores differ from the files:");
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), 3, "nothing else differs: {error}");
    let expected = [
        r#"  store 3: "a.b/0\x00\x00\x00\x00\x00" is missing"#,
        r#"  store 3: "large\x00\x00\x00\x00\x03" byte 65535 is 0x"#,
        r#"  store 3: "\xf4\x8f\xbf\xbf in no file" is there, but in no file"#,
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let input = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (&["--mib"][..], "--mib /"),
        (&["--mib", "0"], "expected a number from 1"),
        (
            &["--regions", "many"],
            "--regions many: expected a number from 1 to 64",
        ),
        (&["--fast"], "unknown option --fast"),
        (&["elsewhere"], "one directory is enough"),
        (&[], "holds no file"),
    ] {
        let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
        all.push(input.path().into());
        let error = cluster::run(all.into_iter()).unwrap_err().to_string();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let missing = cluster::run([input.path().join("missing").into()].into_iter());
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("give a directory")
    );
}
