//! When and how far the log is compacted by policy. Uses: types. Never does I/O.

use super::PeerStorage;
use crate::error::Result;

/// How long a log may become before its front is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcPolicy {
    /// Beyond this many entries the log is compacted even if a follower still needs them; it will get
    /// a snapshot.
    pub entries_max: u64,
    /// Beyond this many bytes the same.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub bytes_max: u64,
    /// How many applied entries stay for slow followers. Fewer where they alone would exceed
    /// `bytes_max`. Without pressure, a compaction waits until it removes at least as many.
    pub entries_trailing: u64,
}

impl Default for GcPolicy {
    fn default() -> Self {
        GcPolicy {
            entries_max: 100_000,
            bytes_max: 192 << 20,
            entries_trailing: 1_000,
        }
    }
}

/// What the policy decides from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcInput {
    /// The first index of the log.
    pub first_index: u64,
    /// The last applied index.
    pub applied: u64,
    /// About how many bytes the entries from `first_index` to `applied` take.
    pub bytes: u64,
    /// The matched index of the slowest follower that should be waited for, if there is one.
    pub slowest: Option<u64>,
}

impl GcPolicy {
    /// The new first index, if the log is to be compacted; never above `applied + 1`.
    ///
    /// ```
    /// use peerstore::{GcInput, GcPolicy};
    /// let policy = GcPolicy { entries_max: 100, bytes_max: 1 << 20, entries_trailing: 10 };
    /// let input = GcInput { first_index: 1, applied: 50, bytes: 500, slowest: Some(30) };
    /// assert_eq!(policy.first_index_to_keep(&input), Some(21)); // the follower's next 31, less 10
    /// let full = GcInput { applied: 200, ..input };
    /// assert_eq!(policy.first_index_to_keep(&full), Some(191)); // no more waiting
    /// ```
    pub fn first_index_to_keep(&self, input: &GcInput) -> Option<u64> {
        let next = input.applied + 1;
        let count = next.saturating_sub(input.first_index);
        if count == 0 {
            return None;
        }
        let pressed = self.is_pressed(input);
        let needed = match input.slowest {
            Some(matched) if !pressed => next.min(matched + 1),
            _ => next,
        };
        let bytes_each = (input.bytes / count).max(1);
        let trailing = self.entries_trailing.min(self.bytes_max / bytes_each);
        let keep = needed.saturating_sub(trailing).max(input.first_index);
        let removed = keep - input.first_index;
        let enough = if pressed { 1 } else { trailing.max(1) };
        (removed >= enough).then_some(keep)
    }
}

impl GcPolicy {
    /// Whether the log is too long to wait for anybody.
    fn is_pressed(&self, input: &GcInput) -> bool {
        let count = (input.applied + 1).saturating_sub(input.first_index);
        count > self.entries_max || input.bytes > self.bytes_max
    }
}

impl PeerStorage {
    /// The new first index, if the policy of the node asks for a compaction now. `slowest` is the
    /// matched index of the slowest follower worth waiting for; a leader takes it from raft's
    /// progress. A leader may propose the answer as a command, so that all replicas compact alike:
    /// then whoever leads next can serve the same followers.
    ///
    /// # Errors
    /// Those of the log store.
    pub fn first_index_by_policy(&self, slowest: Option<u64>) -> Result<Option<u64>> {
        let (options, bytes) = (&self.engines.options, self.log_bytes()?);
        let input = GcInput {
            first_index: self.log_first(),
            applied: self.applied_index(),
            bytes,
            slowest,
        };
        // Where snapshots are made by policy, nothing goes that none covers, unless the log is too long.
        let input = match options.snapshot_policy.is_never() || options.gc.is_pressed(&input) {
            true => input,
            false => GcInput {
                applied: (self.kept_snapshot_index().max(self.truncated_index()))
                    .min(self.applied_index()),
                ..input
            },
        };
        Ok(options.gc.first_index_to_keep(&input))
    }

    /// Compacts the log if [`PeerStorage::first_index_by_policy`] says so. Returns the new first index
    /// if the log was compacted.
    ///
    /// # Errors
    /// As [`PeerStorage::compact`].
    pub fn compact_by_policy(&mut self, slowest: Option<u64>) -> Result<Option<u64>> {
        let Some(first_index) = self.first_index_by_policy(slowest)? else {
            return Ok(None);
        };
        self.compact(first_index)?;
        Ok(Some(first_index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: GcPolicy = GcPolicy {
        entries_max: 1_000,
        bytes_max: 1_000_000,
        entries_trailing: 100,
    };

    fn input(first_index: u64, applied: u64) -> GcInput {
        GcInput {
            first_index,
            applied,
            bytes: (applied + 1 - first_index) * 10,
            slowest: None,
        }
    }

    #[test]
    fn trailing_entries_stay() {
        assert_eq!(POLICY.first_index_to_keep(&input(1, 500)), Some(401));
        assert_eq!(POLICY.first_index_to_keep(&input(401, 500)), None);
        assert_eq!(
            POLICY.first_index_to_keep(&input(401, 501)),
            None,
            "too little"
        );
        assert_eq!(POLICY.first_index_to_keep(&input(401, 600)), Some(501));
    }

    #[test]
    fn the_slowest_follower_is_waited_for_until_the_count_is_reached() {
        let slow = |applied| GcInput {
            slowest: Some(250),
            ..input(1, applied)
        };
        assert_eq!(POLICY.first_index_to_keep(&slow(900)), Some(151));
        assert_eq!(POLICY.first_index_to_keep(&slow(1_000)), Some(151));
        assert_eq!(POLICY.first_index_to_keep(&slow(1_001)), Some(902));
        let never_seen = GcInput {
            slowest: Some(0),
            ..input(1, 900)
        };
        assert_eq!(POLICY.first_index_to_keep(&never_seen), None);
    }

    #[test]
    fn big_entries_do_not_fill_the_disk_behind_a_count() {
        let big = GcInput {
            bytes: 50 * 100_000,
            ..input(1, 50)
        };
        assert_eq!(
            POLICY.first_index_to_keep(&big),
            Some(41),
            "ten of 100 kB fit"
        );
        let huge = GcInput {
            bytes: 2 * 3_000_000,
            ..input(1, 2)
        };
        assert_eq!(
            POLICY.first_index_to_keep(&huge),
            Some(3),
            "not even one fits"
        );
    }

    #[test]
    fn an_empty_log_is_left_alone() {
        assert_eq!(POLICY.first_index_to_keep(&input(6, 5)), None);
    }
}
