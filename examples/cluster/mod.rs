//! The demonstration from start to end. Uses: peerstore's public names only.
//!
//! | file | what it does |
//! |---|---|
//! | `node` | one store: a `Store` over RocksDB and TCP, and what it answers |
//! | `serve`, `hosts` | its process, and whoever starts, kills and ends those |
//! | `trace` | what the process reports, in a file beside its directory |
//! | `protocol` | what clients and stores say to each other |
//! | `client`, `load` | routes, retries; the writing |
//! | `story` | what happens to the cluster meanwhile |
//! | `input`, `options` | what to load |
//! | `check`, `report`, `picture` | whether it is all there, what it took, and where it is |

mod check;
mod client;
mod hosts;
mod input;
mod load;
mod node;
mod options;
mod picture;
pub mod protocol;
mod report;
mod serve;
mod story;
#[path = "../support/svg.rs"]
mod svg;
mod trace;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::HumanBytes;
use peerstore::memory::MemoryNetwork;

use hosts::{Hosts, Launcher};
use input::Input;
use options::{Command, Options, USAGE};
use protocol::Known;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The program. A store's process is this program with `prefix` before the arguments of a store.
pub fn main(prefix: &[&str], args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(prefix, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the arguments and does what they say. An error if anything went wrong, or if a single byte
/// on a store is not what it should be.
pub fn run(prefix: &[&str], args: impl Iterator<Item = OsString>) -> Outcome<()> {
    match Command::parse(args)? {
        Command::Run(options) => demonstrate(prefix, &options),
        Command::Node(settings) => serve::run(&settings),
        Command::Help => {
            print!("{USAGE}");
            Ok(())
        }
    }
}

fn demonstrate(prefix: &[&str], options: &Options) -> Outcome<()> {
    let source = input_directory(options)?;
    let input = Input::collect(&source, options.mib_max << 20)?;
    println!(
        "{} from {} files in {} ({} skipped): {} keys",
        HumanBytes(input.bytes),
        input.files.len(),
        source.display(),
        input.skipped,
        input.items.len(),
    );
    let temporary = tempfile::tempdir()?;
    let dir = options.dir.as_deref().unwrap_or(temporary.path());
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!(
            "--dir {}: expected a missing or empty directory",
            dir.display()
        )
        .into());
    }
    std::fs::create_dir_all(dir)?;
    let launcher = match options.in_process {
        true => Launcher::Threads(MemoryNetwork::immediate()),
        false => Launcher::Processes(prefix.iter().map(OsString::from).collect()),
    };
    let region_bytes_max = (input.bytes / options.regions).max(1 << 10);
    let hosts = Hosts::new(launcher, dir.to_path_buf(), options.log, region_bytes_max);
    story::tell(hosts, input, options)
}

/// The directory that was given, or the sources that cargo has downloaded to build this.
fn input_directory(options: &Options) -> Outcome<PathBuf> {
    if let Some(dir) = &options.input {
        return Ok(dir.clone());
    }
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = cargo_home
        .or(home)
        .ok_or("no home directory; give a directory to load")?;
    Ok(cargo.join("registry").join("src"))
}

/// Every region of every store, a line each: for an error that has to say how things stand.
fn describe(survey: &BTreeMap<u64, Vec<Known>>) -> String {
    let mut text = String::new();
    for (store, regions) in survey {
        for known in regions {
            let peers: Vec<u64> = known.region.peers.iter().map(|p| p.store_id).collect();
            let leader = known.leader.map_or(0, |leader| leader.store_id);
            let epoch = known.region.region_epoch;
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n  store {store}, region {}: {}, applied {}, term {}, epoch {}/{}, on {peers:?}, led by {leader}",
                known.region.id,
                known.stage,
                known.applied,
                known.term,
                epoch.conf_ver,
                epoch.version,
            );
        }
    }
    text
}

/// The path as it is printed.
fn shown(path: &Path) -> String {
    path.canonicalize()
        .unwrap_or_else(|_| path.to_path_buf())
        .display()
        .to_string()
}
