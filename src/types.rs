//! The ids and small values that every layer speaks in. Uses: nothing of ours. Never does I/O.

use std::fmt;

/// The id of a region: one raft group, one key range.
///
/// ```
/// use peerstore::RegionId;
/// let id: RegionId = 7.into();
/// assert_eq!(id.to_string(), "7");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u64);

/// The region that a check of the health writes for: nobody has it, ids end far below.
pub(crate) const PROBE_REGION: RegionId = RegionId(u64::MAX);

/// The id of a peer: one replica of one region. raft-rs calls it the node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl From<u64> for RegionId {
    fn from(id: u64) -> Self {
        RegionId(id)
    }
}

impl From<u64> for PeerId {
    fn from(id: u64) -> Self {
        PeerId(id)
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an entry stands in the log of its region. Orders by term, then by index, as raft's
/// "more up to date" does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The term of the entry.
    pub term: u64,
    /// The index of the entry.
    pub index: u64,
}

impl LogPosition {
    /// The position of the entry `index` of `term`.
    pub fn new(term: u64, index: u64) -> Self {
        LogPosition { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(term {}, index {})", self.term, self.index)
    }
}

/// What a write has survived when the call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On the medium: survives a power cut. Returned after an fsync, which many writers share.
    #[default]
    Synced,
    /// In the kernel's page cache: survives the death of the process, not of the machine.
    Buffered,
}

/// A half-open range of keys, `[start, end)`; an empty `end` means that there is no bound.
///
/// ```
/// use peerstore::KeyRange;
/// let range = KeyRange::new("b", "d");
/// assert!(range.contains(b"b") && range.contains(b"czz") && !range.contains(b"d"));
/// assert!(KeyRange::all().contains(b""));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key inside.
    pub start: Vec<u8>,
    /// The first key outside, or empty for no bound.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// The keys from `start`, inclusive, to `end`, exclusive, or without a bound if `end` is empty.
    pub fn new(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        KeyRange {
            start: start.into(),
            end: end.into(),
        }
    }

    /// Every key.
    pub fn all() -> Self {
        KeyRange::default()
    }

    /// The keys that begin with `prefix`.
    ///
    /// ```
    /// use peerstore::KeyRange;
    /// assert_eq!(KeyRange::prefix("ab"), KeyRange::new("ab", "ac"));
    /// assert_eq!(KeyRange::prefix([7, 0xff]), KeyRange::new([7, 0xff], [8]));
    /// assert_eq!(KeyRange::prefix([0xff]), KeyRange::new([0xff], ""));
    /// ```
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start: Vec<u8> = prefix.into();
        let mut end = start.clone();
        while end.pop_if(|last| *last == u8::MAX).is_some() {}
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        KeyRange { start, end }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && (self.end.is_empty() || key < self.end.as_slice())
    }

    /// What of this range lies outside `other`: at most a piece below it and one above it.
    ///
    /// ```
    /// use peerstore::KeyRange;
    /// let range = KeyRange::new("b", "");
    /// assert_eq!(range.without(&KeyRange::new("a", "d")), [KeyRange::new("d", "")]);
    /// assert_eq!(range.without(&KeyRange::new("c", "")), [KeyRange::new("b", "c")]);
    /// assert!(range.without(&KeyRange::all()).is_empty());
    /// ```
    pub fn without(&self, other: &KeyRange) -> Vec<KeyRange> {
        let ends_first = |a: &[u8], b: &[u8]| b.is_empty() || (!a.is_empty() && a < b);
        let mut pieces = Vec::new();
        if self.start < other.start {
            let end = match ends_first(&self.end, &other.start) {
                true => &self.end,
                false => &other.start,
            };
            pieces.push(KeyRange::new(&self.start[..], &end[..]));
        }
        if !other.end.is_empty() && ends_first(&other.end, &self.end) {
            let start = self.start.clone().max(other.end.clone());
            pieces.push(KeyRange::new(start, &self.end[..]));
        }
        pieces
    }

    /// Whether no key can lie inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.escape_ascii();
        if self.end.is_empty() {
            write!(f, "[\"{}\", unbounded)", self.start.escape_ascii())
        } else {
            write!(f, "[\"{}\", \"{end}\")", self.start.escape_ascii())
        }
    }
}

/// One step of SplitMix64 from the state `x`: spreads its bits over the whole word.
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(MIX_STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a state of SplitMix64 grows by with each step.
pub(crate) const MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
