//! Application stores that are broken on purpose, to see the suite catch them.

use peerstore::conformance::{self, Harness};
use peerstore::memory::MemoryData;
use peerstore::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Durability,
    KeyRange, Keyspace, Page, Result, Scan, Visit,
};

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    MixesKeyspaces,
    ForgetsDeleteRange,
    DeletesTheEnd,
    SplitsBatches,
    SyncsNothing,
    ScansTheEnd,
    ImportsAtOnce,
    ScansBackAscending,
    ScansBackToTheStart,
    LosesTheCursor,
}

struct BrokenData {
    data: MemoryData,
    flaw: Flaw,
}

impl BrokenData {
    fn place(&self, keyspace: Keyspace) -> Keyspace {
        match (self.flaw, keyspace) {
            (Flaw::MixesKeyspaces, Keyspace::Index) => Keyspace::Data,
            _ => keyspace,
        }
    }

    fn push(&self, batch: &mut AppBatch, op: AppOp<'_>) {
        match op {
            AppOp::Put {
                keyspace,
                key,
                value,
            } => batch.put(self.place(keyspace), key, value),
            AppOp::Delete { keyspace, key } => batch.delete(self.place(keyspace), key),
            AppOp::DeleteRange {
                keyspace,
                start,
                end,
            } => {
                if self.flaw != Flaw::ForgetsDeleteRange {
                    batch.delete_range(keyspace, &KeyRange::new(start, end));
                }
                if self.flaw == Flaw::DeletesTheEnd {
                    batch.delete(keyspace, end);
                }
            }
        }
    }
}

impl DataRead for BrokenData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.data.get(self.place(keyspace), key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.data.multi_get(self.place(keyspace), keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let range = self.scanned(range);
        self.data.scan(self.place(keyspace), &range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let (keyspace, range) = (self.place(keyspace), self.scanned(range));
        match self.flaw {
            Flaw::ScansBackAscending => self.data.scan(keyspace, &range, visit),
            Flaw::ScansBackToTheStart => {
                let range = KeyRange::new([range.start, vec![0]].concat(), range.end);
                self.data.scan_back(keyspace, &range, visit)
            }
            _ => self.data.scan_back(keyspace, &range, visit),
        }
    }

    fn page(&self, keyspace: Keyspace, scan: &Scan) -> Result<Page> {
        let mut page = self.data.page(self.place(keyspace), scan)?;
        if self.flaw == Flaw::LosesTheCursor {
            page.cursor = None;
        }
        Ok(page)
    }
}

impl BrokenData {
    /// Where a scan goes.
    fn scanned(&self, range: &KeyRange) -> KeyRange {
        let mut range = range.clone();
        if self.flaw == Flaw::ScansTheEnd && !range.end.is_empty() {
            range.end.push(0);
        }
        range
    }
}

impl ApplicationDataStorage for BrokenData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        let durability = match self.flaw {
            Flaw::SyncsNothing => Durability::Buffered,
            _ => durability,
        };
        let mut whole = AppBatch::default();
        for op in batch.ops() {
            self.push(&mut whole, op);
            if self.flaw == Flaw::SplitsBatches {
                self.data.write(&whole, Durability::Buffered)?;
                whole.clear();
            }
        }
        self.data.write(&whole, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.data.view()
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        if self.flaw == Flaw::ImportsAtOnce {
            self.data.begin_import(range)?.finish()?;
        }
        self.data.begin_import(range)
    }

    fn sync(&self) -> Result<()> {
        self.data.sync()
    }

    fn stats(&self) -> AppStats {
        self.data.stats()
    }
}

struct Broken(BrokenData);

impl Harness<dyn ApplicationDataStorage> for Broken {
    fn store(&self) -> &(dyn ApplicationDataStorage + 'static) {
        &self.0
    }
    fn crash(&mut self) -> Result<bool> {
        self.0.data = self.0.data.crash_copy(1);
        Ok(true)
    }
}

/// That `case` is among those that fail.
fn caught(flaw: Flaw, case: &str) {
    let data = MemoryData::new;
    let failures = conformance::app_store::check(|| Broken(BrokenData { data: data(), flaw }));
    let names: Vec<&str> = failures.iter().map(|f| f.case.as_str()).collect();
    assert!(names.contains(&case), "{case} not in {names:?}");
}

#[test]
fn suite_catches_data_that_mixes_keyspaces() {
    caught(Flaw::MixesKeyspaces, "keyspaces_are_apart");
}

#[test]
fn suite_catches_data_that_forgets_delete_range() {
    let case = "delete_range_removes_start_and_keeps_end";
    caught(Flaw::ForgetsDeleteRange, case);
}

#[test]
fn suite_catches_data_that_deletes_the_end_of_a_range() {
    let case = "delete_range_removes_start_and_keeps_end";
    caught(Flaw::DeletesTheEnd, case);
}

#[test]
fn suite_catches_data_that_splits_a_batch() {
    let case = "a_power_cut_keeps_a_prefix_of_the_writes";
    caught(Flaw::SplitsBatches, case);
}

#[test]
fn suite_catches_data_that_acknowledges_before_it_syncs() {
    let case = "a_synced_write_covers_the_earlier_ones";
    caught(Flaw::SyncsNothing, case);
}

#[test]
fn suite_catches_data_that_scans_one_key_too_many() {
    caught(Flaw::ScansTheEnd, "a_scan_is_half_open");
}

#[test]
fn suite_catches_data_that_imports_before_the_end() {
    caught(Flaw::ImportsAtOnce, "a_dropped_import_changes_nothing");
}

#[test]
fn suite_catches_data_that_scans_back_ascending() {
    caught(Flaw::ScansBackAscending, "a_scan_back_is_the_scan_reversed");
}

#[test]
fn suite_catches_data_that_scans_back_without_the_start() {
    caught(
        Flaw::ScansBackToTheStart,
        "a_scan_back_is_the_scan_reversed",
    );
}

#[test]
fn suite_catches_data_that_loses_the_cursor() {
    caught(Flaw::LosesTheCursor, "pages_follow_each_other");
}
