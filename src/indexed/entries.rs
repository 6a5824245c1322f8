//! How the entries of an index lie in its store. Uses: app_store, types, error. Never does I/O.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Extractor;
use crate::app_store::{AppBatch, DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::index::Terms;
use crate::types::KeyRange;

/// What all keys of the indexes begin with, and no other key of the keyspace.
pub(super) const PREFIX: &[u8] = b"\xfeindex/";
const CATALOGUE: u8 = 0;
const ENTRY: u8 = 1;
const TERM_END: [u8; 2] = [0, 0];

/// An index.
#[derive(Clone)]
pub(super) struct Index {
    pub id: IndexId,
    pub state: State,
    pub extractor: Extractor,
}

/// What the catalogue says of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Whether it has an entry for everything.
    pub is_ready: bool,
    /// Whether it is there because regions have it, and goes with the last one.
    pub of_regions: bool,
}

impl State {
    const READY: u8 = 1;
    const OF_REGIONS: u8 = 2;

    fn encode(self) -> u8 {
        u8::from(self.is_ready) * Self::READY + u8::from(self.of_regions) * Self::OF_REGIONS
    }

    fn decode(byte: u8) -> Option<Self> {
        (byte <= Self::READY | Self::OF_REGIONS).then_some(State {
            is_ready: byte & Self::READY != 0,
            of_regions: byte & Self::OF_REGIONS != 0,
        })
    }
}

/// Tells the entries of the indexes of a store apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexId(pub u32);

impl IndexId {
    /// What the keys of all its entries begin with.
    fn head(self) -> Vec<u8> {
        [PREFIX, &[ENTRY], &self.0.to_be_bytes()].concat()
    }

    /// All its entries.
    pub fn all(self) -> KeyRange {
        KeyRange::prefix(self.head())
    }

    /// The entries of `terms`.
    pub fn range_of(self, terms: &Terms) -> KeyRange {
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
    pub fn key_of(self, entry: &[u8]) -> Option<&[u8]> {
        let mut rest = entry.get(PREFIX.len() + 1 + size_of::<u32>()..)?;
        loop {
            rest = match rest {
                [0, 0, key @ ..] => return Some(key),
                [0, _, behind @ ..] | [_, behind @ ..] => behind,
                [] => return None,
            };
        }
    }

    fn entry(self, term: &[u8], key: &[u8]) -> Vec<u8> {
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
            self.0.delete(Keyspace::Store, index.id.entry(term, key));
        }
        for term in new.difference(&old) {
            self.0.put(Keyspace::Store, index.id.entry(term, key), []);
        }
    }
}

pub(super) fn catalogue_key(name: &str) -> Vec<u8> {
    [PREFIX, &[CATALOGUE], name.as_bytes()].concat()
}

pub(super) fn put_catalogue(batch: &mut AppBatch, name: &str, index: &Index) {
    let value = [&index.id.0.to_be_bytes()[..], &[index.state.encode()]].concat();
    batch.put(Keyspace::Store, catalogue_key(name), value);
}

/// What the catalogue of `data` says of the index.
///
/// # Errors
/// `Corruption`; those of the store.
pub(super) fn find(data: &dyn DataRead, name: &str) -> Result<Option<(IndexId, State)>> {
    let key = catalogue_key(name);
    match data.get(Keyspace::Store, &key)? {
        Some(value) => read(&key, &value).map(Some),
        None => Ok(None),
    }
}

fn read(key: &[u8], value: &[u8]) -> Result<(IndexId, State)> {
    let understood = match value {
        &[a, b, c, d, state] => {
            let id = IndexId(u32::from_be_bytes([a, b, c, d]));
            State::decode(state).map(|state| (id, state))
        }
        _ => None,
    };
    understood.ok_or_else(|| {
        let what = format!("catalogue of indexes at \"{}\"", key.escape_ascii());
        let detail = format!("{value:02x?} is not an id and a state");
        Error::corruption(None, what, detail)
    })
}

/// The indexes of a store.
///
/// # Errors
/// `Corruption`; those of the store.
pub(super) fn catalogue(data: &dyn DataRead) -> Result<Vec<(String, IndexId, State)>> {
    let mut found = Vec::new();
    let head = catalogue_key("");
    let all = KeyRange::prefix(head.clone());
    data.scan(Keyspace::Store, &all, &mut |key, value| {
        let (id, state) = read(key, value)?;
        let name = String::from_utf8_lossy(&key[head.len()..]).into_owned();
        found.push((name, id, state));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
