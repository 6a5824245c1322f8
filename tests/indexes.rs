//! Secondary indexes over both data stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use peerstore::memory::{MemoryData, WriteFault};
use peerstore::{
    AppBatch, ApplicationDataStorage, ApplyBatch, Cursor, DataRead, Durability, Error, Extractor,
    IndexQuery, IndexedData, KeyRange, Keyspace, KvCommand, KvStateMachine, Page, Result,
};
use proptest::prelude::*;

/// The words of a value.
fn words() -> Extractor {
    Arc::new(|_, value| value.split(|b| *b == b' ').map(<[u8]>::to_vec).collect())
}

/// The first byte of a value, if it has one.
fn first() -> Extractor {
    Arc::new(|_, value| value.first().map(|b| vec![*b]).into_iter().collect())
}

fn open(data: &Arc<dyn ApplicationDataStorage>) -> IndexedData {
    let extractors = [("words", words()), ("first", first())];
    IndexedData::open(data.clone(), extractors).unwrap()
}

/// Runs `test` over an empty store of each kind.
fn over_both(test: impl Fn(Arc<dyn ApplicationDataStorage>)) {
    test(Arc::new(MemoryData::new()));
    #[cfg(feature = "rocksdb")]
    {
        use peerstore::rocks::{RocksData, RocksOptions};
        let dir = tempfile::tempdir().unwrap();
        let data = RocksData::open(dir.path(), &RocksOptions::default()).unwrap();
        test(Arc::new(data));
    }
}

fn put(data: &dyn ApplicationDataStorage, pairs: &[(&str, &str)]) {
    let mut batch = AppBatch::new();
    for (key, value) in pairs {
        batch.put(Keyspace::Data, key, value);
    }
    data.write(&batch, Durability::Buffered).unwrap();
}

fn names(page: &Page) -> String {
    let keys: Vec<_> = page.keys().map(String::from_utf8_lossy).collect();
    keys.join(" ")
}

fn query(data: &IndexedData, query: IndexQuery) -> String {
    names(&data.query("words", &query).unwrap())
}

fn exact(data: &IndexedData, term: &str) -> String {
    query(data, IndexQuery::exact(term))
}

#[test]
fn keys_are_found_by_term_range_and_prefix() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        put(
            &data,
            &[
                ("1", "red"),
                ("2", "green blue"),
                ("3", "red blue"),
                ("4", ""),
            ],
        );
        assert_eq!(exact(&data, "red"), "1 3");
        assert_eq!(exact(&data, "re"), "");
        assert_eq!(exact(&data, ""), "4");
        let range = |start: &str, end: &str| IndexQuery::range(KeyRange::new(start, end));
        assert_eq!(query(&data, range("blue", "red")), "2 3 2");
        assert_eq!(query(&data, range("blue", "red").reverse()), "2 3 2");
        assert_eq!(query(&data, range("c", "")), "2 1 3");
        assert_eq!(query(&data, range("red", "blue")), "");
        assert_eq!(query(&data, IndexQuery::prefix("re")), "1 3");
        assert_eq!(query(&data, IndexQuery::prefix("")), "4 2 3 2 1 3");
        let values = data.query("words", &IndexQuery::exact("green")).unwrap();
        assert_eq!(values.pairs, [(b"2".to_vec(), b"green blue".to_vec())]);
    });
}

#[test]
fn an_index_follows_what_is_written() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        put(&data, &[("1", "red"), ("2", "red blue")]);
        put(&data, &[("2", "blue green")]);
        assert_eq!(
            (exact(&data, "red"), exact(&data, "blue")),
            ("1".into(), "2".into())
        );
        let mut batch = AppBatch::new();
        batch.put(Keyspace::Data, "3", "red");
        batch.put(Keyspace::Data, "3", "yellow");
        batch.delete(Keyspace::Data, "1");
        batch.put(Keyspace::Data, "4", "red");
        batch.delete_range(Keyspace::Data, &KeyRange::new("4", ""));
        batch.put(Keyspace::Data, "5", "blue");
        data.write(&batch, Durability::Synced).unwrap();
        assert_eq!(exact(&data, "red"), "");
        assert_eq!(exact(&data, "yellow"), "3");
        assert_eq!(exact(&data, "blue"), "2 5");
        // In other keyspaces there is nothing to be found by.
        let mut batch = AppBatch::new();
        batch.put(Keyspace::Index, "9", "red");
        data.write(&batch, Durability::Buffered).unwrap();
        assert_eq!(exact(&data, "red"), "");
    });
}

#[test]
fn commands_keep_the_index() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        let all = KeyRange::all();
        let swap = KvCommand::CompareAndSwap {
            key: b"1".to_vec(),
            expected: Some(b"red".to_vec()),
            new: Some(b"blue".to_vec()),
        };
        let mut batch = ApplyBatch::new(&data, &all);
        for command in [KvCommand::put("1", "red"), KvCommand::put("2", "red"), swap] {
            KvStateMachine::apply_command(&command, &mut batch).unwrap();
        }
        data.write(batch.writes(), Durability::Buffered).unwrap();
        assert_eq!(
            (exact(&data, "red"), exact(&data, "blue")),
            ("2".into(), "1".into())
        );
    });
}

#[test]
fn an_index_is_built_of_what_is_there_and_stays() {
    over_both(|store| {
        let many: Vec<String> = (0..3_000).map(|n| format!("{n:04}")).collect();
        let pairs: Vec<_> = many
            .iter()
            .map(|key| (key.as_str(), "red and so on"))
            .collect();
        put(&*store, &pairs);
        let data = open(&store);
        assert!(data.indexes().is_empty());
        data.create_index("words").unwrap();
        let found = data.query("words", &IndexQuery::exact("red").limit(5_000));
        assert_eq!(found.unwrap().pairs.len(), 3_000);
        drop(data);
        let data = open(&store);
        assert_eq!(data.indexes(), ["words"]);
        put(&data, &[("0000", "blue")]);
        let found = data.query("words", &IndexQuery::exact("red").limit(5_000));
        assert_eq!(found.unwrap().pairs.len(), 2_999);
    });
}

#[test]
fn a_dropped_index_leaves_nothing() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        data.create_index("first").unwrap();
        put(&data, &[("1", "red")]);
        data.drop_index("words").unwrap();
        let gone = data.query("words", &IndexQuery::exact("red"));
        assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        let gone = data.drop_index("words");
        assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        let first = data.query("first", &IndexQuery::exact("r")).unwrap();
        assert_eq!(names(&first), "1", "the other is as it was");
        data.drop_index("first").unwrap();
        let mut left = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            left += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        // RocksDB has its format version there.
        let behind = KeyRange::prefix([0xfe]);
        store.scan(Keyspace::Store, &behind, &mut count).unwrap();
        assert_eq!(left, 0);
        put(&data, &[("2", "red")]);
        data.create_index("words").unwrap();
        assert_eq!(exact(&data, "red"), "1 2");
    });
}

#[test]
fn an_index_without_an_extractor_is_refused() {
    over_both(|store| {
        let data = open(&store);
        let refused = |got: Result<()>| {
            assert!(
                matches!(got, Err(Error::IndexWithoutExtractor { .. })),
                "{got:?}"
            );
        };
        refused(data.create_index("unknown"));
        assert!(data.indexes().is_empty());
        data.create_index("words").unwrap();
        let again = data.create_index("words");
        assert!(matches!(again, Err(Error::IndexExists { .. })), "{again:?}");
        drop(data);
        refused(IndexedData::open(store.clone(), [("first", first())]).map(drop));
        assert_eq!(open(&store).indexes(), ["words"], "nothing was changed");
    });
}

#[test]
fn an_import_makes_its_own_entries() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        put(
            &data,
            &[("a", "red"), ("b", "red"), ("c", "red blue"), ("d", "red")],
        );
        let mut import = data.begin_import(&KeyRange::new("b", "d")).unwrap();
        import.put(Keyspace::Data, b"bb", b"blue").unwrap();
        import.put(Keyspace::Data, b"c", b"red").unwrap();
        assert_eq!(exact(&data, "red"), "a b c d", "nothing before the end");
        import.finish().unwrap();
        assert_eq!(
            (exact(&data, "red"), exact(&data, "blue")),
            ("a c d".into(), "bb".into())
        );
        let import = data.begin_import(&KeyRange::all()).unwrap();
        import.finish().unwrap();
        assert_eq!(query(&data, IndexQuery::prefix("")), "");
    });
}

#[test]
fn an_index_that_was_cut_short_is_built_again() {
    let store = Arc::new(MemoryData::new());
    let data = open(&(store.clone() as _));
    data.create_index("words").unwrap();
    put(&data, &[("a", "red"), ("b", "red")]);
    let mut import = data.begin_import(&KeyRange::new("a", "b")).unwrap();
    import.put(Keyspace::Data, b"aa", b"red").unwrap();
    store.fail_next_write(WriteFault::SyncFailed);
    assert!(import.finish().is_err());
    // Every point at which the power can have gone, of an import that went through.
    let data = open(&(Arc::new(store.crash_copy(usize::MAX)) as _));
    assert_eq!(exact(&data, "red"), "a b");
    let store = Arc::new(store.crash_copy(usize::MAX));
    let data = open(&(store.clone() as _));
    put(&data, &[("a", "red and so on")]);
    for kept in 0..=store.unsynced() {
        let copy: Arc<dyn ApplicationDataStorage> = Arc::new(store.crash_copy(kept));
        assert_agrees(&open(&copy));
    }
}

#[test]
fn a_half_built_index_answers_nothing_until_it_is_whole() {
    let store = Arc::new(MemoryData::new());
    let data = open(&(store.clone() as _));
    data.create_index("words").unwrap();
    put(&data, &[("a", "red")]);
    store.sync().unwrap();
    let import = data.begin_import(&KeyRange::new("z", "")).unwrap();
    let failing = Failing {
        store: store.clone(),
    };
    drop(import);
    let failing = open(&(Arc::new(failing) as _));
    let import = failing.begin_import(&KeyRange::new("z", "")).unwrap();
    assert!(import.finish().is_err());
    let got = failing.query("words", &IndexQuery::exact("red"));
    assert!(matches!(got, Err(Error::IndexNotReady { .. })), "{got:?}");
    assert_agrees(&open(&(store as _)));
}

/// A node in `dir`, or in memory, whose config names an index.
fn node(dir: Option<&std::path::Path>, extractor: &str) -> Result<peerstore::CompositeStorage> {
    let config = match dir {
        Some(_) => "{log: append_log, indexes: [words]}",
        None => "{app: memory, log: memory, snapshot: {backend: memory}, indexes: [words]}",
    };
    let config = peerstore::Config::from_yaml_str(config)?;
    let builder = peerstore::CompositeStorage::builder().config(config);
    let builder = match dir {
        Some(dir) => builder.dir(dir),
        None => builder,
    };
    builder.extractor(extractor, words()).open()
}

#[test]
fn a_node_has_the_indexes_that_its_config_names() {
    let node = node(None, "words").unwrap();
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Data, "1", "red");
    node.app().write(&batch, Durability::Buffered).unwrap();
    let query = IndexQuery::exact("red");
    let found = node.app().query_index("words", &query, &KeyRange::all());
    assert_eq!(names(&found.unwrap()), "1");
    assert!(node.app().has_extractor("words") && !node.app().has_extractor("first"));
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_node_without_the_extractor_of_an_index_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("node");
    let refused = node(Some(&dir), "first").map(drop);
    let is_right = |got: &Result<()>| matches!(got, Err(Error::IndexWithoutExtractor { name }) if name == "words");
    assert!(is_right(&refused), "{refused:?}");
    assert!(!dir.exists(), "nothing was touched");
    drop(node(Some(&dir), "words").unwrap());
    // Whoever writes past an index makes it wrong, so the store that has one needs it.
    let config = peerstore::Config::from_yaml_str("log: append_log").unwrap();
    let refused = peerstore::CompositeStorage::open(&dir, config).map(drop);
    assert!(is_right(&refused), "{refused:?}");
    let node = node(Some(&dir), "words").unwrap();
    assert!(
        node.app()
            .query_index("words", &IndexQuery::prefix(""), &KeyRange::all())
            .is_ok()
    );
}

/// A store whose imports fail at their end.
struct Failing {
    store: Arc<MemoryData>,
}

struct FailingImport;

impl peerstore::DataImport for FailingImport {
    fn put(&mut self, _: Keyspace, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<()> {
        Err(Error::StoreStopped)
    }
}

impl DataRead for Failing {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.store.get(keyspace, key)
    }
    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.store.multi_get(keyspace, keys)
    }
    fn scan(
        &self,
        space: Keyspace,
        range: &KeyRange,
        visit: &mut peerstore::Visit<'_>,
    ) -> Result<()> {
        self.store.scan(space, range, visit)
    }
    fn scan_back(
        &self,
        space: Keyspace,
        range: &KeyRange,
        visit: &mut peerstore::Visit<'_>,
    ) -> Result<()> {
        self.store.scan_back(space, range, visit)
    }
}

impl ApplicationDataStorage for Failing {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        self.store.write(batch, durability)
    }
    fn view(&self) -> Result<Box<dyn peerstore::DataView>> {
        self.store.view()
    }
    fn begin_import(&self, _: &KeyRange) -> Result<Box<dyn peerstore::DataImport>> {
        Ok(Box::new(FailingImport))
    }
    fn sync(&self) -> Result<()> {
        self.store.sync()
    }
    fn stats(&self) -> peerstore::AppStats {
        self.store.stats()
    }
}

#[test]
fn pages_of_a_query_follow_each_other() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        put(&data, &[("1", "a"), ("2", "b a"), ("3", "c"), ("4", "a")]);
        let all = || IndexQuery::prefix("").limit(2);
        let mut pages = Vec::new();
        let mut next = all();
        loop {
            let page = data.query("words", &next).unwrap();
            pages.push(names(&page));
            match page.cursor {
                Some(cursor) => next = all().after(cursor),
                None => break,
            }
        }
        assert_eq!(pages, ["1 2", "4 2", "3"]);
        let page = data.query("words", &all()).unwrap();
        let cursor = page.cursor.unwrap();
        let other = data.query("words", &IndexQuery::exact("a").after(cursor));
        assert!(
            matches!(other, Err(Error::CursorInvalid { .. })),
            "{other:?}"
        );
        let damaged = all().after(Cursor::from_bytes(*b"nonsense"));
        let got = data.query("words", &damaged);
        assert!(matches!(got, Err(Error::CursorInvalid { .. })), "{got:?}");
    });
}

#[test]
fn nobody_else_sees_or_writes_the_entries() {
    over_both(|store| {
        let data = open(&store);
        data.create_index("words").unwrap();
        put(&data, &[("1", "red")]);
        let key = b"\xfeindex/\0words";
        assert!(store.get(Keyspace::Store, key).unwrap().is_some());
        assert_eq!(data.get(Keyspace::Store, key).unwrap(), None);
        assert_eq!(data.multi_get(Keyspace::Store, &[key]).unwrap(), [None]);
        let view = data.view().unwrap();
        for read in [&data as &dyn DataRead, &*view] {
            let mut seen = |key: &[u8], _: &[u8]| panic!("{:?}", key.escape_ascii());
            let own = KeyRange::prefix([0xfe]);
            read.scan(Keyspace::Store, &own, &mut seen).unwrap();
            read.scan_back(Keyspace::Store, &own, &mut seen).unwrap();
        }
        let refused = |fill: &dyn Fn(&mut AppBatch)| {
            let mut batch = AppBatch::new();
            fill(&mut batch);
            let got = data.write(&batch, Durability::Buffered);
            assert!(matches!(got, Err(Error::InvalidArgument { .. })), "{got:?}");
        };
        refused(&|batch| batch.put(Keyspace::Store, key, "x"));
        refused(&|batch| batch.delete(Keyspace::Store, key));
        refused(&|batch| batch.delete_range(Keyspace::Store, &KeyRange::all()));
        refused(&|batch| batch.delete_range(Keyspace::Store, &KeyRange::prefix(*key)));
        let mut batch = AppBatch::new();
        batch.put(Keyspace::Store, "mine", "x");
        batch.delete_range(Keyspace::Store, &KeyRange::new("a", "z"));
        data.write(&batch, Durability::Buffered).unwrap();
        assert_eq!(exact(&data, "red"), "1");
    });
}

/// That each index has exactly what its extractor makes of the data.
fn assert_agrees(data: &IndexedData) {
    for (name, extractor) in [("words", words()), ("first", first())] {
        if !data.indexes().iter().any(|n| n == name) {
            continue;
        }
        let mut expected = BTreeMap::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            for term in extractor(key, value) {
                expected.insert((term, key.to_vec()), value.to_vec());
            }
            Ok(std::ops::ControlFlow::Continue(()))
        };
        data.scan(Keyspace::Data, &KeyRange::all(), &mut visit)
            .unwrap();
        let found = data
            .query(name, &IndexQuery::prefix("").limit(usize::MAX))
            .unwrap();
        let expected: Vec<_> = expected.into_iter().map(|((_, k), v)| (k, v)).collect();
        assert_eq!(found.pairs, expected, "{name}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
    Write,
    Import(Vec<u8>, Vec<u8>, Vec<u8>),
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::collection::vec(prop::sample::select(vec![0, b'a', b'b', 255]), 0..3);
    let value = || prop::collection::vec(prop::sample::select(vec![0, b' ', b'x', 255]), 0..5);
    prop_oneof![
        6 => (key(), value()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => key().prop_map(Step::Delete),
        1 => (key(), key()).prop_map(|(a, b)| Step::DeleteRange(a, b)),
        4 => Just(Step::Write),
        1 => (key(), key(), value()).prop_map(|(a, b, v)| Step::Import(a, b, v)),
        1 => Just(Step::Open),
    ]
}

proptest! {
    #[test]
    fn an_index_always_agrees_with_the_data(steps in prop::collection::vec(step(), 1..60)) {
        let store: Arc<dyn ApplicationDataStorage> = Arc::new(MemoryData::new());
        let mut data = open(&store);
        data.create_index("words").unwrap();
        let mut batch = AppBatch::new();
        for step in steps {
            match step {
                Step::Put(key, value) => batch.put(Keyspace::Data, key, value),
                Step::Delete(key) => batch.delete(Keyspace::Data, key),
                Step::DeleteRange(start, end) => {
                    batch.delete_range(Keyspace::Data, &KeyRange::new(start, end));
                }
                Step::Write => {
                    data.write(&batch, Durability::Buffered).unwrap();
                    batch.clear();
                }
                Step::Import(start, end, value) => {
                    let range = KeyRange::new(start.clone(), end);
                    let mut import = data.begin_import(&range).unwrap();
                    if range.contains(&start) {
                        import.put(Keyspace::Data, &start, &value).unwrap();
                    }
                    import.finish().unwrap();
                }
                Step::Open => {
                    drop(data);
                    data = open(&store);
                    if data.indexes().len() < 2 {
                        data.create_index("first").unwrap();
                    }
                }
            }
            assert_agrees(&data);
        }
    }
}
