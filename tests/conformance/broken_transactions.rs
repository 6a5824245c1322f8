//! Transactions that are broken on purpose, to see the suite catch them.

use peerstore::conformance::{self, Harness};
use peerstore::memory::MemoryData;
use peerstore::{
    ApplicationDataStorage, DataRead, DataTransaction, Durability, KeyRange, Keyspace,
    ReadTransaction, Result, TransactionalStorage, Visit,
};

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    IgnoresConflicts,
    ForgetsReadsForUpdate,
    ReadsTheNewest,
    WritesAtOnce,
    SyncsNothing,
}

struct BrokenTransactions {
    data: MemoryData,
    flaw: Flaw,
}

struct Broken<'a> {
    store: &'a BrokenTransactions,
    inner: Box<dyn DataTransaction + 'a>,
    puts: Vec<(Keyspace, Vec<u8>, Option<Vec<u8>>)>,
}

impl BrokenTransactions {
    fn write(&self, keyspace: Keyspace, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut batch = peerstore::AppBatch::new();
        match value {
            Some(value) => batch.put(keyspace, key, value),
            None => batch.delete(keyspace, key),
        }
        self.data.write(&batch, Durability::Synced)
    }
}

impl TransactionalStorage for BrokenTransactions {
    fn begin_read_transaction(&self) -> Result<ReadTransaction> {
        self.data.begin_read_transaction()
    }

    fn begin(&self, durability: Durability) -> Result<Box<dyn DataTransaction + '_>> {
        let durability = match self.flaw {
            Flaw::SyncsNothing => Durability::Buffered,
            _ => durability,
        };
        Ok(Box::new(Broken {
            store: self,
            inner: self.data.begin(durability)?,
            puts: Vec::new(),
        }))
    }
}

impl Broken<'_> {
    fn add(&mut self, keyspace: Keyspace, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        if self.store.flaw == Flaw::WritesAtOnce {
            self.store.write(keyspace, key, value)?;
        }
        let put = (keyspace, key.to_vec(), value.map(<[u8]>::to_vec));
        self.puts.push(put);
        Ok(())
    }
}

impl DataRead for Broken<'_> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.store.flaw {
            Flaw::ReadsTheNewest => self.store.data.get(keyspace, key),
            _ => self.inner.get(keyspace, key),
        }
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan_back(keyspace, range, visit)
    }
}

impl DataTransaction for Broken<'_> {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.add(keyspace, key, Some(value))?;
        self.inner.put(keyspace, key, value)
    }

    fn delete(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<()> {
        self.add(keyspace, key, None)?;
        self.inner.delete(keyspace, key)
    }

    fn read_for_update(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.store.flaw {
            Flaw::ForgetsReadsForUpdate => self.inner.get(keyspace, key),
            _ => self.inner.read_for_update(keyspace, key),
        }
    }

    fn commit(self: Box<Self>) -> Result<()> {
        if self.store.flaw != Flaw::IgnoresConflicts {
            return self.inner.commit();
        }
        for (keyspace, key, value) in &self.puts {
            self.store.write(*keyspace, key, value.as_deref())?;
        }
        Ok(())
    }
}

struct Crashing(BrokenTransactions);

impl Harness<dyn TransactionalStorage> for Crashing {
    fn store(&self) -> &(dyn TransactionalStorage + 'static) {
        &self.0
    }
    fn crash(&mut self) -> Result<bool> {
        self.0.data = self.0.data.crash_copy(0);
        Ok(true)
    }
}

/// That `expected` are among the cases that fail. Those of threads are left out: with some flaws they
/// would go on for ever.
fn caught(flaw: Flaw, expected: &[&str]) {
    for case in conformance::transactions::cases() {
        if expected.contains(&case.name()) {
            let data = MemoryData::new();
            let mut store = Crashing(BrokenTransactions { data, flaw });
            let ran = case.run(&mut store);
            assert!(ran.is_err(), "{} did not notice", case.name());
        }
    }
    let names: Vec<String> = conformance::transactions::cases()
        .iter()
        .map(|case| case.name().to_string())
        .collect();
    assert!(
        expected
            .iter()
            .all(|case| names.iter().any(|name| name == case))
    );
}

#[test]
fn suite_catches_transactions_that_ignore_conflicts() {
    let cases = [
        "the_second_of_two_writers_is_refused",
        "a_key_that_came_and_went_conflicts",
        "two_swaps_of_one_value_are_one",
    ];
    caught(Flaw::IgnoresConflicts, &cases);
}

#[test]
fn suite_catches_transactions_that_forget_reads_for_update() {
    let case = "a_read_for_update_conflicts_with_a_write";
    caught(Flaw::ForgetsReadsForUpdate, &[case]);
}

#[test]
fn suite_catches_transactions_that_read_the_newest() {
    let cases = [
        "what_others_commit_is_not_seen",
        "a_transaction_reads_its_own_writes",
    ];
    caught(Flaw::ReadsTheNewest, &cases);
}

#[test]
fn suite_catches_transactions_that_write_at_once() {
    caught(Flaw::WritesAtOnce, &["what_is_not_committed_never_was"]);
}

#[test]
fn suite_catches_transactions_that_sync_nothing() {
    caught(Flaw::SyncsNothing, &["a_commit_outlives_the_store"]);
}
