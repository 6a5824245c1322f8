//! The settings of the driver and of the transport between stores. Uses: nothing of ours. Never does I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::within;

/// How the regions of a store are driven. Ticks are the driver's unit of time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long a tick takes.
    pub tick_ms: u64,
    /// A follower that has heard nothing for this many ticks, and up to twice as many, campaigns.
    pub election_ticks: u64,
    /// A leader says that it is there every so many ticks.
    pub heartbeat_ticks: u64,
    /// A region with nothing to do for this many ticks sleeps; 0 for never.
    pub sleep_after_ticks: u64,
    /// A leader looks every so many ticks whether its log is to be compacted.
    pub gc_ticks: u64,
    /// A region that holds more is split in the middle; 0 for never.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub region_bytes_max: u64,
    /// The bytes of proposals that wait before more are refused.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub waiting_bytes_max: u64,
    /// How many threads apply.
    pub apply_threads: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            tick_ms: 100,
            election_ticks: 10,
            heartbeat_ticks: 2,
            sleep_after_ticks: 20,
            gc_ticks: 10,
            region_bytes_max: 0,
            waiting_bytes_max: 256 << 20,
            apply_threads: 2,
        }
    }
}

/// How a store reaches the others, over TCP.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportConfig {
    /// Where to listen, as `host:port`; empty for a store that is alone.
    pub listen: String,
    /// Where the other stores are, by their ids.
    pub stores: BTreeMap<u64, String>,
    /// Encryption and mutual authentication.
    pub tls: Option<TlsConfig>,
    /// The largest message that is taken in.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub frame_bytes_max: u64,
    /// The most bytes that wait for one store.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub queue_bytes_max: u64,
    /// The largest file of a snapshot that is taken in.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub snapshot_bytes_max: u64,
    /// What snapshots may send in a second, all together; 0 for no limit.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub snapshot_bytes_per_second: u64,
}

/// The PEM files of a store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates of the authorities.
    pub ca: PathBuf,
    /// The certificate of this store, with those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for TransportConfig {
    fn default() -> Self {
        TransportConfig {
            listen: String::new(),
            stores: BTreeMap::new(),
            tls: None,
            frame_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            snapshot_bytes_max: 1 << 40,
            snapshot_bytes_per_second: 100 << 20,
        }
    }
}

impl StoreConfig {
    /// Says what is wrong, if something is.
    pub(super) fn check(&self) -> Result<(), String> {
        within(("store.tick_ms", self.tick_ms), 1, 60_000)?;
        within(("store.election_ticks", self.election_ticks), 3, 10_000)?;
        let limit = self.election_ticks - 1;
        within(("store.heartbeat_ticks", self.heartbeat_ticks), 1, limit)?;
        let ticks = u64::from(u32::MAX);
        within(
            ("store.sleep_after_ticks", self.sleep_after_ticks),
            0,
            ticks,
        )?;
        within(("store.gc_ticks", self.gc_ticks), 1, ticks)?;
        within(
            ("store.waiting_bytes_max", self.waiting_bytes_max),
            1,
            u64::MAX,
        )?;
        within(("store.apply_threads", self.apply_threads), 1, 1024)
    }
}

impl TransportConfig {
    /// Says what is wrong, if something is.
    pub(super) fn check(&self, cluster_id: u64, store_id: u64) -> Result<(), String> {
        if self.listen.is_empty() && !(self.stores.is_empty() && self.tls.is_none()) {
            return Err("transport.listen: got nothing, expected where to listen".into());
        }
        if !self.listen.is_empty() && (cluster_id == 0 || store_id == 0) {
            return Err(
                "transport: cluster_id and store_id are to be given, and not 0: other stores are told"
                    .into(),
            );
        }
        let frame = ("transport.frame_bytes_max", self.frame_bytes_max);
        within(frame, 1 << 10, 1 << 30)?;
        within(
            ("transport.queue_bytes_max", self.queue_bytes_max),
            1,
            u64::MAX,
        )
    }
}
