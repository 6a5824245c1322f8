//! A limit on bytes per second, as a bucket of tokens.

use std::time::{Duration, Instant};

/// Says how long to pause. The clock is the caller's.
pub(super) struct Rate {
    bytes_per_second: u64,
    // When everything that was taken will have been paid for.
    paid_at: Option<Instant>,
}

/// How much may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// No limit if `bytes_per_second` is 0.
    pub fn new(bytes_per_second: u64) -> Rate {
        Rate {
            bytes_per_second,
            paid_at: None,
        }
    }

    /// Takes `bytes` at `now`: how long to pause after sending them.
    pub fn take(&mut self, now: Instant, bytes: usize) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        // What was not used is lost, up to a burst.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid_at.map_or(earliest, |at| at.max(earliest));
        let paid_at = from + cost;
        self.paid_at = Some(paid_at);
        paid_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_add_up_to_the_rate_less_one_burst() {
        let (mut rate, mut now) = (Rate::new(1000), Instant::now() + BURST);
        let start = now;
        for _ in 0..100 {
            now += rate.take(now, 250);
        }
        let (spent, wanted) = (now - start + BURST, Duration::from_secs(25));
        assert!(
            spent.abs_diff(wanted) < Duration::from_millis(1),
            "{spent:?}"
        );
    }

    #[test]
    fn a_long_silence_saves_up_no_more_than_a_burst() {
        let mut rate = Rate::new(1000);
        let now = Instant::now() + BURST;
        rate.take(now, 1000);
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.take(later, 100), Duration::ZERO);
        assert_eq!(rate.take(later, 100), Duration::from_millis(100));
    }

    #[test]
    fn no_limit_asks_for_no_pause() {
        assert_eq!(
            Rate::new(0).take(Instant::now(), usize::MAX),
            Duration::ZERO
        );
    }
}
