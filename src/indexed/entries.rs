//! How the entries of an index lie in its store. Uses: app_store, types, error. Never does I/O.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::{Extractor, Terms};
use crate::app_store::{AppBatch, DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::types::KeyRange;

/// What all keys of the indexes begin with, and no other key of the keyspace.
pub(super) const PREFIX: &[u8] = b"\xfeindex/";
const CATALOGUE: u8 = 0;
const ENTRY: u8 = 1;
const TERM_END: [u8; 2] = [0, 0];

/// An index.
#[derive(Clone)]
pub(super) struct Index {
    pub id: u32,
    /// Whether it has an entry for everything.
    pub is_ready: bool,
    pub extractor: Extractor,
}

impl Index {
    /// What the keys of all its entries begin with.
    fn head(&self) -> Vec<u8> {
        [PREFIX, &[ENTRY], &self.id.to_be_bytes()].concat()
    }

    /// All its entries.
    pub fn all(&self) -> KeyRange {
        KeyRange::prefix(self.head())
    }

    /// The entries of `terms`.
    pub fn range_of(&self, terms: &Terms) -> KeyRange {
        let at = |term: &[u8]| {
            let mut key = self.head();
            escape(term, &mut key);
            key
        };
        match terms {
            Terms::Exact(term) => KeyRange::prefix([&at(term)[..], &TERM_END].concat()),
            Terms::Prefix(prefix) => KeyRange::prefix(at(prefix)),
            Terms::Range(range) if range.is_empty() => KeyRange::new([1], [0]),
            Terms::Range(range) => {
                let end = match range.end.as_slice() {
                    [] => self.all().end,
                    end => at(end),
                };
                KeyRange::new(at(&range.start), end)
            }
        }
    }

    /// The key that an entry is of.
    pub fn key_of<'e>(&self, entry: &'e [u8]) -> Option<&'e [u8]> {
        let mut rest = entry.get(PREFIX.len() + 1 + size_of::<u32>()..)?;
        loop {
            rest = match rest {
                [0, 0, key @ ..] => return Some(key),
                [0, _, behind @ ..] | [_, behind @ ..] => behind,
                [] => return None,
            };
        }
    }

    fn entry(&self, term: &[u8], key: &[u8]) -> Vec<u8> {
        let mut entry = self.head();
        escape(term, &mut entry);
        entry.extend_from_slice(&TERM_END);
        entry.extend_from_slice(key);
        entry
    }
}

/// Writes `term` so that escaped terms have the order of the terms and none is the beginning of another
/// with its end behind it.
fn escape(term: &[u8], into: &mut Vec<u8>) {
    for byte in term {
        into.push(*byte);
        if *byte == 0 {
            into.push(u8::MAX);
        }
    }
}

/// Takes changes of entries.
pub(super) struct Entries<'b>(pub &'b mut AppBatch);

impl Entries<'_> {
    /// `key` had the value `old` and gets `new`.
    pub fn change(&mut self, index: &Index, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let terms = |value: Option<&[u8]>| -> BTreeSet<Vec<u8>> {
            let terms = value.map(|value| (index.extractor)(key, value));
            terms.into_iter().flatten().collect()
        };
        let (old, new) = (terms(old), terms(new));
        for term in old.difference(&new) {
            self.0.delete(Keyspace::Store, index.entry(term, key));
        }
        for term in new.difference(&old) {
            self.0.put(Keyspace::Store, index.entry(term, key), []);
        }
    }
}

pub(super) fn catalogue_key(name: &str) -> Vec<u8> {
    [PREFIX, &[CATALOGUE], name.as_bytes()].concat()
}

pub(super) fn put_catalogue(batch: &mut AppBatch, name: &str, id: u32, is_ready: bool) {
    let value = [&id.to_be_bytes()[..], &[u8::from(is_ready)]].concat();
    batch.put(Keyspace::Store, catalogue_key(name), value);
}

/// The indexes of a store: names, ids, and whether they are ready.
///
/// # Errors
/// `Corruption`; those of the store.
pub(super) fn catalogue(data: &dyn DataRead) -> Result<Vec<(String, u32, bool)>> {
    let mut found = Vec::new();
    let head = catalogue_key("");
    let all = KeyRange::prefix(head.clone());
    data.scan(Keyspace::Store, &all, &mut |key, value| {
        let name = std::str::from_utf8(&key[head.len()..]).ok();
        match (name, value) {
            (Some(name), &[a, b, c, d, state @ (0 | 1)]) => {
                let id = u32::from_be_bytes([a, b, c, d]);
                found.push((name.to_string(), id, state == 1));
                Ok(ControlFlow::Continue(()))
            }
            _ => {
                let what = format!("catalogue of indexes at \"{}\"", key.escape_ascii());
                let detail = format!("{value:02x?} is not an id and a state");
                Err(Error::corruption(None, what, detail))
            }
        }
    })?;
    Ok(found)
}
