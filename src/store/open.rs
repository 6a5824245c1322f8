//! A store from its config: the node, the way to the others, the ids. Uses: composite, config, placement,
//! tcp.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{ExpiryOptions, Store, StoreOptions};
use crate::composite::CompositeStorage;
use crate::config::{Config, TransportConfig};
use crate::error::Result;
use crate::memory::MemoryNetwork;
use crate::placement::StaticPlacement;
use crate::proto::Region;
use crate::state_machine::StateMachine;
use crate::tcp::{TcpOptions, TcpTransport, TlsOptions};
use crate::transport::Transport;

impl Store {
    /// Opens the node in `dir` and starts a store over it, all as `config` says: `config.transport` names
    /// where to listen and where the other stores are.
    ///
    /// ```
    /// use std::time::Duration;
    /// use peerstore::{Config, KvCommand, KvStateMachine, Region, StateMachine, Store};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let config = Config::from_yaml_str("store_id: 1\nstore:\n  tick_ms: 20")?;
    /// let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
    /// let store = Store::open(dir.path(), &config, machine)?;
    /// store.create_region(&Region::single(1, 1))?;
    /// store.wait_for_leader(1, Duration::from_secs(30))?;
    /// let put = KvCommand::put("key", "value").encode();
    /// store.propose(1, put).wait(Duration::from_secs(30))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`CompositeStorage::open`] and [`Store::start`]; `Io` if it cannot listen, `Config` if the
    /// certificates cannot be used.
    pub fn open<M>(dir: impl AsRef<Path>, config: &Config, machines: M) -> Result<Store>
    where
        M: Fn(&Region) -> Box<dyn StateMachine> + Send + Sync + 'static,
    {
        let node = CompositeStorage::open(dir, config.clone())?;
        Store::open_node(node, config, machines, None)
    }

    /// The same over a node that is open already, with the extractors of its indexes, and with what
    /// proposes that expired values go.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use peerstore::{
    ///     CompositeStorage, Config, ExpiryOptions, IndexQuery, KvCommand, KvStateMachine, Region,
    ///     StateMachine, Store,
    /// };
    ///
    /// let dir = tempfile::tempdir()?;
    /// let config = Config::from_yaml_str("store_id: 1\nstore:\n  tick_ms: 20")?;
    /// let by_value = Arc::new(|_key: &[u8], value: &[u8]| vec![value.to_vec()]);
    /// let builder = CompositeStorage::builder().config(config.clone()).dir(dir.path());
    /// let node = builder.extractor("value", by_value).open()?;
    /// let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
    /// let store = Store::open_node(node, &config, machine, Some(ExpiryOptions::default()))?;
    /// store.create_region(&Region::single(1, 1))?;
    /// store.wait_for_leader(1, Duration::from_secs(30))?;
    /// let create = KvCommand::CreateIndex { name: "value".into() };
    /// for command in [create, KvCommand::put("sky", "blue")] {
    ///     store.propose(1, command.encode()).wait(Duration::from_secs(30))?;
    /// }
    /// let reader = store.read(1).wait(Duration::from_secs(30))?;
    /// let found = reader.query_index("value", &IndexQuery::exact("blue"))?;
    /// assert_eq!(found.keys().collect::<Vec<_>>(), [b"sky"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::start`]; `Io` if it cannot listen, `Config` if the certificates cannot be used.
    pub fn open_node<M>(
        node: CompositeStorage,
        config: &Config,
        machines: M,
        expiry: Option<ExpiryOptions>,
    ) -> Result<Store>
    where
        M: Fn(&Region) -> Box<dyn StateMachine> + Send + Sync + 'static,
    {
        let addresses = config.transport.stores.clone();
        let own = node.store_id().max(1);
        let placement = Arc::new(StaticPlacement::open(
            Arc::clone(node.app()),
            own,
            addresses,
        )?);
        let transport: Arc<dyn Transport> = match config.transport.listen.is_empty() {
            true => MemoryNetwork::immediate().transport(own),
            false => {
                let options = tcp_options(&config.transport, node.cluster_id(), node.store_id());
                TcpTransport::bind(options, placement.clone())?
            }
        };
        let options = StoreOptions {
            placement: Some(placement),
            expiry,
            ..StoreOptions::of(config)
        };
        Store::start(node, machines, transport, options)
    }
}

impl StoreOptions {
    /// What `config` says of them; the placement is not among that.
    pub fn of(config: &Config) -> Self {
        let store = &config.store;
        let ticks = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
        StoreOptions {
            tick: Duration::from_millis(store.tick_ms),
            election_ticks: store.election_ticks as usize,
            heartbeat_ticks: store.heartbeat_ticks as usize,
            sleep_after_ticks: ticks(store.sleep_after_ticks),
            gc_ticks: ticks(store.gc_ticks),
            waiting_bytes_max: store.waiting_bytes_max,
            region_bytes_max: store.region_bytes_max,
            apply_threads: store.apply_threads as usize,
            ..StoreOptions::default()
        }
    }
}

fn tcp_options(config: &TransportConfig, cluster_id: u64, store_id: u64) -> TcpOptions {
    TcpOptions {
        frame_bytes_max: u32::try_from(config.frame_bytes_max).unwrap_or(u32::MAX),
        queue_bytes_max: config.queue_bytes_max as usize,
        snapshot_bytes_max: config.snapshot_bytes_max,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        tls: config.tls.as_ref().map(|tls| TlsOptions {
            ca: tls.ca.clone(),
            cert: tls.cert.clone(),
            key: tls.key.clone(),
        }),
        ..TcpOptions::new(config.listen.clone(), cluster_id, store_id)
    }
}
