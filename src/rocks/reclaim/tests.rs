//! What a filter makes of the clocks that have become known.

use proptest::prelude::*;

use super::*;
use crate::expiry::{Clock, Expiring};

/// A batch that moves the clock of `[start, end)`.
fn moved(start: &[u8], end: &[u8], now_ms: u64) -> AppBatch {
    let clock = Some(Clock { now_ms, end });
    let record = Record { clock, value: None };
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Data, "elsewhere", "nothing to do with it");
    batch.put(Keyspace::Ttl, start, record.encode());
    batch
}

fn value(expires_at_ms: u64) -> Vec<u8> {
    let value = Expiring {
        expires_at_ms,
        value: b"v",
    };
    Record {
        clock: None,
        value: Some(value),
    }
    .encode()
}

/// What a compaction that begins now may drop.
fn filter(reclaim: &Arc<Reclaim>) -> Filter {
    let (is_full_compaction, is_manual_compaction) = (true, true);
    Filters(Arc::clone(reclaim)).create(CompactionFilterContext {
        is_full_compaction,
        is_manual_compaction,
    })
}

#[test]
fn only_a_batch_with_a_clock_has_to_be_durable() {
    assert!(moves_a_clock(&moved(b"", b"", 1)));
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Ttl, "key", value(1));
    batch.put(Keyspace::Ttl, "other", "no record at all");
    batch.delete(Keyspace::Ttl, "third");
    let record = Record {
        clock: Some(Clock {
            now_ms: 1,
            end: b"",
        }),
        value: None,
    };
    batch.put(Keyspace::Data, "", record.encode());
    assert!(!moves_a_clock(&batch));
}

#[test]
fn a_record_with_a_clock_and_what_is_no_record_stay() {
    let reclaim = Arc::new(Reclaim::default());
    reclaim.add(&moved(b"", b"", 100));
    let filter = filter(&reclaim);
    assert!(filter.is_gone(b"k", &value(100)));
    assert!(!filter.is_gone(b"k", &value(101)));
    assert!(!filter.is_gone(b"k", b"somebody's own bytes"));
    assert!(!filter.is_gone(b"k", b""));
    let clock = Some(Clock {
        now_ms: 1,
        end: b"",
    });
    let value = Some(Expiring {
        expires_at_ms: 1,
        value: b"",
    });
    assert!(!filter.is_gone(b"k", &Record { clock, value }.encode()));
}

#[test]
fn what_a_view_may_see_is_held_until_the_last_of_its_age_is_gone() {
    let reclaim = Arc::new(Reclaim::default());
    reclaim.add(&moved(b"", b"m", 10));
    let (one, other) = (reclaim.pin(), reclaim.pin());
    reclaim.add(&moved(b"m", b"", 10));
    let held = |reclaim| !filter(reclaim).is_gone(b"n", &value(1));
    assert!(
        filter(&reclaim).is_gone(b"a", &value(1)),
        "known before the views"
    );
    assert!(held(&reclaim));
    drop(one);
    assert!(held(&reclaim));
    let later = reclaim.pin();
    drop(other);
    assert!(!held(&reclaim));
    drop(later);
}

fn bound() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'g', 0..2)
}

proptest! {
    #[test]
    fn each_key_has_the_clock_that_was_last_said_of_it(
        steps in prop::collection::vec((bound(), bound(), any::<bool>()), 0..20),
    ) {
        let reclaim = Arc::new(Reclaim::default());
        let mut said: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let keys: Vec<Vec<u8>> = (b'a'..b'h').flat_map(|k| [vec![k], vec![k, 0]]).collect();
        for (now_ms, (start, end, forgets)) in (1..).zip(&steps) {
            let range = KeyRange::new(start.clone(), end.clone());
            if range.is_empty() {
                continue;
            }
            match forgets {
                true => reclaim.forget(&range),
                false => reclaim.add(&moved(start, end, now_ms)),
            }
            for key in keys.iter().filter(|key| range.contains(key)) {
                said.insert(key.clone(), if *forgets { 0 } else { now_ms });
            }
        }
        let filter = filter(&reclaim);
        for key in &keys {
            let clock = said.get(key).copied().unwrap_or(0);
            prop_assert_eq!(filter.is_gone(key, &value(clock.max(1))), clock > 0);
            prop_assert!(!filter.is_gone(key, &value(clock + 1)));
        }
    }
}
