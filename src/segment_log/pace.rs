//! How long a group is held for writers that are on their way. Never does I/O.
//!
//! Writers that were answered together come again one after the other. A group that does not wait for
//! them takes those that are there, and the others take the next: two fsyncs for what one could do, but
//! the second half comes while the first is on its way to the medium. That is not for nothing: threads that
//! wake while another waits for the disk keep it from going on when the disk is done, and two such fsyncs
//! take as long as three of one alone. So waiting pays if the writers come again in little more time than an
//! fsync takes, and only then.

use std::time::{Duration, Instant};

/// The longest wait for a writer that may not come again.
const HOLD_MAX: Duration = Duration::from_millis(2);

/// A group is held for writers that come again within so much of an fsync, in percent.
const SYNC_PERCENT: u64 = 175;

/// What the last groups say about the next one.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many writers there seem to be: those of the last group and those that came meanwhile.
    expected: usize,
    /// How many were answered last, how many came since, and when the first could have.
    answered: usize,
    returned: usize,
    since: Option<Instant>,
    /// What one writer more adds to the time until all are there again, in nanoseconds, smoothed.
    turn_ns: u64,
}

impl Pace {
    /// Notes a writer.
    pub fn arrived(&mut self) {
        self.returned += 1;
        if self.returned == self.answered
            && let Some(since) = self.since
        {
            self.learn(since.elapsed());
        }
    }

    fn learn(&mut self, took: Duration) {
        let turn = took.as_nanos() as u64 / self.answered as u64;
        self.turn_ns = match self.turn_ns {
            0 => turn,
            smoothed => (smoothed * 7 + turn.min(smoothed * 4)) / 8,
        };
    }

    /// Notes that so many were answered while `waiting` others came.
    pub fn answered(&mut self, count: usize, waiting: usize) {
        self.expected = count + waiting;
        (self.answered, self.returned) = (count, 0);
        // One alone is never waited for.
        self.since = (count > 1).then(Instant::now);
    }

    /// How long `waiting` requests are to be held while an fsync takes so long; not at all is nothing.
    pub fn hold(&self, waiting: usize, sync_ns: u64) -> Option<Duration> {
        let limit_ns = sync_ns / 100 * SYNC_PERCENT;
        if waiting >= self.expected || self.turn_ns * self.expected as u64 >= limit_ns {
            return None;
        }
        let limit = Duration::from_nanos(limit_ns).min(HOLD_MAX);
        let left = limit.checked_sub(self.since?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_SYNC_NS: u64 = 60_000_000_000;
    const FAST_SYNC_NS: u64 = 800_000;

    #[test]
    fn a_group_is_held_for_writers_that_come_again_faster_than_the_disk_syncs() {
        let mut pace = Pace::default();
        pace.answered(4, 3);
        pace.learn(Duration::from_millis(1));
        assert!(
            pace.hold(6, SLOW_SYNC_NS).is_some(),
            "one of seven is missing"
        );
        assert_eq!(pace.hold(7, SLOW_SYNC_NS), None, "all are there");
        assert_eq!(
            pace.hold(6, FAST_SYNC_NS),
            None,
            "the disk is as fast as they are"
        );
    }

    #[test]
    fn one_writer_alone_is_never_held() {
        let mut pace = Pace::default();
        assert_eq!(pace.hold(1, SLOW_SYNC_NS), None);
        pace.answered(1, 0);
        assert_eq!(pace.hold(1, SLOW_SYNC_NS), None);
    }

    #[test]
    fn a_pause_of_the_writers_is_not_taken_for_their_pace() {
        let mut pace = Pace::default();
        pace.answered(2, 0);
        pace.learn(Duration::from_micros(20));
        pace.learn(Duration::from_secs(5));
        assert_eq!(pace.turn_ns, (10_000 * 7 + 40_000) / 8);
    }
}
