//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use peerstore::LogBackend;

use super::node::Settings;

pub const USAGE: &str = "\
Replicates the files of a directory over four stores, each a process, and kills one on the way.

usage: cluster [options] [directory]

  directory      what to load; the sources of cargo's registry if none is given
  --mib N        load about N MiB (64)
  --regions N    let a region split when it holds more than 1/N of that, 1 to 64 (8)
  --log WHERE    keep the logs in append_log, in rocksdb, or in memory: then the store is frozen, not
                 killed (append_log)
  --in-process   run the stores as threads of this process, without TCP; one is stopped, not killed
  --dir DIR      put the stores into DIR, missing or empty, and keep them
  --damage       change, remove and add something on one store before the check, to see it found
  --help         this text
";

const REGIONS_MAX: u64 = 64;

/// What was asked for.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Run(Options),
    /// One store, as the demonstration starts it.
    Node(Settings),
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub input: Option<PathBuf>,
    pub mib_max: u64,
    pub regions: u64,
    pub log: LogBackend,
    pub in_process: bool,
    /// None: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    pub damage: bool,
}

#[derive(Debug, PartialEq)]
pub enum UsageError {
    UnknownOption(String),
    MissingValue(&'static str),
    NotInRange(&'static str, String, u64),
    NoLog(String),
    LostLog,
    SecondDirectory(PathBuf),
    BadNode,
}

impl std::error::Error for UsageError {}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UsageError::UnknownOption(option) => write!(f, "unknown option {option}")?,
            UsageError::MissingValue(option) => write!(f, "{option} needs a value")?,
            UsageError::NotInRange(option, got, max) => {
                write!(f, "{option} {got}: expected a number from 1 to {max}")?;
            }
            UsageError::NoLog(got) => {
                write!(f, "--log {got}: expected append_log, rocksdb or memory")?
            }
            UsageError::LostLog => {
                f.write_str("--log memory: a store in this process would lose its log, and its votes, when it is stopped")?;
            }
            UsageError::SecondDirectory(path) => {
                write!(f, "one directory is enough, got {} as well", path.display())?;
            }
            UsageError::BadNode => {
                f.write_str(
                    "node: expected a store, its directory, the bytes of a region and a log",
                )?;
            }
        }
        f.write_str("; see --help")
    }
}

impl Command {
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
        let mut options = Options {
            input: None,
            mib_max: 64,
            regions: 8,
            log: LogBackend::AppendLog,
            in_process: false,
            dir: None,
            damage: false,
        };
        let mut args = args.peekable();
        if args.next_if(|arg| arg == "node").is_some() {
            return node(args.collect());
        }
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(Command::Help),
                Some("--mib") => options.mib_max = number("--mib", args.next(), 1 << 20)?,
                Some("--regions") => {
                    options.regions = number("--regions", args.next(), REGIONS_MAX)?;
                }
                Some("--log") => {
                    let log = args.next().ok_or(UsageError::MissingValue("--log"))?;
                    options.log = log_backend(&log)?;
                }
                Some("--in-process") => options.in_process = true,
                Some("--dir") => {
                    let dir = args.next().ok_or(UsageError::MissingValue("--dir"))?;
                    options.dir = Some(dir.into());
                }
                Some("--damage") => options.damage = true,
                Some(option) if option.starts_with('-') => {
                    return Err(UsageError::UnknownOption(option.into()));
                }
                _ if options.input.is_some() => {
                    return Err(UsageError::SecondDirectory(arg.into()));
                }
                _ => options.input = Some(arg.into()),
            }
        }
        match options.log == LogBackend::Memory && options.in_process {
            true => Err(UsageError::LostLog),
            false => Ok(Command::Run(options)),
        }
    }
}

fn node(args: Vec<OsString>) -> Result<Command, UsageError> {
    let number = |arg: &OsString| arg.to_str().and_then(|text| text.parse().ok());
    let [store, dir, region_bytes_max, log] = &args[..] else {
        return Err(UsageError::BadNode);
    };
    Ok(Command::Node(Settings {
        store: number(store).ok_or(UsageError::BadNode)?,
        dir: dir.into(),
        log: log_backend(log)?,
        region_bytes_max: number(region_bytes_max).ok_or(UsageError::BadNode)?,
    }))
}

/// The names of the places that a log may be in.
const LOGS: [(&str, LogBackend); 3] = [
    ("rocksdb", LogBackend::Rocksdb),
    ("append_log", LogBackend::AppendLog),
    ("memory", LogBackend::Memory),
];

fn log_backend(name: &OsStr) -> Result<LogBackend, UsageError> {
    let known = LOGS.iter().find(|(known, _)| name == *known);
    known
        .map(|(_, log)| *log)
        .ok_or_else(|| UsageError::NoLog(name.to_string_lossy().into_owned()))
}

/// What is said on the command line for it.
pub fn log_name(log: LogBackend) -> &'static str {
    let known = LOGS.iter().find(|(_, known)| *known == log);
    known.map_or("", |(name, _)| name)
}

fn number(option: &'static str, value: Option<OsString>, max: u64) -> Result<u64, UsageError> {
    let value = value.ok_or(UsageError::MissingValue(option))?;
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| {
            let got = OsStr::to_string_lossy(&value).into_owned();
            UsageError::NotInRange(option, got, max)
        })
}
