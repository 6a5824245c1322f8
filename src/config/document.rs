//! A whole document: our own keys, and those of `raft_storage` beside them. Uses: nothing of ours but the
//! config itself. Never does I/O.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::Config;
use super::raft_storage::RaftStorage;

const RAFT_STORAGE: &str = "raft_storage";

/// What `raft_storage` says too: given in both ways, one of them would be ignored.
const EITHER: [&str; 9] = [
    "log",
    "app",
    "snapshot",
    "append_log",
    "rocksdb",
    "memory",
    "durability",
    "sync_policy",
    "flush_policy",
];

/// A config as it is written down.
#[derive(Default)]
pub(super) struct Document {
    config: Config,
    raft_storage: Option<RaftStorage>,
    keys: Vec<String>,
}

impl Document {
    /// The config that it means, or what is wrong with it.
    pub fn into_config(self) -> Result<Config, String> {
        let mut config = self.config;
        if let Some(raft_storage) = self.raft_storage {
            let twice = self.keys.iter().find(|key| EITHER.contains(&key.as_str()));
            if let Some(key) = twice {
                return Err(format!(
                    "`{key}` stands beside `{RAFT_STORAGE}`, expected one of them: both say it"
                ));
            }
            raft_storage.put_into(&mut config)?;
        }
        Ok(config)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
        let (mut raft_storage, mut keys) = (None, Vec::new());
        let ours = OurKeys {
            map,
            raft_storage: &mut raft_storage,
            keys: &mut keys,
        };
        let config = Config::deserialize(MapAccessDeserializer::new(ours))?;
        Ok(Document {
            config,
            raft_storage,
            keys,
        })
    }
}

/// The entries of a document without `raft_storage`, which is taken out on the way.
struct OurKeys<'a, A> {
    map: A,
    raft_storage: &'a mut Option<RaftStorage>,
    keys: &'a mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for OurKeys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        mut seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        loop {
            let next = KeySeed {
                seed,
                keys: self.keys,
            };
            match self.map.next_key_seed(next)? {
                None => return Ok(None),
                Some(Key::Ours(key)) => return Ok(Some(key)),
                Some(Key::RaftStorage(_)) if self.raft_storage.is_some() => {
                    return Err(de::Error::duplicate_field(RAFT_STORAGE));
                }
                Some(Key::RaftStorage(unused)) => {
                    *self.raft_storage = Some(self.map.next_value()?);
                    seed = unused;
                }
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// A key that is looked at before it is given on.
struct KeySeed<'a, S> {
    seed: S,
    keys: &'a mut Vec<String>,
}

/// One of ours, or the section, which leaves the seed unused.
enum Key<'de, S: DeserializeSeed<'de>> {
    Ours(S::Value),
    RaftStorage(S),
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<'_, S> {
    type Value = Key<'de, S>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        if key == RAFT_STORAGE {
            return Ok(Key::RaftStorage(self.seed));
        }
        self.keys.push(key.clone());
        self.seed
            .deserialize(key.into_deserializer())
            .map(Key::Ours)
    }
}
