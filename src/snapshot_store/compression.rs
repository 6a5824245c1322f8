//! How the content of a snapshot is compressed. Uses: nothing. Never does I/O.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;

/// How the blocks of a snapshot are compressed, and how hard the compressor tries. A block that would
/// not get smaller is stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip members: what every tool reads, slower than the others for what it saves.
    Gzip {
        /// From 1, fast, to 9, small.
        level: u32,
    },
    /// LZ4 blocks: fast. It has no levels.
    Lz4,
    /// Zstandard frames: small.
    Zstd {
        /// From 1, fast, to 22, small.
        level: i32,
    },
}

/// What wrote the blocks of a file, and what is needed to read them. The level is not in the file:
/// reading does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// No compression.
    None,
    /// Gzip members (RFC 1952), one a block.
    Gzip,
    /// LZ4 blocks without a frame.
    Lz4,
    /// Zstandard frames, one a block.
    Zstd,
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd { level: 3 }
    }
}

impl Compression {
    /// The compression by `codec` at `level`, or at the codec's usual one: 6 of gzip, 3 of zstd.
    ///
    /// # Errors
    /// What was given and what was expected, if the codec has no such level.
    pub fn of(codec: Codec, level: Option<i32>) -> Result<Compression, String> {
        let compression = match codec {
            Codec::None => Compression::None,
            Codec::Lz4 => Compression::Lz4,
            Codec::Gzip => {
                let level = level.unwrap_or(6);
                // A negative one is out of the range that is checked below, whatever it becomes.
                let level = u32::try_from(level).unwrap_or(u32::MAX);
                Compression::Gzip { level }
            }
            Codec::Zstd => Compression::Zstd {
                level: level.unwrap_or(3),
            },
        };
        match (codec.levels(), level) {
            (None, Some(level)) => {
                Err(format!("got {level}, expected none: {codec} has no levels"))
            }
            (Some(levels), Some(level)) => in_range(codec, level, &levels).map(|()| compression),
            (_, None) => Ok(compression),
        }
    }

    /// What a reader needs.
    pub fn codec(&self) -> Codec {
        match self {
            Compression::None => Codec::None,
            Compression::Gzip { .. } => Codec::Gzip,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd { .. } => Codec::Zstd,
        }
    }

    /// The level, where the codec has any.
    pub fn level(&self) -> Option<i32> {
        match *self {
            Compression::None | Compression::Lz4 => None,
            Compression::Gzip { level } => Some(i32::try_from(level).unwrap_or(i32::MAX)),
            Compression::Zstd { level } => Some(level),
        }
    }

    /// Whether the codec has that level.
    ///
    /// # Errors
    /// What was given and what was expected.
    pub fn check(&self) -> Result<(), String> {
        Compression::of(self.codec(), self.level()).map(drop)
    }
}

impl Codec {
    /// The levels that it has.
    pub fn levels(&self) -> Option<RangeInclusive<i32>> {
        match self {
            Codec::None | Codec::Lz4 => None,
            Codec::Gzip => Some(1..=9),
            Codec::Zstd => Some(1..=22),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

fn in_range(codec: Codec, level: i32, levels: &RangeInclusive<i32>) -> Result<(), String> {
    if levels.contains(&level) {
        return Ok(());
    }
    let (least, most) = (levels.start(), levels.end());
    Err(format!(
        "got {level}, expected {least} to {most} of {codec}"
    ))
}
