//! What is asked of an index, and which indexes a region has. Uses: app_store, scan, types, error.
//! Never does I/O of its own.
//!
//! The indexes of a region are a part of what raft replicates: a record in [`Keyspace::Index`] under the
//! region's first key names them. It goes into both halves of a split, and a merged region has those of
//! both. The entries of the indexes are not replicated: each store makes its own (see `indexed`).
//!
//! ```text
//! record := "\xfePSindexes" version u8 (1), { length u32 LE, name }*, names ascending
//! ```

use std::collections::BTreeSet;

use crate::app_store::{AppBatch, DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::scan::{Cursor, Scan};
use crate::types::KeyRange;

const HEAD: &[u8] = b"\xfePSindexes\x01";

/// The names of the indexes of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Declared(pub BTreeSet<String>);

impl Declared {
    /// Those of the region that begins at `start`.
    ///
    /// # Errors
    /// `Corruption` if a record of indexes is damaged; those of the store.
    pub fn of(data: &(impl DataRead + ?Sized), start: &[u8]) -> Result<Self> {
        Declared::under(start, data.get(Keyspace::Index, start)?.as_deref())
    }

    /// Those that `bytes`, found under `key`, name. Bytes of somebody else name none.
    ///
    /// # Errors
    /// `Corruption` if they begin as a record and are none.
    pub fn under(key: &[u8], bytes: Option<&[u8]>) -> Result<Self> {
        let Some(mut rest) = bytes.and_then(|bytes| bytes.strip_prefix(HEAD)) else {
            return Ok(Declared::default());
        };
        let mut names = BTreeSet::new();
        while !rest.is_empty() {
            let Some((name, behind)) = name_of(rest) else {
                let what = format!("indexes of the region at \"{}\"", key.escape_ascii());
                let detail = format!("{} bytes that are not a name", rest.len());
                return Err(Error::corruption(None, what, detail));
            };
            names.insert(name.to_string());
            rest = behind;
        }
        Ok(Declared(names))
    }

    /// Puts them into `batch`, for the region that begins at `start`.
    pub fn put(&self, batch: &mut AppBatch, start: &[u8]) {
        if self.0.is_empty() {
            return batch.delete(Keyspace::Index, start);
        }
        let mut bytes = HEAD.to_vec();
        for name in &self.0 {
            let length = u32::try_from(name.len()).expect("a name of less than 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        batch.put(Keyspace::Index, start, bytes);
    }
}

fn name_of(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (name, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

/// Puts into `batch` what the indexes are when a region of the range `old` becomes one of `new`: by a
/// split, whose right half begins where `new` ends, or by a merge with the neighbour that `new` has more
/// than `old`, and which is applied as far.
///
/// # Errors
/// As [`Declared::of`].
pub(crate) fn carry_indexes(
    data: &dyn DataRead,
    old: &KeyRange,
    new: &KeyRange,
    batch: &mut AppBatch,
) -> Result<()> {
    let own = Declared::of(data, &old.start)?;
    if new == old {
        return Ok(());
    }
    let is_split =
        new.start == old.start && !new.end.is_empty() && (old.end.is_empty() || new.end < old.end);
    let neighbour = match (new.start < old.start, is_split) {
        (true, _) => &new.start,
        (false, true) => &new.end,
        (false, false) => &old.end,
    };
    let theirs = Declared::of(data, neighbour)?;
    if is_split {
        // What is left of an earlier region that began here is overwritten, too.
        if theirs != own {
            own.put(batch, neighbour);
        }
        return Ok(());
    }
    let both = Declared(own.0.union(&theirs.0).cloned().collect());
    if both.0.is_empty() {
        return Ok(());
    }
    let inner = (&old.start).max(neighbour);
    batch.delete(Keyspace::Index, inner);
    both.put(batch, &new.start);
    Ok(())
}

/// Which keys to look up in an index. The answer is in the order of the terms, then of the keys; a key
/// with several terms in question is there once for each.
#[derive(Clone, Debug)]
pub struct IndexQuery {
    terms: Terms,
    reverse: bool,
    limit: usize,
    after: Option<Cursor>,
}

/// See [`IndexQuery`].
#[derive(Clone, Debug)]
pub(crate) enum Terms {
    Exact(Vec<u8>),
    Range(KeyRange),
    Prefix(Vec<u8>),
}

impl IndexQuery {
    fn of(terms: Terms) -> Self {
        IndexQuery {
            terms,
            reverse: false,
            limit: 1_000,
            after: None,
        }
    }

    /// Keys with this term.
    pub fn exact(term: impl Into<Vec<u8>>) -> Self {
        IndexQuery::of(Terms::Exact(term.into()))
    }

    /// Keys with a term in the half-open range.
    pub fn range(terms: KeyRange) -> Self {
        IndexQuery::of(Terms::Range(terms))
    }

    /// Keys with a term that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        IndexQuery::of(Terms::Prefix(prefix.into()))
    }

    /// From the last term to the first.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most so many keys in a page; 1,000 if not said. At least 1.
    pub fn limit(mut self, keys: usize) -> Self {
        self.limit = keys;
        self
    }

    /// Goes on where the page that gave `cursor` ended.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// The terms that are looked up.
    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How many keys a page has at most.
    pub(crate) fn keys_max(&self) -> usize {
        self.limit.max(1)
    }

    /// The scan of `entries`, which are those of the terms.
    pub(crate) fn scan(&self, entries: KeyRange) -> Scan {
        let mut scan = Scan::of(entries).limit(self.limit);
        if self.reverse {
            scan = scan.reverse();
        }
        match &self.after {
            Some(cursor) => scan.after(cursor.clone()),
            None => scan,
        }
    }
}

#[cfg(test)]
mod tests;
