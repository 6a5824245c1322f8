//! How a transport is set up: where it listens, who it is, and every limit.

use std::path::PathBuf;
use std::time::Duration;

use super::download::CHUNK_BYTES;
use crate::error::{Error, Result};

/// How a [`TcpTransport`](super::TcpTransport) is set up. The defaults fit a data centre.
///
/// ```
/// use peerstore::tcp::TcpOptions;
/// let options = TcpOptions {
///     queue_bytes_max: 16 << 20,
///     ..TcpOptions::new("0.0.0.0:20160", 7, 1) // cluster 7, store 1
/// };
/// assert_eq!(options.frame_bytes_max, 32 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Where to listen, as `host:port`. Port 0 takes one that is free.
    pub listen: String,
    /// The cluster. A store of another one is refused.
    pub cluster_id: u64,
    /// The id of this store.
    pub store_id: u64,
    /// The longest frame that is taken in, and so the largest message. A longer one ends the
    /// connection before memory is taken for it.
    pub frame_bytes_max: u32,
    /// The most bytes, about, that wait for one store. What comes on top is dropped.
    pub queue_bytes_max: usize,
    /// The most connections from other stores, snapshots' among them.
    pub connections_max: usize,
    /// The most of them that have not said yet who they are.
    pub handshakes_max: usize,
    /// How long opening a connection may take. Stopping waits for it.
    pub connect_timeout: Duration,
    /// How long a stranger may take to say who it is.
    pub handshake_timeout: Duration,
    /// How long one write, or the rest of a frame, may take.
    pub io_timeout: Duration,
    /// How often a connection is asked whether it still lives.
    pub keepalive: Duration,
    /// How long nothing may come in before a connection is given up. Ours are asked at least three
    /// times as often as the other store's limit.
    pub idle_timeout: Duration,
    /// The pause after a first failure to reach a store; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// The largest file of a snapshot that is taken in.
    pub snapshot_bytes_max: u64,
    /// How many snapshots are sent at once; the others wait.
    pub snapshots_sent_at_once: usize,
    /// How many snapshots may wait to be sent; more are reported as failed.
    pub snapshots_queued_max: usize,
    /// How many snapshots are taken in at once; more are refused.
    pub snapshots_received_at_once: usize,
    /// The bytes that snapshots may send in a second, all together; 0 for no limit.
    pub snapshot_bytes_per_second: u64,
    /// How long a receiver may take to accept a snapshot, and to check and sync its file.
    pub snapshot_timeout: Duration,
    /// Encryption and mutual authentication. Without it everybody who reaches the address can claim to
    /// be any store.
    pub tls: Option<TlsOptions>,
}

/// The PEM files of a store. Both sides verify each other against the same authorities. The
/// certificate has to have the DNS name that [`TlsOptions::store_name`] gives, and no wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificates of the authorities.
    pub ca: PathBuf,
    /// The certificate of this store, and those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsOptions {
    /// The name of a store in its certificate: `store-<id>.cluster-<id>.peerstore`.
    pub fn store_name(cluster_id: u64, store_id: u64) -> String {
        format!("store-{store_id}.cluster-{cluster_id}.peerstore")
    }
}

impl TcpOptions {
    /// The defaults, for the store `store_id` of `cluster_id`.
    pub fn new(listen: impl Into<String>, cluster_id: u64, store_id: u64) -> Self {
        TcpOptions {
            listen: listen.into(),
            cluster_id,
            store_id,
            frame_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            connections_max: 1024,
            handshakes_max: 64,
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            snapshot_bytes_max: 1 << 40,
            snapshots_sent_at_once: 4,
            snapshots_queued_max: 1024,
            snapshots_received_at_once: 4,
            snapshot_bytes_per_second: 100 << 20,
            snapshot_timeout: Duration::from_secs(300),
            tls: None,
        }
    }

    /// # Errors
    /// `Config` with what is wrong and what would be right.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String| {
            let path = None;
            Err(Error::Config { path, message })
        };
        if self.cluster_id == 0 || self.store_id == 0 {
            return refuse("cluster_id and store_id are to be known, and not 0".into());
        }
        let counts = [
            ("queue_bytes_max", self.queue_bytes_max),
            ("connections_max", self.connections_max),
            ("handshakes_max", self.handshakes_max),
            ("snapshots_sent_at_once", self.snapshots_sent_at_once),
            ("snapshots_queued_max", self.snapshots_queued_max),
            (
                "snapshots_received_at_once",
                self.snapshots_received_at_once,
            ),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(format!("{name} is 0, expected at least 1"));
        }
        let millisecond = Duration::from_millis(1);
        let hour = Duration::from_secs(3600);
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("io_timeout", self.io_timeout),
            ("keepalive", self.keepalive),
            ("idle_timeout", self.idle_timeout),
            ("backoff_min", self.backoff_min),
            ("backoff_max", self.backoff_max),
            ("snapshot_timeout", self.snapshot_timeout),
        ];
        let out_of_range = |(_, time): &&(&str, Duration)| *time < millisecond || *time > hour;
        if let Some((name, time)) = times.iter().find(out_of_range) {
            return refuse(format!("{name} is {time:?}, expected 1 ms to 1 h"));
        }
        if self.frame_bytes_max < 1024 || self.frame_bytes_max > 1 << 30 {
            let got = self.frame_bytes_max;
            return refuse(format!("frame_bytes_max is {got}, expected 1 KiB to 1 GiB"));
        }
        let rate = self.snapshot_bytes_per_second;
        let least = CHUNK_BYTES as u64;
        if rate != 0 && rate < least {
            return refuse(format!(
                "snapshot_bytes_per_second is {rate}, expected 0 or at least {least}"
            ));
        }
        Ok(())
    }
}
