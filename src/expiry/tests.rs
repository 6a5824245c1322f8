//! Records, and clocks that change regions.

use super::*;
use crate::app_store::{AppBatch, ApplicationDataStorage as _};
use crate::memory::MemoryData;
use crate::types::Durability;

#[test]
fn a_record_has_its_golden_bytes() {
    let clock = Some(Clock {
        now_ms: 0x0102,
        end: b"z",
    });
    let value = Some(Expiring {
        expires_at_ms: 7,
        value: b"v",
    });
    for (record, bytes) in [
        (
            Record { clock, value: None },
            &b"\x01\x02\x01\0\0\0\0\0\0\x01\0\0\0z"[..],
        ),
        (Record { clock: None, value }, b"\x02\x07\0\0\0\0\0\0\0v"),
        (
            Record { clock, value },
            b"\x03\x02\x01\0\0\0\0\0\0\x01\0\0\0z\x07\0\0\0\0\0\0\0v",
        ),
    ] {
        assert_eq!(record.encode(), bytes);
        assert_eq!(Record::parse(bytes), Some(record));
        let head = bytes.len() - if record.value.is_some() { 1 } else { 0 };
        for length in 0..head {
            assert_eq!(Record::parse(&bytes[..length]), None, "{length}");
        }
    }
    assert_eq!(Record::parse(b"\0"), None, "nothing in it");
    assert_eq!(Record::parse(b"\x04"), None, "an unknown flag");
    let long = b"\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xffz";
    assert_eq!(Record::parse(long), None, "a length beyond the end");
}

/// Data with clocks under these first keys.
fn data(clocks: &[(&str, u64)]) -> MemoryData {
    let data = MemoryData::new();
    let mut batch = AppBatch::new();
    for (start, now_ms) in clocks {
        let (now_ms, end) = (*now_ms, &b""[..]);
        let clock = Some(Clock { now_ms, end });
        let record = Record { clock, value: None };
        batch.put(Keyspace::Ttl, start, record.encode());
    }
    data.write(&batch, Durability::Buffered).unwrap();
    data
}

/// Under which key which clock is put, and up to where.
fn carried(clocks: &[(&str, u64)], old: (&str, &str), new: (&str, &str)) -> String {
    let (old, new) = (KeyRange::new(old.0, old.1), KeyRange::new(new.0, new.1));
    let Some((key, bytes)) = carry_clock(&data(clocks), &old, &new).unwrap() else {
        return "nothing".into();
    };
    let clock = Record::parse(&bytes).unwrap().clock.unwrap();
    let (key, end) = (key.escape_ascii(), clock.end.escape_ascii());
    format!("{} for {key}..{end}", clock.now_ms)
}

#[test]
fn a_split_gives_the_clock_to_the_right_half() {
    assert_eq!(carried(&[("", 5)], ("", ""), ("", "m")), "5 for m..");
    assert_eq!(carried(&[("b", 5)], ("b", "z"), ("b", "m")), "5 for m..z");
    assert_eq!(carried(&[], ("", ""), ("", "m")), "nothing");
    // What an earlier region has left there is not the clock of the new one.
    assert_eq!(
        carried(&[("", 5), ("m", 3)], ("", ""), ("", "m")),
        "5 for m.."
    );
}

#[test]
fn a_merge_keeps_the_later_clock() {
    let clocks = [("b", 5), ("m", 7)];
    assert_eq!(carried(&clocks, ("b", "m"), ("b", "z")), "7 for b..z");
    assert_eq!(carried(&clocks, ("m", "z"), ("b", "z")), "7 for b..z");
    let clocks = [("b", 9), ("m", 7)];
    assert_eq!(carried(&clocks, ("b", "m"), ("b", "")), "nothing");
    assert_eq!(carried(&clocks, ("m", ""), ("b", "")), "nothing");
    assert_eq!(carried(&[("m", 7)], ("", "m"), ("", "")), "7 for ..");
}

#[test]
fn a_change_that_moves_no_bound_moves_no_clock() {
    assert_eq!(carried(&[("b", 5)], ("b", "m"), ("b", "m")), "nothing");
}

/// Data with a clock, and keys that expire at these times.
fn expiring(clock: u64, times: impl IntoIterator<Item = u64>) -> MemoryData {
    let data = data(&[("a", clock)]);
    let mut batch = AppBatch::new();
    for (number, expires_at_ms) in (0..).zip(times) {
        let value = Some(Expiring {
            expires_at_ms,
            value: b"v",
        });
        let record = Record { clock: None, value };
        batch.put(Keyspace::Ttl, format!("b{number:05}"), record.encode());
    }
    data.write(&batch, Durability::Buffered).unwrap();
    data
}

#[test]
fn something_has_expired_if_a_value_has_that_the_clock_has_not_passed() {
    let range = KeyRange::new("a", "z");
    let found = |data: &MemoryData, now_ms| has_expired(data, &range, now_ms).unwrap();
    let data = expiring(5, [3, 5, 7, 9]);
    for (now_ms, expected) in [(0, false), (5, false), (6, false), (7, true), (8, true)] {
        assert_eq!(found(&data, now_ms), expected, "at {now_ms}");
    }
    assert!(!has_expired(&data, &KeyRange::new("a", "b"), 9).unwrap());
    assert!(!found(&expiring(9, [3, 9]), 100), "all of it is gone");
    // Of many that live on only some are looked at.
    assert!(!found(&expiring(0, [9; 1_000]), 8));
    assert!(found(&expiring(0, [9; 1_001]), 8));
}
