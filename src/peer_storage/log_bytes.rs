//! About how many bytes a log takes, for the policy of its compaction. Uses: nothing of ours.
//! Never does I/O.

use raft::eraftpb::Entry;

/// What an entry takes besides its data: key, index, term.
const OVERHEAD_BYTES: u64 = 32;

/// The size of a log: counted while it is written, asked of the store for what was there at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogBytes {
    /// Everything was counted.
    Known(u64),
    /// The store was not asked yet about the entries below `old_end`; `added` came since.
    Unknown { old_end: u64, added: u64 },
}

impl LogBytes {
    pub fn add(&mut self, entries: &[Entry]) {
        let sizes = entries
            .iter()
            .map(|e| (e.data.len() + e.context.len()) as u64);
        let bytes = sizes.map(|size| size + OVERHEAD_BYTES).sum::<u64>();
        match self {
            LogBytes::Known(known) => *known += bytes,
            LogBytes::Unknown { added, .. } => *added += bytes,
        }
    }

    /// Of `before` entries `kept` remain: so does their share.
    pub fn shrink(&mut self, kept: u64, before: u64) {
        if let LogBytes::Known(bytes) = self {
            let share = u128::from(*bytes) * u128::from(kept) / u128::from(before.max(1));
            *bytes = share as u64;
        }
    }
}
