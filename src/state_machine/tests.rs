//! A batch reads as the data will, whatever was put, deleted and rolled back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::{ApplyBatch, ApplyMark};
use crate::app_store::{AppBatch, AppOp, ApplicationDataStorage as _, DataRead, Keyspace};
use crate::error::Error;
use crate::memory::MemoryData;
use crate::types::{Durability, KeyRange};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn data_of(model: &Model) -> MemoryData {
    let data = MemoryData::new();
    let mut batch = AppBatch::new();
    for (key, value) in model {
        batch.put(Keyspace::Data, key, value);
    }
    data.write(&batch, Durability::Buffered).unwrap();
    data
}

fn content(data: &dyn DataRead) -> Model {
    let mut found = Model::new();
    let all = KeyRange::all();
    data.scan(Keyspace::Data, &all, &mut |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    found
}

/// Up to `limit` keys and values of `range`, as a scan of the batch gives them.
fn scanned(batch: &ApplyBatch<'_>, range: &KeyRange, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    if limit == 0 {
        return found;
    }
    let mut visit = |key: &[u8], value: &[u8]| {
        assert!(found.len() < limit, "a visit that broke is called again");
        found.push((key.to_vec(), value.to_vec()));
        Ok(match found.len() == limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    batch.scan(range, &mut visit).unwrap();
    found
}

#[test]
fn a_read_sees_what_the_batch_did_before_in_its_order() {
    let data = data_of(&Model::from([
        (b"a".to_vec(), b"1".to_vec()),
        (b"b".to_vec(), b"2".to_vec()),
        (b"c".to_vec(), b"3".to_vec()),
    ]));
    let range = KeyRange::all();
    let mut batch = ApplyBatch::new(&data, &range);
    let get = |batch: &ApplyBatch<'_>, key: &str| {
        let value = batch.get(key.as_bytes()).unwrap();
        value.map(|v| String::from_utf8(v).unwrap())
    };
    batch.put("a", "4");
    assert_eq!(get(&batch, "a").as_deref(), Some("4"));
    batch.put("a", "5");
    batch.delete("b");
    assert_eq!(get(&batch, "a").as_deref(), Some("5"));
    assert_eq!(get(&batch, "b"), None);
    batch.delete_range(&KeyRange::new("a", "c"));
    batch.put("b", "6");
    assert_eq!(get(&batch, "a"), None);
    assert_eq!(get(&batch, "aa"), None);
    assert_eq!(get(&batch, "b").as_deref(), Some("6"));
    assert_eq!(get(&batch, "c").as_deref(), Some("3"));
    batch.delete_range(&KeyRange::new("b", ""));
    assert_eq!((get(&batch, "b"), get(&batch, "c")), (None, None));
}

#[test]
fn a_key_of_another_region_has_no_value_and_is_not_scanned() {
    let model: Model = [b"a", b"b", b"c", b"d"]
        .map(|key| (key.to_vec(), b"v".to_vec()))
        .into();
    let data = data_of(&model);
    let range = KeyRange::new("b", "d");
    let batch = ApplyBatch::new(&data, &range);
    assert_eq!(batch.range(), &range);
    let values = [b"a", b"b", b"c", b"d"].map(|key| batch.get(key).unwrap().is_some());
    assert_eq!(values, [false, true, true, false]);
    assert_eq!(
        values,
        [b"a", b"b", b"c", b"d"].map(|key| batch.contains(key))
    );
    for asked in [KeyRange::all(), KeyRange::new("a", "e"), range.clone()] {
        let keys: Vec<_> = scanned(&batch, &asked, 9)
            .into_iter()
            .map(|(k, _)| k)
            .collect();
        assert_eq!(keys, [b"b", b"c"], "{asked}");
    }
    assert_eq!(scanned(&batch, &KeyRange::new("d", ""), 9), []);
    let inside = [("b", "d"), ("c", "cc"), ("x", "a")];
    let outside = [("a", "c"), ("b", "e"), ("b", ""), ("d", "e"), ("", "")];
    let whole = |(start, end): (&str, &str)| batch.contains_range(&KeyRange::new(start, end));
    assert_eq!(inside.map(whole), [true; 3]);
    assert_eq!(outside.map(whole), [false; 5]);
}

#[test]
fn a_batch_that_writes_outside_the_region_is_refused() {
    let data = MemoryData::new();
    let range = KeyRange::new("b", "d");
    let refused = |write: &dyn Fn(&mut ApplyBatch<'_>)| {
        let mut batch = ApplyBatch::new(&data, &range);
        batch.put("b", "1");
        batch.delete("cz");
        batch.delete_range(&KeyRange::new("b", "d"));
        batch.delete_range(&KeyRange::new("x", "a"));
        write(&mut batch);
        match batch.into_checked(7.into()) {
            Ok(writes) => Ok(writes.len()),
            Err(Error::KeyOutOfRange { region, key, .. }) => Err((region.0, key)),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(refused(&|_| ()), Ok(3));
    assert_eq!(refused(&|b| b.put("d", "")), Err((7, b"d".to_vec())));
    assert_eq!(refused(&|b| b.delete("a")), Err((7, b"a".to_vec())));
    for (start, end) in [("a", "c"), ("b", "e"), ("b", ""), ("e", "f")] {
        let range = KeyRange::new(start, end);
        assert_eq!(refused(&|b| b.delete_range(&range)), Err((7, start.into())));
    }
}

#[test]
fn without_a_read_there_is_no_index() {
    let (data, range) = (MemoryData::new(), KeyRange::all());
    let mut batch = ApplyBatch::new(&data, &range);
    let mark = batch.mark();
    batch.put("a", "1");
    batch.delete_range(&KeyRange::new("a", "b"));
    batch.rollback(mark);
    assert_eq!((batch.writes().len(), batch.writes().bytes()), (0, 0));
    batch.put("b", "1");
    assert!(batch.overlays[0].get().is_none());
    assert!(batch.get(b"b").unwrap().is_some());
    assert!(batch.overlays[0].get().is_some());
}

#[test]
fn a_rollback_takes_the_configurations_too() {
    let (data, range) = (MemoryData::new(), KeyRange::all());
    let mut batch = ApplyBatch::new(&data, &range);
    batch.set_conf_state((vec![1], vec![]).into());
    let mark = batch.mark();
    batch.set_conf_state((vec![1, 2], vec![]).into());
    batch.rollback(mark);
    assert_eq!(batch.take_conf_states(), [(vec![1], vec![]).into()]);
}

#[test]
fn appended_batches_are_their_operations_one_behind_the_other() {
    let mut one = AppBatch::new();
    one.put(Keyspace::Data, "a", "1");
    one.delete(Keyspace::Ttl, "b");
    let mut two = AppBatch::new();
    two.delete_range(Keyspace::Index, &KeyRange::new("c", "d"));
    two.put(Keyspace::Data, "", "");
    two.put(Keyspace::Data, "e", "22");
    let mut all = AppBatch::new();
    for batch in [&one, &two, &AppBatch::new(), &one] {
        all.append(batch);
    }
    let expected: Vec<AppOp<'_>> = one.ops().chain(two.ops()).chain(one.ops()).collect();
    assert_eq!(all.ops().collect::<Vec<_>>(), expected);
    assert_eq!(all.bytes(), 2 * one.bytes() + two.bytes());
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, u8),
    Delete(Vec<u8>),
    DeleteRange(KeyRange),
    Get(Vec<u8>),
    Scan(KeyRange, usize),
    Mark,
    Rollback(prop::sample::Index),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'd', 0..3)
}

fn range() -> impl Strategy<Value = KeyRange> {
    (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key().prop_map(Step::Delete),
        3 => range().prop_map(Step::DeleteRange),
        1 => key().prop_map(Step::Get),
        1 => (range(), 0..5_usize).prop_map(|(range, limit)| Step::Scan(range, limit)),
        1 => Just(Step::Mark),
        1 => any::<prop::sample::Index>().prop_map(Step::Rollback),
    ]
}

/// Does `step` to the batch and the model alike, and compares what they answer.
fn take(
    step: Step,
    batch: &mut ApplyBatch<'_>,
    model: &mut Model,
    marks: &mut Vec<(ApplyMark, Model)>,
) {
    let region = batch.range().clone();
    match step {
        Step::Put(key, value) if region.contains(&key) => {
            batch.put(&key, [value]);
            model.insert(key, vec![value]);
        }
        Step::Delete(key) if region.contains(&key) => {
            batch.delete(&key);
            model.remove(&key);
        }
        Step::DeleteRange(range) if batch.contains_range(&range) => {
            batch.delete_range(&range);
            model.retain(|key, _| !range.contains(key));
        }
        Step::Get(key) => {
            let expected = model.get(&key).filter(|_| region.contains(&key));
            assert_eq!(batch.get(&key).unwrap().as_ref(), expected);
        }
        Step::Scan(range, limit) => {
            let inside = |key: &Vec<u8>| range.contains(key) && region.contains(key);
            let expected = model.clone().into_iter().filter(|(key, _)| inside(key));
            let expected: Vec<_> = expected.take(limit).collect();
            assert_eq!(scanned(batch, &range, limit), expected);
        }
        Step::Mark => marks.push((batch.mark(), model.clone())),
        Step::Rollback(index) if !marks.is_empty() => {
            marks.truncate(index.index(marks.len()) + 1);
            let (mark, at) = marks.last().unwrap().clone();
            batch.rollback(mark);
            *model = at;
        }
        _ => (),
    }
}

proptest! {
    #[test]
    fn a_batch_reads_as_the_data_will_once_it_is_written(
        base in prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 1), 0..12),
        region in prop_oneof![Just(KeyRange::all()), range()],
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let data = data_of(&base);
        let mut model = base;
        let mut batch = ApplyBatch::new(&data, &region);
        let mut marks = Vec::new();
        for step in steps {
            take(step, &mut batch, &mut model, &mut marks);
        }
        take(Step::Scan(KeyRange::all(), usize::MAX), &mut batch, &mut model, &mut marks);
        for key in model.keys().filter(|key| region.contains(key)) {
            prop_assert_eq!(&batch.get(key).unwrap(), &model.get(key).cloned());
        }
        let writes = batch.into_checked(1.into()).unwrap();
        data.write(&writes, Durability::Buffered).unwrap();
        prop_assert_eq!(content(&data), model);
    }
}
