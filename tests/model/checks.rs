//! Every read of a region against its model.

use std::time::Duration;

use peerstore::PeerStorage;
use raft::eraftpb::Entry;
use raft::{Error, GetEntriesContext, Storage, StorageError};

use crate::node::{Node, scan};
use crate::region::Region;

/// Numbers that look random; the same for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) % limit.max(1)
    }
}

impl Node {
    /// Asks everything that can be asked, and some ranges that `numbers` choose.
    pub fn check(&mut self, numbers: &mut Numbers) {
        for at in 0..self.regions.len() {
            let region = &self.regions[at];
            let open = self.open.as_mut().expect("the node is open");
            // Until a staged snapshot is persisted, the data is between the two.
            if !open.is_installing(at) {
                assert_eq!(scan(&open.node, at), region.now().data, "data");
            }
            // What was cut off is not left in the log, where nobody would ever remove it.
            let (id, last) = (region.id.into(), region.durable.last);
            for index in (last + 1..last + 10).filter(|_| !open.is_installing(at)) {
                let entry = open.node.log().read_entry(id, index).expect("read_entry");
                assert_eq!(entry, None, "behind the end");
            }
            let busy = open.is_busy(at);
            let storage = open.storage(at);
            check_states(storage, region, busy);
            check_terms(storage, region);
            check_entries(storage, region, numbers);
        }
    }
}

fn check_states(storage: &PeerStorage, region: &Region, busy: bool) {
    let (kv, log) = (region.now(), &region.visible);
    assert_eq!(storage.peer_id().0, region.peer, "peer id");
    assert_eq!(storage.first_index(), Ok(kv.truncated.index + 1));
    assert_eq!(storage.last_index(), Ok(log.last));
    let state = storage.initial_state().expect("initial_state");
    assert_eq!(state.hard_state, log.hard, "hard state");
    assert_eq!(state.conf_state, kv.conf, "conf state");
    assert_eq!(storage.applied_index(), kv.applied, "applied");
    assert!(kv.applied <= log.hard.commit, "applied beyond commit");
    let persisted = storage.persisted_index();
    assert!(busy || persisted == log.last, "nothing is staged");
    assert!(persisted <= region.durable.last, "persisted, not durable");
    for index in kv.truncated.index + 1..=persisted {
        let (shown, durable) = (&log.entries[&index], &region.durable.entries[&index]);
        assert_eq!(shown, durable, "persisted, not durable");
    }
}

fn check_terms(storage: &PeerStorage, region: &Region) {
    let (first, last) = (region.now().truncated.index, region.visible.last);
    for index in first.saturating_sub(3)..last + 3 {
        let want = match region.term(index) {
            Some(term) => Ok(term),
            None if index < first => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        };
        assert_eq!(storage.term(index), want, "term of {index}");
    }
    let behind = storage.term(u64::MAX);
    assert_eq!(behind, Err(Error::Store(StorageError::Unavailable)));
}

fn check_entries(storage: &PeerStorage, region: &Region, numbers: &mut Numbers) {
    let (first, last) = (region.now().truncated.index + 1, region.visible.last);
    for low in [first - 1, first.saturating_sub(1 + numbers.below(first))] {
        let got = read(storage, low, last + 1, None, false);
        assert_eq!(got, Err(Error::Store(StorageError::Compacted)), "at {low}");
    }
    let all = read(storage, first, last + 1, None, false);
    assert_eq!(all, Ok(region.entries(first, last + 1)), "all entries");
    for _ in 0..4 {
        let low = first + numbers.below(last + 2 - first);
        let high = low + numbers.below(last + 2 - low);
        let limit = match numbers.below(3) {
            0 => None,
            1 => Some(numbers.below(40)),
            _ => Some(numbers.below(600)),
        };
        let mut want = region.entries(low, high);
        raft::util::limit_size(&mut want, limit);
        let can_wait = numbers.below(2) == 0;
        let got = read(storage, low, high, limit, can_wait);
        assert_prefix(got, want, can_wait, (low, high));
    }
}

/// A read that may wait may also answer less, but not nothing and nothing else.
fn assert_prefix(
    got: raft::Result<Vec<Entry>>,
    want: Vec<Entry>,
    can_wait: bool,
    range: (u64, u64),
) {
    let got = got.unwrap_or_else(|e| panic!("entries {range:?}: {e}"));
    if can_wait && got.len() < want.len() {
        assert!(!got.is_empty(), "entries {range:?}: nothing");
        assert_eq!(got, want[..got.len()], "entries {range:?}");
    } else {
        assert_eq!(got, want, "entries {range:?}");
    }
}

fn read(
    storage: &PeerStorage,
    low: u64,
    high: u64,
    limit: Option<u64>,
    can_wait: bool,
) -> raft::Result<Vec<Entry>> {
    for _ in 0..8 {
        let context = GetEntriesContext::empty(can_wait);
        match storage.entries(low, high, limit, context) {
            Err(Error::Store(StorageError::LogTemporarilyUnavailable)) if can_wait => {
                storage.wait_fetched(Duration::from_secs(60));
            }
            answer => return answer,
        }
    }
    panic!("entries [{low}, {high}) are never fetched");
}
