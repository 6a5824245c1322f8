//! A client of the stores: connections, the map of the regions, and proposals that are repeated until
//! they are done. Uses: protocol, hosts.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerstore::{KvCommand, KvRefusal, KvReply};

use super::Outcome;
use super::hosts::{Hosts, Place};
use super::protocol::{
    Answer, Ask, Failure, Known, Propose, Reason, Request, Response, read_frame, write_frame,
};

/// So long without progress means that something is wrong.
pub const STANDSTILL: Duration = Duration::from_secs(60);
/// A store answers sooner, or is asked again on a new connection.
const IO_TIME: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
pub struct Directory {
    pub hosts: Hosts,
    routes: Mutex<Vec<Known>>,
    // Killed between the next proposal to it and the answer.
    trap: Mutex<Option<u64>>,
    pub repeated: Repeated,
}

/// Why proposals were made again, and how often.
#[derive(Default)]
pub struct Repeated {
    pub not_leader: AtomicU64,
    pub stale: AtomicU64,
    pub unanswered: AtomicU64,
    pub other: AtomicU64,
}

/// One thread's connections.
pub struct Client {
    directory: Arc<Directory>,
    connections: BTreeMap<u64, (SocketAddr, TcpStream)>,
}

/// Why there is no answer to work with.
#[derive(Debug)]
pub enum Refusal {
    /// The store is not there, or does not answer: it may have done what was asked.
    Unanswered(String),
    /// It says no.
    Failed(Failure),
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Unanswered(why) => write!(f, "no answer: {why}"),
            Refusal::Failed(failure) => f.write_str(&failure.text),
        }
    }
}

impl Directory {
    pub fn new(hosts: Hosts) -> Arc<Directory> {
        Arc::new(Directory {
            hosts,
            routes: Mutex::default(),
            trap: Mutex::default(),
            repeated: Repeated::default(),
        })
    }

    /// Kills `store` as soon as a proposal has been sent to it and before it is answered.
    pub fn set_trap(&self, store: u64) {
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    /// Whether it has happened.
    pub fn has_sprung(&self) -> bool {
        let trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        trap.is_none()
    }

    fn is_trapped(&self, store: u64) -> bool {
        let trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        *trap == Some(store)
    }

    fn spring(&self, store: u64) -> Outcome<()> {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        if *trap == Some(store) {
            self.hosts.kill(store)?;
            *trap = None;
        }
        Ok(())
    }

    pub fn client(self: &Arc<Self>) -> Client {
        Client {
            directory: Arc::clone(self),
            connections: BTreeMap::new(),
        }
    }

    /// The region of `key`, as far as is known.
    fn route(&self, key: &[u8]) -> Option<Known> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |known: &&Known| known.region.range().contains(key);
        routes.iter().find(holds).cloned()
    }

    fn set_leader(&self, region: u64, leader: Option<peerstore::Peer>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for known in routes.iter_mut().filter(|known| known.region.id == region) {
            known.leader = leader;
        }
    }
}

impl Client {
    /// Asks one store, once.
    pub fn ask(&mut self, store: u64, ask: Ask) -> Result<Answer, Refusal> {
        let place = self.directory.hosts.place(store);
        let answer = match place {
            None => Err(format!("store {store} is down")),
            Some(Place::Here(node)) => {
                let is_write = matches!(ask, Ask::Propose(_));
                match is_write && self.directory.is_trapped(store) {
                    true => {
                        drop(node);
                        spring(&self.directory, store);
                        Err(format!("store {store} was stopped"))
                    }
                    false => Ok(node.answer(ask)),
                }
            }
            Some(Place::Tcp(address)) => self.exchange(store, address, ask).map_err(|e| {
                self.connections.remove(&store);
                format!("store {store}: {e}")
            }),
        };
        match answer {
            Ok(Answer::Failure(failure)) => Err(Refusal::Failed(failure)),
            Ok(answer) => Ok(answer),
            Err(why) => Err(Refusal::Unanswered(why)),
        }
    }

    fn exchange(
        &mut self,
        store: u64,
        address: SocketAddr,
        ask: Ask,
    ) -> Result<Answer, std::io::Error> {
        let is_write = matches!(ask, Ask::Propose(_));
        if self.connections.get(&store).is_none_or(|c| c.0 != address) {
            let stream = TcpStream::connect_timeout(&address, IO_TIME)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(IO_TIME))?;
            stream.set_write_timeout(Some(IO_TIME))?;
            self.connections.insert(store, (address, stream));
        }
        let Some((_, stream)) = self.connections.get_mut(&store) else {
            return Err(std::io::ErrorKind::NotConnected.into());
        };
        write_frame(stream, &Request { ask: Some(ask) })?;
        let mut stream = stream;
        if is_write && self.directory.is_trapped(store) {
            spring(&self.directory, store);
        }
        let response: Response = read_frame(&mut stream)?;
        let nothing = || std::io::Error::other("an answer that is not understood");
        response.answer.ok_or_else(nothing)
    }

    /// What every store knows of its regions.
    pub fn survey(&mut self) -> BTreeMap<u64, Vec<Known>> {
        let mut all = BTreeMap::new();
        for store in self.directory.hosts.up() {
            if let Ok(Answer::Regions(regions)) = self.ask(store, Ask::Regions(())) {
                all.insert(store, regions.regions);
            }
        }
        all
    }

    /// Looks the regions up, and remembers them.
    pub fn refresh(&mut self) -> Vec<Known> {
        let routes = newest(self.survey().into_values().flatten().collect());
        let own = &self.directory.routes;
        *own.lock().unwrap_or_else(PoisonError::into_inner) = routes.clone();
        routes
    }

    /// Where `key` is written, as far as is known. The pause of a lookup that found nothing is taken.
    pub fn locate(&mut self, key: &[u8]) -> Option<Known> {
        if let Some(known) = self.directory.route(key)
            && known.leader.is_some()
        {
            return Some(known);
        }
        self.refresh();
        let found = self.directory.route(key).filter(|k| k.leader.is_some());
        if found.is_none() {
            std::thread::sleep(PAUSE);
        }
        found
    }

    /// Proposes `command` to a region that was located. False if it is to be located again.
    ///
    /// # Errors
    /// What will not become better: the region stopped, or the command is none.
    pub fn propose(&mut self, known: &Known, command: &KvCommand) -> Result<bool, String> {
        let region = known.region.id;
        let Some(leader) = known.leader else {
            return Ok(false);
        };
        let ask = Ask::Propose(Propose {
            region,
            version: known.region.region_epoch.version,
            command: command.encode(),
        });
        let refusal = match self.ask(leader.store_id, ask) {
            Ok(Answer::Reply(reply)) => match KvReply::decode(&reply) {
                Some(KvReply::Batch(_) | KvReply::Done) => return Ok(true),
                Some(KvReply::BatchRefused { because, .. }) if is_out_of_range(&because) => {
                    Reason::Stale
                }
                other => return Err(format!("region {region} answered {other:?}")),
            },
            Ok(other) => return Err(format!("region {region} answered {other:?}")),
            Err(Refusal::Unanswered(_)) => {
                count(&self.directory.repeated.unanswered);
                self.directory.set_leader(region, None);
                std::thread::sleep(PAUSE);
                return Ok(false);
            }
            Err(Refusal::Failed(failure)) => {
                if failure.reason() == Reason::NotLeader {
                    self.directory.set_leader(region, failure.leader);
                }
                if failure.reason() == Reason::Refused && failure.text.contains("was stopped:") {
                    return Err(failure.text);
                }
                failure.reason()
            }
        };
        let repeated = &self.directory.repeated;
        match refusal {
            Reason::NotLeader => count(&repeated.not_leader),
            Reason::Stale => {
                count(&repeated.stale);
                self.refresh();
            }
            Reason::Again | Reason::Refused => {
                count(&repeated.other);
                std::thread::sleep(PAUSE);
            }
        }
        Ok(false)
    }
}

fn spring(directory: &Directory, store: u64) {
    // One that could not be killed is found out: the trap stays.
    if let Err(error) = directory.spring(store) {
        eprintln!("store {store} could not be killed: {error}");
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn is_out_of_range(reply: &KvReply) -> bool {
    matches!(reply, KvReply::Refused(KvRefusal::OutOfRange { .. }))
}

/// Of what several stores know, the newest about every key: the younger region where two overlap, and
/// the leader of the highest term.
fn newest(mut all: Vec<Known>) -> Vec<Known> {
    all.retain(|known| known.region.is_initialized());
    all.sort_by_key(|known| {
        let epoch = known.region.region_epoch;
        let leads = known.is_leader;
        let key = (epoch.version, epoch.conf_ver, known.term, leads);
        std::cmp::Reverse((key, known.leader.is_some()))
    });
    let mut routes: Vec<Known> = Vec::new();
    for known in all {
        if let Some(same) = routes.iter_mut().find(|r| r.region.id == known.region.id) {
            let newer = known.term > same.term || same.leader.is_none();
            if newer && known.leader.is_some() {
                (same.leader, same.term) = (known.leader, known.term);
            }
            continue;
        }
        if !routes.iter().any(|r| overlap(r, &known)) {
            routes.push(known);
        }
    }
    routes.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
    routes
}

fn overlap(a: &Known, b: &Known) -> bool {
    let before = |a: &Known, b: &Known| {
        let end = &a.region.end_key;
        !end.is_empty() && *end <= b.region.start_key
    };
    !before(a, b) && !before(b, a)
}
