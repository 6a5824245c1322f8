//! Three stores of one cluster in this process, and their metrics as a page that Prometheus reads.
//!
//! `cargo run --example prometheus` prints where the page is, and writes a little all the time until it is
//! killed. The recorder is installed before a node is opened: what was registered without one is silent.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use peerstore::tcp::{TcpOptions, TcpTransport};
use peerstore::{
    CompositeStorage, Config, Error, KeyRange, KvCommand, KvStateMachine, PeerId, Region, Result,
    StateMachine, StaticPlacement, Store, StoreOptions,
};

/// Nothing of the example takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// No request for a page is longer, in bytes.
const REQUEST_MAX: usize = 8 << 10;
/// A client that says nothing for this long is not served.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// From 16 microseconds to 16 seconds.
const SECONDS: [f64; 11] = [
    0.000_016, 0.000_064, 0.000_256, 0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0,
];
/// Entries, messages, bytes.
const COUNTS: [f64; 9] = [
    1.0,
    8.0,
    64.0,
    512.0,
    4096.0,
    32_768.0,
    262_144.0,
    2_097_152.0,
    16_777_216.0,
];

/// The recorder of this process, with buckets for the histograms. Once, and before everything else.
pub fn install_recorder() -> std::result::Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Prefix("peerstore_".into()), &COUNTS)?
        .install_recorder()
}

/// Stores 1 to 3 of one cluster, with region 1 on each, connected over TCP.
pub struct Cluster {
    /// The stores.
    pub stores: Vec<Arc<Store>>,
}

impl Cluster {
    /// Starts the stores with their files under `dir`.
    pub fn start(dir: &Path) -> Result<Cluster> {
        let mut started = Vec::new();
        for id in 1..=3 {
            let config = Config {
                store_id: id,
                cluster_id: 7,
                ..Config::from_yaml_str("{log: append_log, app: memory}")?
            };
            let node = CompositeStorage::open(dir.join(id.to_string()), config)?;
            let placement = StaticPlacement::open(node.app().clone(), id, Default::default())?;
            let placement = Arc::new(placement);
            let options = TcpOptions::new("127.0.0.1:0", 7, id);
            let transport = TcpTransport::bind(options, placement.clone())?;
            started.push((node, placement, transport));
        }
        let addresses: Vec<String> = (started.iter())
            .map(|(_, _, transport)| transport.local_address().to_string())
            .collect();
        let mut stores = Vec::new();
        for (node, placement, transport) in started {
            for (id, address) in (1..).zip(&addresses) {
                placement.set_address(id, address.clone());
            }
            let options = StoreOptions {
                tick: Duration::from_millis(10),
                placement: Some(placement),
                ..StoreOptions::default()
            };
            let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
            stores.push(Arc::new(Store::start(node, machine, transport, options)?));
        }
        let voters = (1..=3).map(|id| (PeerId(100 + id), id));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        stores.iter().try_for_each(|s| s.create_region(&region))?;
        Ok(Cluster { stores })
    }

    /// Writes a key where region 1 is led, and reads it there.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let leads = |store: &&Arc<Store>| store.region(1).is_some_and(|r| r.is_leader);
        let Some(leader) = self.stores.iter().find(leads) else {
            let region = 1.into();
            let leader = None;
            return Err(Error::NotLeader { region, leader });
        };
        let put = KvCommand::put(key, value).encode();
        leader.propose(1, put).wait(PATIENCE)?;
        leader.read(1).wait(PATIENCE)?.get(key.as_bytes())?;
        Ok(())
    }
}

/// Serves the page until it is dropped.
pub struct Page {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Page {
    /// Serves `/metrics` at `address`, one request after the other.
    pub fn serve(
        address: &str,
        recorder: PrometheusHandle,
        stores: Vec<Arc<Store>>,
    ) -> std::io::Result<Page> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // One that breaks off is the client's affair.
                let _ = answer(stream, &recorder, &stores);
            }
        });
        Ok(Page {
            address,
            is_stopped,
            thread: Some(thread),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // It waits for a connection, so it gets one.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    mut stream: TcpStream,
    recorder: &PrometheusHandle,
    stores: &[Arc<Store>],
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        request.extend_from_slice(&piece[..count]);
        if count == 0 || request.len() > REQUEST_MAX {
            return Ok(());
        }
    }
    let (status, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", page(recorder, stores)),
        false => ("404 Not Found", "the page is /metrics\n".to_string()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// What is counted anyway is shown first.
fn page(recorder: &PrometheusHandle, stores: &[Arc<Store>]) -> String {
    for store in stores {
        if let Err(error) = store.report_metrics() {
            eprintln!("store {}: {error}", store.store_id());
        }
    }
    recorder.render()
}

#[allow(dead_code, reason = "a test takes this file in as a module")]
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let recorder = install_recorder()?;
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::start(dir.path())?;
    let page = Page::serve("127.0.0.1:0", recorder, cluster.stores.clone())?;
    println!("http://{}/metrics", page.address());
    for number in 0_u64.. {
        // Nobody leads at first, and now and then.
        if let Err(error) = cluster.put(&format!("key {}", number % 1000), &number.to_string()) {
            eprintln!("{error}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
