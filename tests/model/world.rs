//! Two nodes, and what a command does to one of them: to the storage and to the model.

use std::time::Duration;

use peerstore::{ApplyBatch, Config, Error, LogPosition, RaftSnapshotData, Result};
use raft::Ready;
use raft::eraftpb::{Entry, Snapshot};

use crate::checks::Numbers;
use crate::commands::{At, Bytes, Command, News, Op};
use crate::node::{Batch, Node, StagedReady, create, new_region};
use crate::nodes::Backends;
use crate::readies;
use crate::region::{Effect, Kv, Log, Region, applied, conf, effect};

/// More than any of them takes.
const LIMIT: Duration = Duration::from_secs(60);
/// The largest peer id that the configurations know.
const PEER_MAX: u64 = 9;

pub struct World {
    nodes: Vec<Node>,
    snapshots: Vec<Taken>,
    numbers: Numbers,
}

/// A snapshot that was built, with its file and what it is of.
#[derive(Clone)]
struct Taken {
    at: At,
    snapshot: Snapshot,
    file: Option<Vec<u8>>,
    conf_ver: u64,
    kv: Kv,
}

/// What a call answered, and what the regions are if it was carried out.
type Outcome = (Result<()>, Vec<Region>);

impl World {
    pub fn new(backends: Backends, config: &Config) -> Self {
        World {
            nodes: [1, 2]
                .map(|store| Node::new(backends, config, store))
                .into(),
            snapshots: Vec::new(),
            numbers: Numbers(1),
        }
    }

    pub fn run(&mut self, command: Command) {
        let n = match command {
            Command::Do(n, op) => {
                let (result, after) = self.call(n, op);
                result.expect("nothing was made to fail");
                self.nodes[n].regions = after;
                n
            }
            Command::Crash(n, kept) => {
                let regions = self.nodes[n].regions.clone();
                self.nodes[n].crash(kept, &[regions]);
                n
            }
            Command::Fail {
                node: n,
                op,
                on_log,
                fault,
                kept,
            } => {
                let site = &self.nodes[n].site;
                if on_log {
                    site.log.fail_next_write(fault);
                } else {
                    site.data.fail_next_write(fault);
                }
                let before = self.nodes[n].regions.clone();
                let all_or_nothing = op.is_all_or_nothing();
                let (result, after) = self.call(n, op);
                match result {
                    Ok(()) => self.nodes[n].crash(kept, &[after]),
                    Err(error) => {
                        let injected = matches!(
                            error,
                            Error::DiskFull { .. } | Error::Io { .. } | Error::Poisoned { .. }
                        );
                        assert!(injected, "{error}");
                        if all_or_nothing {
                            self.nodes[n].check(&mut self.numbers);
                        }
                        let mut after = after;
                        (after.iter_mut().zip(&before)).for_each(|(a, b)| a.may_not_be_synced(b));
                        self.nodes[n].crash(kept, &[before, after]);
                    }
                }
                n
            }
        };
        self.nodes[n].check(&mut self.numbers);
    }

    fn call(&mut self, n: usize, op: Op) -> Outcome {
        let node = &mut self.nodes[n];
        match op {
            Op::Append { at, back, entries } => node.append(at, back, entries),
            Op::Vote { at, bump, vote } => node.vote(at, bump, vote),
            Op::Commit { at, by } => node.commit(at, by),
            Op::Conf { at, n } => node.conf(at, n),
            Op::Compact { at, share } => node.compact(at, share),
            Op::Apply { at, count } => node.apply(at, count),
            Op::Advance { at, count } => node.advance(at, count),
            Op::Ready { at, news, alone } => {
                let taken = match news {
                    News::Snapshot { which } => self.taken(at, which),
                    _ => None,
                };
                self.nodes[n].ready(at, news, taken, alone)
            }
            Op::Write => node.write(),
            Op::Persisted => node.persisted(),
            Op::Snapshot { at } => self.snapshot(n, at),
            Op::Install { at, which } => match self.taken(at, which) {
                Some(taken) => self.nodes[n].install(at, &taken),
                None => self.nodes[n].nothing(),
            },
            Op::CompactCache { at, share } => node.compact_cache(at, share),
            Op::Recreate { at, initialized } => node.recreate(at, initialized),
        }
    }

    fn taken(&self, at: At, which: u8) -> Option<Taken> {
        let of_region: Vec<_> = self.snapshots.iter().filter(|s| s.at == at).collect();
        let which = usize::from(which).checked_rem(of_region.len())?;
        Some(of_region[which].clone())
    }

    fn snapshot(&mut self, n: usize, at: At) -> Outcome {
        let node = &mut self.nodes[n];
        let region = node.regions[at].clone();
        let open = node.open.as_mut().expect("the node is open");
        if open.is_installing(at) || !region.initialized {
            return node.nothing();
        }
        let snapshot = open.storage(at).wait_snapshot(LIMIT).expect("snapshot");
        let metadata = snapshot.get_metadata();
        let kv = region.now();
        assert_eq!(metadata.index, kv.applied, "index of the snapshot");
        assert_eq!(Some(metadata.term), region.term(kv.applied));
        assert_eq!(metadata.get_conf_state(), &kv.conf);
        let data = RaftSnapshotData::of_snapshot(region.id.into(), &snapshot);
        let data = data.expect("its data").expect("it has data");
        let file = data.needs_transfer().then(|| {
            let mut file = Vec::new();
            let sent = open.node.snapshots().send(&data.key(&snapshot));
            std::io::copy(&mut sent.expect("send"), &mut file).expect("read the file");
            file
        });
        self.snapshots.push(Taken {
            at,
            conf_ver: data.region.region_epoch.conf_ver,
            kv: Kv {
                truncated: LogPosition::new(metadata.term, metadata.index),
                ..kv.clone()
            },
            snapshot,
            file,
        });
        self.nodes[n].nothing()
    }
}

fn position(taken: &Taken) -> LogPosition {
    taken.kv.truncated
}

/// `share` of 255 of the way from `low` to `high`.
fn between(low: u64, high: u64, share: u8) -> u64 {
    low + (high - low) * u64::from(share) / 255
}

fn entries(first: u64, term: u64, data: Bytes) -> Vec<Entry> {
    let entry = |(index, data): (u64, Vec<u8>)| Entry {
        index,
        term,
        data: data.into(),
        ..Entry::default()
    };
    (first..).zip(data).map(entry).collect()
}

fn log_synced(regions: &mut [Region]) {
    regions.iter_mut().for_each(Region::log_synced);
}

fn kv_synced(regions: &mut [Region]) {
    regions.iter_mut().for_each(Region::kv_synced);
}

impl Region {
    /// Where new entries may begin, `back` behind the end if the commit allows it.
    fn first_new(&self, back: u8) -> u64 {
        let free = self.visible.last - self.visible.hard.commit;
        self.visible.last + 1 - free.min(u64::from(back))
    }

    /// The log behind an installed snapshot.
    fn installed(&mut self, taken: &Taken, log: Log) {
        self.initialized = true;
        self.kv.push(taken.kv.clone());
        self.visible = log.clone();
        self.durable = log;
    }
}

impl Node {
    fn nothing(&self) -> Outcome {
        (Ok(()), self.regions.clone())
    }

    /// What a region refuses while Readies of it are in flight.
    fn refused(&self, result: Result<()>) -> Outcome {
        let refused = matches!(result, Err(Error::InvalidArgument { .. }));
        assert!(refused, "staged writes are in flight, got {result:?}");
        self.nothing()
    }

    fn append(&mut self, at: At, back: u8, data: Bytes) -> Outcome {
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let entries = entries(region.first_new(back), region.visible.hard.term, data);
        let result = self.open().storage(at).append(&entries);
        if self.open().is_busy(at) {
            return self.refused(result);
        }
        region.visible.append(&entries);
        region.durable = region.visible.clone();
        log_synced(&mut after);
        (result, after)
    }

    fn vote(&mut self, at: At, bump: u8, vote: u8) -> Outcome {
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let hard = &mut region.visible.hard;
        let old = hard.clone();
        (hard.term, hard.vote) = (hard.term + u64::from(bump), u64::from(vote));
        let (hard, changed) = (hard.clone(), (old.term, old.vote) != (hard.term, hard.vote));
        let result = self.open().storage(at).set_hard_state(&hard);
        if self.open().is_busy(at) {
            return self.refused(result);
        }
        region.durable = region.visible.clone();
        if changed {
            log_synced(&mut after);
        }
        (result, after)
    }

    fn commit(&mut self, at: At, by: u8) -> Outcome {
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let commit = region.visible.hard.commit + u64::from(by);
        region.visible.hard.commit = commit.min(region.visible.last);
        let result = (self.open().storage(at)).set_hard_state(&region.visible.hard);
        if self.open().is_busy(at) {
            return self.refused(result);
        }
        region.durable = region.visible.clone();
        (result, after)
    }

    fn conf(&mut self, at: At, n: u8) -> Outcome {
        if self.open().is_installing(at) {
            return self.nothing();
        }
        let mut after = self.regions.clone();
        let kv = Kv {
            conf: conf(n),
            ..after[at].now().clone()
        };
        let result = self.open().storage(at).set_conf_state(&kv.conf);
        if kv != *after[at].now() {
            after[at].push_kv(kv);
            kv_synced(&mut after);
        }
        (result, after)
    }

    fn compact(&mut self, at: At, share: u8) -> Outcome {
        if self.open().is_installing(at) {
            return self.nothing();
        }
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let beyond = self.open().storage(at).compact(region.visible.last + 2);
        assert!(
            matches!(beyond, Err(Error::Unavailable { .. })),
            "{beyond:?}"
        );
        let kv = region.now();
        let dropped = between(kv.truncated.index, kv.applied, share);
        let term = region.term(dropped).expect("it is in the log");
        let result = self.open().storage(at).compact(dropped + 1);
        if dropped > kv.truncated.index {
            let log = self.open.as_ref().expect("the node is open").node.log();
            let entry = log.read_entry(region.id.into(), dropped);
            let is_gone = result.is_err() || matches!(entry, Ok(None));
            assert!(is_gone, "entry {dropped} still takes space");
            let truncated = LogPosition::new(term, dropped);
            region.push_kv(Kv {
                truncated,
                ..kv.clone()
            });
            kv_synced(&mut after);
        }
        (result, after)
    }

    /// How far may be applied.
    fn apply_until(&mut self, at: At, count: u8) -> u64 {
        let persisted = self.open().storage(at).persisted_index();
        let region = &self.regions[at];
        let kv = region.now();
        let limit = region.visible.hard.commit.min(persisted);
        (kv.applied + u64::from(count)).min(limit).max(kv.applied)
    }

    fn apply(&mut self, at: At, count: u8) -> Outcome {
        if self.open().is_installing(at) || !self.regions[at].initialized {
            return self.nothing();
        }
        let until = self.apply_until(at, count);
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let (id, kv) = (region.id, region.now());
        let entries = region.entries(kv.applied + 1, until + 1);
        let put = |entry: &Entry, batch: &mut ApplyBatch| {
            match effect(id, entry) {
                Effect::Put(key, value) => batch.put(key, value),
                Effect::Delete(key) => batch.delete(key),
                Effect::Conf(conf) => batch.set_conf_state(conf),
                Effect::Nothing => {}
            }
            Ok(())
        };
        let kv = applied(id, kv, &entries);
        let is_conf = |entry: &Entry| matches!(effect(id, entry), Effect::Conf(_));
        let result = self.open().storage(at).apply(&entries, put);
        if entries.is_empty() {
            return (result, after);
        }
        region.push_kv(kv);
        if entries.iter().any(is_conf) {
            kv_synced(&mut after);
        }
        (result, after)
    }

    fn advance(&mut self, at: At, count: u8) -> Outcome {
        if self.open().is_installing(at) {
            return self.nothing();
        }
        let mut after = self.regions.clone();
        let kv = Kv {
            applied: self.apply_until(at, count),
            ..after[at].now().clone()
        };
        let result = self.open().storage(at).advance_applied(kv.applied);
        if kv.applied > after[at].now().applied {
            after[at].push_kv(kv);
            kv_synced(&mut after);
        }
        (result, after)
    }

    fn news(&self, at: At, news: News, taken: Option<&Taken>) -> Option<Ready> {
        let region = &self.regions[at];
        let hard = &region.visible.hard;
        match news {
            News::Append {
                back,
                entries: data,
                commit,
            } => {
                let first = region.first_new(back);
                let replaces = first <= region.visible.last;
                let term = (hard.term + u64::from(replaces)).max(1);
                let entries = entries(first, term, data);
                readies::append(region, term, &entries, hard.commit + u64::from(commit))
            }
            News::Vote { by } => readies::vote(region, u64::from(by)),
            News::Commit { by } => {
                let commit = hard.commit + u64::from(by);
                readies::heartbeat(region, commit.min(region.visible.last))
            }
            News::Snapshot { .. } => readies::snapshot(region, &taken?.snapshot),
        }
    }

    fn ready(&mut self, at: At, news: News, taken: Option<Taken>, alone: bool) -> Outcome {
        if self.open().is_installing(at) {
            return self.nothing();
        }
        let Some(mut ready) = self.news(at, news, taken.as_ref()) else {
            return self.nothing();
        };
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let mut log = region.visible.clone();
        let is_install = !ready.snapshot().is_empty();
        if let (true, Some(taken)) = (is_install, &taken) {
            self.receive(taken);
            let index = position(taken).index;
            (log.entries, log.last) = (Default::default(), index);
        }
        log.append(ready.entries());
        log.hard = ready.hs().cloned().unwrap_or(log.hard);
        let must_sync = is_install || ready.must_sync();
        let busy = self.open().is_busy(at);
        region.visible = log.clone();
        if let (true, Some(taken)) = (is_install, &taken) {
            region.installed(taken, log.clone());
        }
        if is_install && busy {
            let result = self.open().storage(at).persist(&mut ready);
            let refused = matches!(result, Err(Error::SnapshotRefused { .. }));
            assert!(refused, "staged writes are in flight, got {result:?}");
            return self.nothing();
        }
        if alone {
            let result = self.open().storage(at).persist(&mut ready);
            if busy {
                return self.refused(result);
            }
            region.durable = region.visible.clone();
            if must_sync {
                log_synced(&mut after);
            }
            if is_install {
                kv_synced(&mut after);
            }
            return (result, after);
        }
        if is_install {
            // What it needs is durable now; the log follows when the node is opened, at the latest.
            region.log_synced();
            kv_synced(&mut after);
        }
        let result = self.stage(at, &mut ready, log, is_install);
        (result, after)
    }

    fn stage(&mut self, at: At, ready: &mut Ready, after: Log, is_install: bool) -> Result<()> {
        let open = self.open();
        let mut batch = std::mem::take(&mut open.filling);
        let staged = open.storage(at).stage(ready, &mut batch.log);
        let staged = staged.map(|token| {
            batch.staged.push(StagedReady {
                at,
                token,
                after,
                is_install,
            });
        });
        open.filling = batch;
        staged
    }

    fn write(&mut self) -> Outcome {
        let mut after = self.regions.clone();
        let open = self.open();
        let batch = std::mem::take(&mut open.filling);
        let result = open.node.write_log(&batch.log);
        for staged in &batch.staged {
            after[staged.at].durable = staged.after.clone();
        }
        if batch.log.durability() == peerstore::Durability::Synced {
            log_synced(&mut after);
        }
        open.written.push_back(batch);
        (result, after)
    }

    fn persisted(&mut self) -> Outcome {
        let mut after = self.regions.clone();
        let open = self.open();
        let Some(Batch { staged, .. }) = open.written.pop_front() else {
            return self.nothing();
        };
        let mut result = Ok(());
        for staged in staged {
            if staged.is_install {
                kv_synced(&mut after);
            }
            result = result.and(open.storage(staged.at).persisted(staged.token));
        }
        (result, after)
    }

    /// Takes in the file of a snapshot that does not travel in the message.
    fn receive(&mut self, taken: &Taken) {
        let Some(file) = &taken.file else { return };
        let mut receiver = self.open().node.snapshots().receive().expect("receive");
        std::io::copy(&mut &file[..], &mut receiver).expect("write the file");
        receiver.commit().expect("commit the file");
    }

    fn install(&mut self, at: At, taken: &Taken) -> Outcome {
        if self.open().is_installing(at) {
            return self.nothing();
        }
        self.receive(taken);
        let mut after = self.regions.clone();
        let region = &mut after[at];
        let LogPosition { term, index } = position(taken);
        let busy = self.open().is_busy(at);
        let storage = self.open().storage(at);
        let is_older = taken.conf_ver < storage.region().region_epoch.conf_ver;
        let is_older = is_older && index <= region.now().applied;
        let result = storage.install_snapshot(taken.snapshot.clone());
        if index <= region.now().truncated.index {
            let refused = matches!(result, Err(Error::SnapshotOutOfDate { .. }));
            assert!(refused, "at {index}: {result:?}");
            return self.nothing();
        }
        if busy || is_older {
            let refused = matches!(result, Err(Error::SnapshotRefused { .. }));
            assert!(refused, "busy: {busy}, older: {is_older}: {result:?}");
            return self.nothing();
        }
        let mut log = Log {
            last: index,
            ..Log::default()
        };
        log.hard = region.visible.hard.clone();
        (log.hard.term, log.hard.commit) = (log.hard.term.max(term), index);
        region.installed(taken, log);
        log_synced(&mut after);
        kv_synced(&mut after);
        (result, after)
    }

    fn compact_cache(&mut self, at: At, share: u8) -> Outcome {
        let region = &self.regions[at];
        let (low, high) = (region.now().truncated.index, region.visible.last);
        let index = between(low, high, share);
        self.open().storage(at).compact_cache(index);
        self.nothing()
    }

    fn recreate(&mut self, at: At, initialized: bool) -> Outcome {
        let peer = self.regions[at].peer + 2;
        if self.open().is_busy(at) || peer > PEER_MAX {
            return self.nothing();
        }
        let mut after = self.regions.clone();
        after[at] = new_region(at, peer, initialized);
        log_synced(&mut after);
        kv_synced(&mut after);
        let store = self.store;
        let open = self.open();
        let old = open.storages[at].take().expect("the region is open");
        let created = old
            .destroy()
            .and_then(|()| create(&open.node, store, at, &after[at]));
        let result = created.map(|storage| open.storages[at] = Some(storage));
        (result, after)
    }
}
