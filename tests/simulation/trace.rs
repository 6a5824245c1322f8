//! What happened, in order: its end for whoever looks into a failure, and a hash of all of it.

use std::collections::{BTreeMap, VecDeque};

/// How many of the last events are kept.
const TAIL: usize = 400;

#[derive(Default)]
pub struct Trace {
    tail: VecDeque<String>,
    hash: u64,
    events: u64,
    /// How often each kind of thing happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub fn note(&mut self, event: String) {
        self.hash = mix(self.hash, event.as_bytes());
        self.events += 1;
        if std::env::var_os("PEERSTORE_TRACE").is_some() {
            println!("{} {event}", self.events);
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(event);
    }

    pub fn count(&mut self, kind: &'static str) {
        self.add(kind, 1);
    }

    pub fn add(&mut self, kind: &'static str, by: u64) {
        *self.counts.entry(kind).or_default() += by;
    }

    /// The same for two runs that are the same.
    pub fn hash(&self) -> (u64, u64) {
        (self.hash, self.events)
    }

    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}

/// FNV-1a, going on from `hash`.
pub fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let start = hash ^ 0xcbf2_9ce4_8422_2325;
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    // The length keeps two texts in a row apart from the two put together otherwise.
    bytes.iter().fold(step(start, &(bytes.len() as u8)), step)
}
