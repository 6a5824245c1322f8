//! Clients that do not know better: they ask a store that may lead, for a region that may be gone.

use peerstore::{Error, KvCommand, KvReply, Reader, Region, Ticket};

use crate::history::{Answer, Op};
use crate::world::World;

/// How many there are, each with one call at a time.
pub const CLIENTS: usize = 4;
/// Words are put and swapped, numbers added to.
const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "n1", "n2", "n3", "n4"];

#[derive(Default)]
pub struct Client {
    call: Option<Call>,
    /// What it last heard of a region and its leader.
    believes: Option<(u64, Region)>,
    done: u64,
}

struct Call {
    key: &'static str,
    number: usize,
    ticket: Waits,
    deadline: u64,
}

enum Waits {
    Write(Ticket<Vec<u8>>),
    Read(Ticket<Reader>),
}

pub fn keys() -> &'static [&'static str] {
    &KEYS
}

impl World {
    /// Lets a client begin something, if it has nothing open.
    pub fn begin_call(&mut self, client: usize) {
        if self.clients[client].call.is_some() {
            return;
        }
        let Some(key) = self.dice.pick(&KEYS) else {
            return;
        };
        if self.history.is_worn(key) {
            return;
        }
        let op = self.draw_op(client, key);
        self.call(client, key, op);
    }

    pub fn call(&mut self, client: usize, key: &'static str, op: Op) {
        let Some((at, region)) = self.whom_to_ask(client, key) else {
            return;
        };
        let Some(store) = self.nodes[at].store() else {
            return;
        };
        let number = self.history.begin(key, op.clone());
        let id = region.region_id();
        let ticket = match command(key, &op) {
            None => Waits::Read(store.read(id)),
            Some(command) if self.dice.happens(700) => {
                Waits::Write(store.propose_at(id, region.region_epoch, command.encode()))
            }
            Some(command) => Waits::Write(store.propose(id, command.encode())),
        };
        let patience = self.dice.between(20, 80);
        let deadline = self.round + patience;
        self.clients[client].call = Some(Call {
            key,
            number,
            ticket,
            deadline,
        });
        let store = self.nodes[at].id;
        self.note(format!(
            "client {client} asks {store}/{id} for {key}: call {number}"
        ));
    }

    fn draw_op(&mut self, client: usize, key: &str) -> Op {
        self.clients[client].done += 1;
        if self.dice.happens(350) {
            return Op::Get;
        }
        if key.starts_with('n') {
            return Op::Add(self.dice.between(1, 9) as i64);
        }
        let word = |client: usize, n: u64, width: usize| {
            format!("{client}-{n}-{}", ".".repeat(width)).into_bytes()
        };
        let width = self.dice.below(24);
        let new = word(client, self.clients[client].done, width);
        if self.dice.happens(600) {
            return Op::Put(new);
        }
        // What somebody last saw is worth a try.
        let expected = self.seen.get(key).cloned().flatten();
        Op::Swap { expected, new }
    }

    /// A running store and a region that may hold `key` there.
    fn whom_to_ask(&mut self, client: usize, key: &str) -> Option<(usize, Region)> {
        let believed = self.clients[client].believes.clone();
        if let Some((store, region)) = believed
            && region.range().contains(key.as_bytes())
            && self.dice.happens(700)
        {
            let at = self.nodes.iter().position(|n| n.id == store)?;
            return Some((at, region));
        }
        let at = self.dice.below(self.nodes.len());
        let status = self.nodes[at].store()?.region_of(key.as_bytes())?;
        let leader = status.leader.map_or(self.nodes[at].id, |l| l.store_id);
        let asked = match self.dice.happens(800) {
            true => self.nodes.iter().position(|n| n.id == leader)?,
            false => at,
        };
        self.clients[client].believes = Some((self.nodes[asked].id, status.region.clone()));
        Some((asked, status.region))
    }

    /// Hears what has become of open calls.
    pub fn hear_answers(&mut self) {
        for client in 0..self.clients.len() {
            let Some(call) = &mut self.clients[client].call else {
                continue;
            };
            let (key, number) = (call.key, call.number);
            let answer = match &mut call.ticket {
                Waits::Write(ticket) => ticket.try_take().map(|r| r.and_then(|b| written(&b))),
                Waits::Read(ticket) => ticket.try_take().map(|r| {
                    let value = r.and_then(|reader| reader.get(key.as_bytes()));
                    value.map(|v| Some(Answer::Value(v)))
                }),
            };
            let late = self.round >= call.deadline;
            let Some(answer) = answer else {
                if late {
                    self.clients[client].call = None;
                    self.clients[client].believes = None;
                    self.history.lost(key, number);
                    self.count("calls without an answer");
                    self.note(format!("client {client} gives up call {number} on {key}"));
                }
                continue;
            };
            self.clients[client].call = None;
            self.answered(client, (key, number), answer);
        }
    }

    fn answered(
        &mut self,
        client: usize,
        (key, number): (&'static str, usize),
        answer: Result<Option<Answer>, Error>,
    ) {
        match answer {
            Ok(Some(answer)) => {
                self.note(format!(
                    "client {client} hears {number} on {key}: {answer:?}"
                ));
                if let Answer::Value(value) | Answer::NotSwapped(value) = &answer {
                    self.seen.insert(key.to_owned(), value.clone());
                }
                self.history.answered(key, number, answer);
                self.count("calls answered");
            }
            Ok(None) => {
                self.history.failed(key, number);
                self.count("calls refused");
            }
            Err(error) => {
                self.clients[client].believes = None;
                self.note(format!("client {client} fails {number} on {key}: {error}"));
                if matches!(error, Error::Uncertain { .. } | Error::StoreStopped) {
                    self.history.lost(key, number);
                    self.count("calls uncertain");
                } else {
                    self.history.failed(key, number);
                    self.count("calls refused");
                }
            }
        }
    }

    pub fn is_calling(&self) -> bool {
        self.clients.iter().any(|c| c.call.is_some())
    }
}

fn command(key: &str, op: &Op) -> Option<KvCommand> {
    Some(match op.clone() {
        Op::Get => return None,
        Op::Put(value) => KvCommand::put(key, value),
        Op::Add(by) => KvCommand::Increment {
            key: key.into(),
            by,
        },
        Op::Swap { expected, new } => KvCommand::CompareAndSwap {
            key: key.into(),
            expected,
            new: Some(new),
        },
    })
}

/// What the state machine says; nothing if it has not done anything.
fn written(bytes: &[u8]) -> Result<Option<Answer>, Error> {
    Ok(match KvReply::decode(bytes) {
        Some(KvReply::Done) => Some(Answer::Done),
        Some(KvReply::Swapped) => Some(Answer::Swapped),
        Some(KvReply::NotSwapped { present }) => Some(Answer::NotSwapped(present)),
        Some(KvReply::Incremented(sum)) => Some(Answer::Sum(sum)),
        Some(KvReply::Refused(_)) => None,
        other => panic!("not an answer to what was asked: {other:?}"),
    })
}
