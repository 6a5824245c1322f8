//! Where the stores run: each in a process of its own, or all in this one. Uses: node, serve.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerstore::LogBackend;
use peerstore::memory::MemoryNetwork;

use super::Outcome;
use super::node::{Node, Settings};
use super::options::log_name;
use super::serve::READY;

/// A store starts and ends in less, or something hangs.
const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(20);

/// How the stores are started.
pub enum Launcher {
    /// As this program, with these arguments before those of a store.
    Processes(Vec<OsString>),
    /// In this process, without sockets.
    Threads(MemoryNetwork),
}

/// The stores that run. Those in processes end with it, however it goes.
pub struct Hosts {
    launcher: Launcher,
    dir: PathBuf,
    log: LogBackend,
    region_bytes_max: u64,
    hosts: Mutex<BTreeMap<u64, Host>>,
}

enum Host {
    Process(Process),
    Thread(Arc<Node>),
}

struct Process {
    child: Child,
    client: SocketAddr,
    raft: String,
    is_frozen: bool,
}

/// The way to a store for its clients.
#[derive(Clone)]
pub enum Place {
    Tcp(SocketAddr),
    Here(Arc<Node>),
}

impl Hosts {
    pub fn new(launcher: Launcher, dir: PathBuf, log: LogBackend, region_bytes_max: u64) -> Hosts {
        let hosts = Mutex::default();
        Hosts {
            launcher,
            dir,
            log,
            region_bytes_max,
            hosts,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a store, or goes on with one that was frozen.
    pub fn start(&self, store: u64) -> Outcome<()> {
        if let Some(Host::Process(process)) = self.lock().get_mut(&store)
            && std::mem::take(&mut process.is_frozen)
        {
            return process.signal(libc::SIGCONT);
        }
        let settings = Settings {
            store,
            dir: self.dir.join(format!("store-{store}")),
            log: self.log,
            region_bytes_max: self.region_bytes_max,
        };
        let host = match &self.launcher {
            Launcher::Processes(prefix) => Host::Process(Process::start(prefix, &settings)?),
            Launcher::Threads(network) => {
                Host::Thread(Arc::new(Node::open(&settings, Some(network))?))
            }
        };
        self.lock().insert(store, host);
        Ok(())
    }

    /// Ends a store at once: a process by SIGKILL, or, if its log is in memory and would be lost, by
    /// freezing it. One in this process is stopped.
    pub fn kill(&self, store: u64) -> Outcome<()> {
        let mut hosts = self.lock();
        match hosts.get_mut(&store) {
            Some(Host::Process(process)) if self.log == LogBackend::Memory => {
                process.is_frozen = true;
                process.signal(libc::SIGSTOP)
            }
            Some(Host::Process(process)) => {
                process.child.kill()?;
                process.child.wait()?;
                hosts.remove(&store);
                Ok(())
            }
            Some(Host::Thread(_)) => {
                let node = hosts.remove(&store);
                drop(hosts);
                if let Some(Host::Thread(node)) = node {
                    node.stop();
                    let deadline = Instant::now() + STOP_TIME;
                    // Whoever is being answered holds it.
                    while Arc::strong_count(&node) > 1 && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The stores that can be asked.
    pub fn up(&self) -> Vec<u64> {
        let hosts = self.lock();
        let up = hosts.iter().filter(|(_, host)| match host {
            Host::Process(process) => !process.is_frozen,
            Host::Thread(_) => true,
        });
        up.map(|(id, _)| *id).collect()
    }

    pub fn place(&self, store: u64) -> Option<Place> {
        match self.lock().get(&store)? {
            Host::Process(process) if process.is_frozen => None,
            Host::Process(process) => Some(Place::Tcp(process.client)),
            Host::Thread(node) => Some(Place::Here(Arc::clone(node))),
        }
    }

    /// Where the stores find each other.
    pub fn raft_addresses(&self) -> Vec<(u64, String)> {
        let hosts = self.lock();
        let address = |(id, host): (&u64, &Host)| match host {
            Host::Process(process) => Some((*id, process.raft.clone())),
            Host::Thread(_) => None,
        };
        hosts.iter().filter_map(address).collect()
    }

    /// # Errors
    /// A process that ended by itself, with what it said last.
    pub fn check(&self) -> Outcome<()> {
        for (id, host) in self.lock().iter_mut() {
            if let Host::Process(process) = host
                && let Some(status) = process.child.try_wait()?
            {
                let said = std::fs::read_to_string(self.dir.join(format!("store-{id}.err")));
                let said = said.unwrap_or_default();
                let said = said.trim_end();
                return Err(format!("the process of store {id} ended: {status}\n{said}").into());
            }
        }
        Ok(())
    }

    /// Ends every store in good order.
    pub fn stop(&self) -> Outcome<()> {
        self.check()?;
        let mut hosts = std::mem::take(&mut *self.lock());
        for host in hosts.values_mut() {
            match host {
                Host::Process(process) => drop(process.child.stdin.take()),
                Host::Thread(node) => node.stop(),
            }
        }
        let deadline = Instant::now() + STOP_TIME;
        for (id, host) in hosts {
            let Host::Process(mut process) = host else {
                continue;
            };
            let status = loop {
                if let Some(status) = process.child.try_wait()? {
                    break status;
                }
                if Instant::now() > deadline {
                    return Err(format!("store {id} did not stop in {STOP_TIME:?}").into());
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            if !status.success() {
                return Err(format!("store {id} stopped with {status}").into());
            }
        }
        Ok(())
    }
}

impl Process {
    fn start(prefix: &[OsString], settings: &Settings) -> Outcome<Process> {
        let errors = settings.dir.with_extension("err");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(prefix).arg("node");
        command.arg(settings.store.to_string()).arg(&settings.dir);
        command.arg(settings.region_bytes_max.to_string());
        command.arg(log_name(settings.log));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut append = std::fs::OpenOptions::new();
        command.stderr(append.create(true).append(true).open(&errors)?);
        let child = command.spawn()?;
        // From here on it ends with this value.
        let mut process = Process {
            child,
            client: ([127, 0, 0, 1], 0).into(),
            raft: String::new(),
            is_frozen: false,
        };
        let output = process.child.stdout.take().ok_or("no output")?;
        let (sender, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(addresses) = line.strip_prefix(READY) {
                    let _ = sender.send(addresses.to_string());
                }
            }
        });
        let store = settings.store;
        let addresses = ready.recv_timeout(START_TIME).map_err(|e| {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            format!("store {store} was not ready in {START_TIME:?}: {e}\n{said}")
        })?;
        let (client, raft) = (addresses.trim().split_once(' ')).ok_or("two addresses expected")?;
        (process.client, process.raft) = (client.parse()?, raft.to_string());
        Ok(process)
    }

    fn signal(&self, signal: i32) -> Outcome<()> {
        let id = i32::try_from(self.child.id())?;
        // SAFETY: kill takes two numbers. The process is this one's child and has not been waited for,
        // so that its number is still its own.
        match unsafe { libc::kill(id, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is waited for at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
