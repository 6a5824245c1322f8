//! What a batch says about each key, so that it can be read before it is written. Uses: app_store,
//! types, error. Never does I/O of its own.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::app_store::{AppBatch, AppOp, DataRead, Keyspace, Visit};
use crate::error::Result;
use crate::types::KeyRange;

type Key = Box<[u8]>;

/// The last word of an [`AppBatch`] on each key that it names in one keyspace.
#[derive(Debug)]
pub(super) struct Overlay {
    keyspace: Keyspace,
    // Where in the batch the key was put or deleted last, if no range that was deleted later has it.
    written: BTreeMap<Key, usize>,
    // The ranges that were deleted, from start to end; an empty end means no bound.
    // Invariant: no two of them overlap or touch.
    deleted: BTreeMap<Key, Key>,
    // One for each operation of the batch, in order: how to take it back.
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    /// The operation is of another keyspace.
    Nothing,
    /// A key was written: where it had been written before, if anywhere.
    Write(Option<usize>),
    /// A range was deleted.
    Delete {
        /// Where the deleted range starts that it became a part of.
        start: Key,
        /// The deleted ranges that became parts of it.
        merged: Vec<(Key, Key)>,
        /// The written keys that it took.
        taken: Vec<(Key, usize)>,
    },
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was put or deleted at this place of the batch.
    Written(usize),
    /// It lies in a range that was deleted.
    Deleted,
    /// The batch says nothing of it.
    Untouched,
}

impl Overlay {
    /// Of an empty batch.
    pub fn new(keyspace: Keyspace) -> Self {
        Overlay {
            keyspace,
            written: BTreeMap::new(),
            deleted: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    /// Takes in what was added to `batch` since the last call.
    pub fn catch_up(&mut self, batch: &AppBatch) {
        for place in self.undo.len()..batch.len() {
            let undo = match batch.op(place) {
                op if op.keyspace() != self.keyspace => Undo::Nothing,
                AppOp::Put { key, .. } | AppOp::Delete { key, .. } => self.write(key, place),
                AppOp::DeleteRange { start, end, .. } => self.delete_range(start, end),
            };
            self.undo.push(undo);
        }
    }

    fn write(&mut self, key: &[u8], place: usize) -> Undo {
        Undo::Write(match self.written.get_mut(key) {
            Some(last) => Some(std::mem::replace(last, place)),
            None => self.written.insert(key.into(), place),
        })
    }

    fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Undo {
        let keys: Vec<Key> = (self.written.range::<[u8], _>(bounds(start, end)))
            .map(|(key, _)| key.clone())
            .collect();
        let taken = keys.iter().filter_map(|key| self.written.remove_entry(key));
        let taken = taken.collect();
        let before = self
            .deleted_before(start)
            .filter(|(_, end)| end.is_empty() || end.as_ref() >= start);
        let last = match end {
            [] => Bound::Unbounded,
            end => Bound::Included(end),
        };
        let inside = (self.deleted).range::<[u8], _>((Bound::Excluded(start), last));
        let starts: Vec<Key> = before
            .into_iter()
            .chain(inside)
            .map(|(s, _)| s.clone())
            .collect();
        let merged: Vec<_> = (starts.iter())
            .filter_map(|start| self.deleted.remove_entry(start))
            .collect();
        // The first to start is the one before, if there is one, and the last to end is the last.
        let mut union = (Key::from(start), Key::from(end));
        if let (Some((first, _)), Some((_, last))) = (merged.first(), merged.last()) {
            union.0 = first.clone().min(union.0);
            if !union.1.is_empty() && (last.is_empty() || *last > union.1) {
                union.1 = last.clone();
            }
        }
        self.deleted.insert(union.0.clone(), union.1);
        Undo::Delete {
            start: union.0,
            merged,
            taken,
        }
    }

    /// Takes back the operations of `batch`, which it still has, from the place `operations` on.
    pub fn rollback(&mut self, batch: &AppBatch, operations: usize) {
        for place in (operations..self.undo.len()).rev() {
            let undo = self.undo.pop().expect("there is one for each operation");
            match (undo, batch.op(place)) {
                (Undo::Write(last), AppOp::Put { key, .. } | AppOp::Delete { key, .. }) => {
                    match last {
                        Some(last) => self.written.insert(key.into(), last),
                        None => self.written.remove(key),
                    };
                }
                (Undo::Nothing, _) => {}
                (undo, op) => {
                    let Undo::Delete {
                        start,
                        merged,
                        taken,
                    } = undo
                    else {
                        unreachable!("{op:?} is not taken back so: {undo:?}");
                    };
                    self.deleted.remove(&start);
                    self.deleted.extend(merged);
                    self.written.extend(taken);
                }
            }
        }
    }

    /// What the batch says of `key`.
    pub fn find(&self, key: &[u8]) -> Found {
        match self.written.get(key) {
            Some(place) => Found::Written(*place),
            None if self.is_deleted(key) => Found::Deleted,
            None => Found::Untouched,
        }
    }

    fn is_deleted(&self, key: &[u8]) -> bool {
        let before = self.deleted_before(key);
        before.is_some_and(|(_, end)| end.is_empty() || key < end.as_ref())
    }

    /// The last deleted range that starts at `key` or before it.
    fn deleted_before(&self, key: &[u8]) -> Option<(&Key, &Key)> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        self.deleted.range::<[u8], _>(bounds).next_back()
    }

    /// Visits the keys of `range`, which is not empty: those of `data` and those written, whose values
    /// are `value_at` their places.
    pub fn scan<'b>(
        &self,
        data: &dyn DataRead,
        range: &KeyRange,
        value_at: &dyn Fn(usize) -> Option<&'b [u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let bounds = bounds(&range.start, &range.end);
        let mut written = self.written.range::<[u8], _>(bounds).peekable();
        let mut broken = false;
        data.scan(self.keyspace, range, &mut |key, value| {
            while let Some((own, place)) = written.next_if(|(own, _)| own.as_ref() < key) {
                if let Some(value) = value_at(*place)
                    && visit(own, value)?.is_break()
                {
                    broken = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let value = match written.next_if(|(own, _)| own.as_ref() == key) {
                Some((_, place)) => value_at(*place),
                None => (!self.is_deleted(key)).then_some(value),
            };
            let flow = match value {
                Some(value) => visit(key, value)?,
                None => ControlFlow::Continue(()),
            };
            broken = flow.is_break();
            Ok(flow)
        })?;
        if broken {
            return Ok(());
        }
        for (own, place) in written {
            if let Some(value) = value_at(*place)
                && visit(own, value)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// The half-open range from `start` to `end`, where an empty `end` means no bound.
fn bounds<'k>(start: &'k [u8], end: &'k [u8]) -> (Bound<&'k [u8]>, Bound<&'k [u8]>) {
    let end = match end {
        [] => Bound::Unbounded,
        end => Bound::Excluded(end),
    };
    (Bound::Included(start), end)
}
