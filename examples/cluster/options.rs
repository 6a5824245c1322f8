//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

pub const USAGE: &str = "\
Replicates the files of a directory over three stores in one process.

usage: cluster [options] [directory]

  directory      what to load; the sources of cargo's registry if none is given
  --mib N        load about N MiB (64)
  --regions N    split the keys into N raft groups, 1 to 64 (4)
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
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub input: Option<PathBuf>,
    pub mib_max: u64,
    pub regions: u64,
    /// None: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    pub damage: bool,
}

#[derive(Debug, PartialEq)]
pub enum UsageError {
    UnknownOption(String),
    MissingValue(&'static str),
    NotInRange(&'static str, String, u64),
    SecondDirectory(PathBuf),
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
            UsageError::SecondDirectory(path) => {
                write!(f, "one directory is enough, got {} as well", path.display())?;
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
            regions: 4,
            dir: None,
            damage: false,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(Command::Help),
                Some("--mib") => options.mib_max = number("--mib", args.next(), 1 << 20)?,
                Some("--regions") => {
                    options.regions = number("--regions", args.next(), REGIONS_MAX)?;
                }
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
        Ok(Command::Run(options))
    }
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
