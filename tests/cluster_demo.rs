//! The example cluster, run for real on small directories: to its end, with damage, and with its parent
//! killed. This program is the example as well: `program` and what follows is the example's command line,
//! so that its stores are processes of this very build.

#[path = "../examples/cluster/mod.rs"]
mod cluster;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use peerstore::{CompositeStorage, Config, Error, LogBackend};

const PROGRAM: &str = "program";
/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

type Test = (&'static str, fn());

const TESTS: [Test; 8] = [
    (
        "every_byte_is_on_every_store_after_one_was_killed",
        every_byte_is_on_every_store_after_one_was_killed,
    ),
    (
        "it_is_the_same_with_the_logs_in_rocksdb",
        it_is_the_same_with_the_logs_in_rocksdb,
    ),
    ("damage_is_found_and_named", damage_is_found_and_named),
    (
        "a_store_with_its_log_in_memory_is_frozen",
        a_store_with_its_log_in_memory_is_frozen,
    ),
    (
        "one_process_is_enough_without_sockets",
        one_process_is_enough_without_sockets,
    ),
    (
        "no_store_outlives_a_parent_that_was_killed",
        no_store_outlives_a_parent_that_was_killed,
    ),
    (
        "what_cannot_be_done_is_refused",
        what_cannot_be_done_is_refused,
    ),
    (
        "frames_beyond_the_limit_are_refused",
        frames_beyond_the_limit_are_refused,
    ),
];

/// A harness of its own, because of the second use of this program: names and parts of names choose.
fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == PROGRAM) {
        return cluster::main(&[PROGRAM], args.into_iter().skip(1));
    }
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into()).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let is_wanted = |name: &str| match has("--exact") {
        _ if wanted.is_empty() => true,
        true => wanted.iter().any(|w| *w == name),
        false => wanted.iter().any(|w| name.contains(w.as_str())),
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| is_wanted(name)) {
        if has("--list") {
            println!("{name}: test");
        } else if !has("--ignored") {
            test(); // A panic ends this program, with its message and a code that says so.
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// The example as a process.
fn program(args: &[&str], stores: &Path, input: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(PROGRAM).args(args).arg("--dir").arg(stores);
    command.arg(input).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it, and sees that it has left no process behind.
fn run(args: &[&str]) -> (Output, String) {
    let (input, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(input.path());
    let stores = dir.path().join("new");
    let output = program(args, &stores, input.path()).output().unwrap();
    let drawn = fs::read_dir(stores.join("diagrams")).map_or(0, Iterator::count);
    assert_eq!(drawn > 0, output.status.success(), "drawn at the end only");
    for store in 1..=4 {
        open_alone(&stores, store, log_of(args));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

/// Where these arguments keep the logs.
fn log_of(args: &[&str]) -> LogBackend {
    match args {
        args if args.contains(&"memory") => LogBackend::Memory,
        args if args.contains(&"rocksdb") => LogBackend::Rocksdb,
        _ => LogBackend::AppendLog,
    }
}

/// Nobody else has the store open, or soon nobody has.
fn open_alone(stores: &Path, store: u64, log: LogBackend) {
    let deadline = Instant::now() + PATIENCE;
    let config = Config {
        create_if_missing: false,
        log,
        ..Config::default()
    };
    loop {
        match CompositeStorage::open(stores.join(format!("store-{store}")), config.clone()) {
            Err(Error::Locked { .. }) => {
                assert!(Instant::now() < deadline, "store {store} still runs");
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(_) => return,
            Err(error) => panic!("store {store}: {error}"),
        }
    }
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

/// The numbers of the table, row by row.
fn table(said: &str) -> Vec<Vec<f64>> {
    let cells = |line: &str| -> Option<Vec<f64>> {
        let cells = line.trim_matches('│').split_whitespace();
        cells.map(|cell| cell.parse().ok()).collect()
    };
    let rows = said.lines().filter(|line| line.starts_with('│'));
    rows.filter_map(cells).collect()
}

#[track_caller]
fn assert_success(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
}

/// The last number before `word`.
fn number_before(said: &str, word: &str) -> usize {
    let before = said.split(word).next().unwrap();
    let number = before.split_whitespace().next_back().unwrap();
    number
        .parse()
        .unwrap_or_else(|_| panic!("{number}: {said}"))
}

fn every_byte_is_on_every_store_after_one_was_killed() {
    tell(&["--regions", "6"]);
}

fn it_is_the_same_with_the_logs_in_rocksdb() {
    tell(&["--regions", "6", "--log", "rocksdb"]);
}

/// The whole story, to its end.
fn tell(args: &[&str]) {
    let (output, said) = run(args);
    assert_success(&output);
    for line in [
        "was killed in the middle of a write",
        "store 4 has taken over a replica of region",
        "was merged into region 1",
        "is back",
        "is as in the files, and nothing else is there",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (replicas, regions) = (
        number_before(&said, "replicas"),
        number_before(&said, "regions on 4 stores"),
    );
    assert!(regions > 2 && replicas == 3 * regions, "{said}");
    let rows = table(&said);
    assert_eq!(rows.len(), 4, "{said}");
    // store, up, regions, leads, applied, .., snapshots installed.
    let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<f64>() as usize;
    assert_eq!((sum(0), sum(2), sum(3)), (10, replicas, regions), "{said}");
    let new = &rows[3];
    assert!(new[2] >= 1.0 && new[4] > 5.0, "it holds a region: {said}");
    assert!(new[12] >= 1.0, "which came as a snapshot: {said}");
    assert!(rows.iter().all(|row| row[8] >= 1.0), "all have synced");
}

fn damage_is_found_and_named() {
    let (output, _) = run(&["--damage"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    let (head, found) = error.split_once('\n').unwrap();
    assert_eq!(head, "cluster: the stores differ from the files:");
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), 3, "nothing else differs: {error}");
    let expected = [
        r#": "a.b/0\x00\x00\x00\x00\x00" is missing"#,
        r#": "large\x00\x00\x00\x00\x03" byte 65535 is 0x"#,
        r#": "\xf4\x8f\xbf\xbf in no file" is there, but should not be"#,
    ];
    for expected in expected {
        assert!(found.iter().any(|line| line.contains(expected)), "{error}");
    }
    let stores: Vec<&str> = found.iter().map(|line| &line[..9]).collect();
    assert!(stores.iter().all(|store| *store == stores[0]), "{error}");
}

fn a_store_with_its_log_in_memory_is_frozen() {
    let (output, said) = run(&["--log", "memory"]);
    assert_success(&output);
    assert!(
        said.contains("was frozen in the middle of a write"),
        "{said}"
    );
}

fn one_process_is_enough_without_sockets() {
    let (output, said) = run(&["--in-process"]);
    assert_success(&output);
    assert!(
        said.contains("was stopped in the middle of a write"),
        "{said}"
    );
}

fn no_store_outlives_a_parent_that_was_killed() {
    let (input, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(input.path());
    let mut parent = program(&[], dir.path(), input.path()).spawn().unwrap();
    let said = BufReader::new(parent.stdout.take().unwrap());
    let begun = said.lines().map_while(Result::ok);
    let begun = begun
        .take(10)
        .find(|line| line.contains("3 stores, 1 region"));
    assert!(begun.is_some(), "the stores run");
    parent.kill().unwrap();
    parent.wait().unwrap();
    for store in 1..=3 {
        open_alone(dir.path(), store, LogBackend::AppendLog);
    }
}

fn what_cannot_be_done_is_refused() {
    let input = tempfile::tempdir().unwrap();
    fs::write(input.path().join("only"), "one").unwrap();
    for (args, expected) in [
        (&["--mib"][..], "--mib /"),
        (&["--mib", "0"], "expected a number from 1"),
        (
            &["--regions", "many"],
            "--regions many: expected a number from 1 to 64",
        ),
        (&["--fast"], "unknown option --fast"),
        (
            &["--log", "paper"],
            "--log paper: expected append_log, rocksdb or memory",
        ),
        (&["--log", "memory", "--in-process"], "would lose its log"),
        (&["elsewhere"], "one directory is enough"),
        (&["--help-"], "unknown option"),
        (&[], "makes 1 keys, expected at least 16"),
    ] {
        let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
        all.push(input.path().into());
        let error = cluster::run(&[], all.into_iter()).unwrap_err().to_string();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let missing = cluster::run(&[], [input.path().join("missing").into()].into_iter());
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("give a directory"), "{missing}");
    let node = cluster::run(&[], ["node", "1"].into_iter().map(OsString::from));
    assert!(node.unwrap_err().to_string().contains("node: expected"));
}

fn frames_beyond_the_limit_are_refused() {
    use cluster::protocol::{Ask, FRAME_BYTES_MAX, Request, read_frame, write_frame};
    let ask = |bytes: usize| Request {
        ask: Some(Ask::Value(vec![7; bytes])),
    };
    let mut frame = Vec::new();
    write_frame(&mut frame, &ask(9)).unwrap();
    assert_eq!(read_frame::<Request>(&mut &frame[..]).unwrap(), ask(9));
    assert!(read_frame::<Request>(&mut &frame[..frame.len() - 1]).is_err());
    let too_long = write_frame(&mut Vec::new(), &ask(FRAME_BYTES_MAX as usize));
    assert!(too_long.is_err());
    // Four bytes that announce four gigabytes: nothing is read, and nothing reserved, for them.
    let error = read_frame::<Request>(&mut &[0xff; 8][..]).unwrap_err();
    assert!(error.to_string().contains("expected at most"), "{error}");
}
