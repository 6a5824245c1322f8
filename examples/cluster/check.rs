//! Whether every store holds every byte, and nothing else.

use std::ops::ControlFlow;

use peerstore::{AppBatch, Durability, KeyRange, Keyspace};

use super::Outcome;
use super::input::{Input, Item};
use super::net::Cluster;

/// So many differences of a store are told; the rest are counted.
const SHOWN_MAX: usize = 5;

/// Compares the data of every store with the files.
pub fn compare(cluster: &Cluster, input: &Input) -> Outcome<()> {
    let mut differences = Vec::new();
    for (id, store) in &cluster.stores {
        let mut check = Check {
            input,
            expected: input.items.iter(),
            differences: Vec::new(),
        };
        store
            .node
            .app()
            .scan(Keyspace::Data, &KeyRange::all(), &mut |key, value| {
                check.visit(key, value);
                Ok(ControlFlow::Continue(()))
            })?;
        check.finish();
        let found = check.differences;
        let more = found.len().saturating_sub(SHOWN_MAX);
        differences.extend(
            found
                .into_iter()
                .take(SHOWN_MAX)
                .map(|d| format!("\n  store {id}: {d}")),
        );
        if more > 0 {
            differences.push(format!("\n  store {id}: {more} more"));
        }
    }
    if differences.is_empty() {
        let stores = cluster.stores.len();
        println!(
            "every byte on each of the {stores} stores is as in the files, and nothing else is there"
        );
        return Ok(());
    }
    Err(format!("the stores differ from the files:{}", differences.concat()).into())
}

struct Check<'a> {
    input: &'a Input,
    // What has not been seen yet, ascending as the scan is.
    expected: std::slice::Iter<'a, Item>,
    differences: Vec<String>,
}

impl Check<'_> {
    fn visit(&mut self, key: &[u8], value: &[u8]) {
        while let Some(item) = self.expected.as_slice().first() {
            if item.key.as_slice() > key {
                break;
            }
            self.expected.next();
            if item.key == key {
                return self.compare(item, value);
            }
            self.report(&item.key, "is missing".into());
        }
        self.report(key, "is there, but in no file".into());
    }

    fn compare(&mut self, item: &Item, got: &[u8]) {
        let expected = match self.input.read(item) {
            Ok(expected) => expected,
            Err(error) => return self.report(&item.key, error.to_string()),
        };
        if got.len() != expected.len() {
            let (got, expected) = (got.len(), expected.len());
            self.report(&item.key, format!("has {got} bytes, expected {expected}"));
        } else if let Some(at) = (0..got.len()).find(|at| got[*at] != expected[*at]) {
            let (got, expected) = (got[at], expected[at]);
            self.report(
                &item.key,
                format!("byte {at} is {got:#04x}, expected {expected:#04x}"),
            );
        }
    }

    fn finish(&mut self) {
        for item in self.expected.clone() {
            self.report(&item.key, "is missing".into());
        }
    }

    fn report(&mut self, key: &[u8], what: String) {
        self.differences
            .push(format!("\"{}\" {what}", key.escape_ascii()));
    }
}

/// Changes a byte of a large value, removes a key and adds one, all on the last store, to see that
/// [`compare`] finds them.
pub fn damage(cluster: &Cluster, input: &Input) -> Outcome<()> {
    let store = cluster.stores.values().last().ok_or("no store is up")?;
    let (app, items) = (store.node.app(), input.items.iter());
    let largest = items.max_by_key(|item| item.bytes).ok_or("no item")?;
    let mut value = app.get(Keyspace::Data, &largest.key)?.unwrap_or_default();
    match value.last_mut() {
        Some(byte) => *byte ^= 1,
        None => value.push(0),
    }
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, &largest.key, &value);
    batch.put(Keyspace::Data, "\u{10ffff} in no file", "");
    batch.delete(Keyspace::Data, &input.items[0].key);
    app.write(&batch, Durability::Buffered)?;
    println!(
        "store {} was damaged: a byte, a key less, a key more",
        store.id
    );
    Ok(())
}
