//! What a store can be told. Uses: peer, transport, kv.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::kv::KvCommand;
use crate::peer::PeerOptions;
use crate::transport::Placement;

/// The settings of a [`Store`](super::Store). Ticks are its unit of time: nothing that is true rests on
/// a clock.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long a tick takes.
    pub tick: Duration,
    /// A follower that has heard nothing for this many ticks, and up to twice as many, campaigns.
    pub election_ticks: usize,
    /// A leader says that it is there every so many ticks, and a store does to those that it knows.
    pub heartbeat_ticks: usize,
    /// A region whose leader has nothing to do for this many ticks sleeps; 0 for never.
    pub sleep_after_ticks: u32,
    /// A leader looks every so many ticks whether its log is to be compacted, by the config's policy.
    pub gc_ticks: u32,
    /// The largest append message, in bytes of entries.
    pub message_bytes_max: u64,
    /// How many append messages are on their way to a follower at most.
    pub inflight_messages_max: usize,
    /// The bytes of proposals that wait before more are refused with `Busy`.
    pub waiting_bytes_max: u64,
    /// A region that holds more is split in the middle; 0 for never.
    pub region_bytes_max: u64,
    /// How many threads apply. A region belongs to one of them.
    pub apply_threads: usize,
    /// Where new ids come from. A store without one hands out ids of its own, which is right for a
    /// cluster of one store only.
    pub placement: Option<Arc<dyn Placement>>,
    /// How regions forget what has expired. Without it nothing of the store's own proposes that.
    pub expiry: Option<ExpiryOptions>,
    /// Where election timeouts come from: two stores may have the same.
    pub seed: u64,
}

/// How a store proposes that what has expired goes. Every so often each leader looks, without being
/// woken for it, whether a value of its region has expired that the region's clock has not passed; if so
/// it proposes a command with the time that it has read, so that every replica does the same. A region
/// without such values has nothing proposed, and sleeps on.
///
/// The time is read where the region is led and nowhere else. A region's clock never goes back: one that
/// is led from a store whose clock is behind forgets later, and brings nothing back. A clock that is
/// ahead makes values expire early.
#[derive(Clone)]
pub struct ExpiryOptions {
    /// How many ticks pass between two looks; 600 are a minute.
    pub every_ticks: u32,
    /// The clock that the commands go by, in milliseconds.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The bytes of the command of the state machine that moves a region's clock on to a time: what it
    /// does is [`ApplyBatch::expire_until`](crate::ApplyBatch::expire_until).
    pub command: Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>,
}

impl Default for ExpiryOptions {
    /// Once a minute by the machine's clock, in milliseconds since 1970 UTC, for
    /// [`KvStateMachine`](crate::KvStateMachine).
    fn default() -> Self {
        ExpiryOptions {
            every_ticks: 600,
            now_ms: Arc::new(|| {
                let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since_1970.map_or(0, |passed| passed.as_millis() as u64)
            }),
            command: Arc::new(|now_ms| KvCommand::ExpireUntil { now_ms }.encode()),
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        let peer = PeerOptions::default();
        StoreOptions {
            tick: Duration::from_millis(100),
            election_ticks: peer.election_ticks,
            heartbeat_ticks: peer.heartbeat_ticks,
            sleep_after_ticks: peer.sleep_after_ticks,
            gc_ticks: peer.gc_ticks,
            message_bytes_max: peer.message_bytes_max,
            inflight_messages_max: peer.inflight_messages_max,
            waiting_bytes_max: 256 << 20,
            region_bytes_max: 0,
            apply_threads: 2,
            placement: None,
            expiry: None,
            seed: 0,
        }
    }
}

/// A number that no other run has drawn.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's only source of randomness: a new hasher has new keys.
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.finish()
}

impl StoreOptions {
    /// What each of its peers is told.
    pub(super) fn peer_options(&self) -> PeerOptions {
        PeerOptions {
            election_ticks: self.election_ticks.max(2),
            heartbeat_ticks: self.heartbeat_ticks.max(1),
            sleep_after_ticks: self.sleep_after_ticks,
            gc_ticks: self.gc_ticks,
            message_bytes_max: self.message_bytes_max,
            inflight_messages_max: self.inflight_messages_max.max(1),
            seed: self.seed,
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("tick", &self.tick)
            .field("election_ticks", &self.election_ticks)
            .field("sleep_after_ticks", &self.sleep_after_ticks)
            .field("region_bytes_max", &self.region_bytes_max)
            .finish_non_exhaustive()
    }
}
