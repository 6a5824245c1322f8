//! Random transactions, several at a time, against a model that does one after the other. Uses: the
//! seam. Never knows a backend.

use std::collections::{BTreeMap, BTreeSet};

use super::{TransactionHarness, begin};
use crate::{Error, KeyRange, Scan, TransactionalStorage, WriteTransaction};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// How many keys they are after: few, so that they are in each other's way.
const KEYS: u64 = 5;
const OPEN_MAX: u64 = 4;
const STEPS: usize = 200;

pub(super) fn random_transactions_are_as_in_the_model(h: &mut TransactionHarness) {
    let (mut commits, mut conflicts) = (0, 0);
    for seed in 1..=30 {
        let mut run = Run::new(h.store(), seed);
        for _ in 0..STEPS {
            run.step();
        }
        run.open.clear();
        run.check_committed();
        commits += run.written.len();
        conflicts += run.conflicts;
    }
    let both = commits >= 200 && conflicts >= 100;
    assert!(both, "{commits} commits and {conflicts} conflicts");
}

/// A transaction, and what it must be like.
struct Open<'s> {
    real: WriteTransaction<'s>,
    /// How many commits it sees.
    begun: usize,
    /// What it sees, with its own writes.
    view: Map,
    /// What nobody else may have written.
    claimed: BTreeSet<Vec<u8>>,
    /// What it writes.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Open<'_> {
    fn write(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        self.claimed.insert(key.to_vec());
        match &value {
            Some(value) => drop(self.view.insert(key.to_vec(), value.clone())),
            None => drop(self.view.remove(key)),
        }
        self.writes.insert(key.to_vec(), value);
    }

    fn increment(&mut self, key: &[u8], by: i64) {
        let present = self
            .view
            .get(key)
            .map_or("0".into(), |v| String::from_utf8_lossy(v));
        let number = present.parse::<i64>().ok();
        self.claimed.insert(key.to_vec());
        let got = self.real.increment(key, by);
        match number {
            Some(number) => {
                assert_eq!(got.expect("increment"), number + by);
                self.write(key, Some((number + by).to_string().into_bytes()));
            }
            None => assert!(matches!(got, Err(Error::NotANumber { .. })), "{got:?}"),
        }
    }
}

struct Run<'s> {
    store: &'s dyn TransactionalStorage,
    seed: u64,
    dice: u64,
    committed: Map,
    /// The keys that each commit has written.
    written: Vec<BTreeSet<Vec<u8>>>,
    open: Vec<Open<'s>>,
    conflicts: usize,
}

impl<'s> Run<'s> {
    fn new(store: &'s dyn TransactionalStorage, seed: u64) -> Self {
        Run {
            store,
            seed,
            dice: seed,
            committed: Map::new(),
            written: Vec::new(),
            open: Vec::new(),
            conflicts: 0,
        }
    }

    fn throw(&mut self, sides: u64) -> u64 {
        // Knuth's, whose upper bits are random enough.
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.dice >> 33) % sides
    }

    /// Keys of this run's own.
    fn key(&mut self) -> Vec<u8> {
        let number = self.throw(KEYS);
        format!("{:04}/{number}", self.seed).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.throw(6) {
            0 => b"no number".to_vec(),
            1 => Vec::new(),
            number => number.to_string().into_bytes(),
        }
    }

    fn step(&mut self) {
        let count = self.open.len() as u64;
        if count == 0 || count < OPEN_MAX && self.throw(6) == 0 {
            let transaction = Open {
                real: begin(self.store),
                begun: self.written.len(),
                view: self.committed.clone(),
                claimed: BTreeSet::new(),
                writes: BTreeMap::new(),
            };
            return self.open.push(transaction);
        }
        let at = self.throw(count) as usize;
        let (what, key, value) = (self.throw(16), self.key(), self.value());
        let expected = self.value();
        let range = KeyRange::prefix(format!("{:04}/", self.seed));
        let open = &mut self.open[at];
        match what {
            0..=3 => {
                open.real.put(&key, &value).expect("put");
                open.write(&key, Some(value));
            }
            4 => {
                open.real.delete(&key).expect("delete");
                open.write(&key, None);
            }
            5 | 6 => {
                let got = open.real.get(&key).expect("get");
                assert_eq!(got.as_ref(), open.view.get(&key));
            }
            7 => {
                let got = open.real.read_for_update(&key).expect("read_for_update");
                assert_eq!(got.as_ref(), open.view.get(&key));
                open.claimed.insert(key);
            }
            8 | 9 => {
                let mut page = open
                    .real
                    .scan(&Scan::of(range.clone()))
                    .expect("scan")
                    .pairs;
                assert_eq!(page, open.view.clone().into_iter().collect::<Vec<_>>());
                page.reverse();
                let back = open.real.scan(&Scan::of(range).reverse()).expect("scan");
                assert_eq!(back.pairs, page);
            }
            10 => {
                let present = open.view.get(&key).cloned();
                let expected = (!expected.is_empty()).then_some(expected);
                let swapped = open
                    .real
                    .compare_and_swap(&key, expected.as_deref(), Some(&value));
                assert_eq!(swapped.expect("compare_and_swap"), present == expected);
                open.claimed.insert(key.clone());
                if present == expected {
                    open.write(&key, Some(value));
                }
            }
            11 | 12 => open.increment(&key, 1),
            13 | 14 => self.commit(at),
            _ => self.open.remove(at).real.rollback(),
        }
    }

    fn commit(&mut self, at: usize) {
        let open = self.open.remove(at);
        let later = &self.written[open.begun..];
        let is_in_the_way = later.iter().any(|keys| !keys.is_disjoint(&open.claimed));
        // One that has written nothing has nothing to be in the way of.
        let is_refused = is_in_the_way && !open.writes.is_empty();
        let got = open.real.commit();
        if is_refused {
            self.conflicts += 1;
            assert!(matches!(got, Err(Error::TransactionConflict)), "{got:?}");
        } else if open.writes.is_empty() {
            let right = matches!(got, Ok(()) | Err(Error::TransactionConflict));
            assert!(right, "{got:?}");
        } else {
            got.expect("commit");
            self.written.push(open.writes.keys().cloned().collect());
            for (key, value) in open.writes {
                match value {
                    Some(value) => self.committed.insert(key, value),
                    None => self.committed.remove(&key),
                };
            }
        }
        self.check_committed();
    }

    /// Whoever begins now sees what was committed, and nothing else.
    fn check_committed(&self) {
        let read = self.store.begin_read_transaction().expect("begin");
        let range = KeyRange::prefix(format!("{:04}/", self.seed));
        let page = read.scan(&Scan::of(range)).expect("scan");
        let expected: Vec<_> = self.committed.clone().into_iter().collect();
        assert_eq!(page.pairs, expected);
    }
}
