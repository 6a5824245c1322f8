//! Sending the file of a snapshot: a connection of its own, chunk by chunk, as the receiver allows.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Instant;

use super::download::CHUNK_BYTES;
use super::frame::{HANDSHAKE_BYTES_MAX, Kind, begin, finish};
use super::gate::Ticket;
use super::hello::Purpose;
use super::reason::{Reason, Refusal};
use super::shared::{Connection, Shared, lock};
use crate::snapshot_store::{SnapshotFile, SnapshotKey};
use crate::transport::StoreMessage;

/// A snapshot that is to be sent.
pub(super) struct Job {
    pub to: u64,
    pub message: StoreMessage,
    pub key: SnapshotKey,
    pub ticket: Ticket,
}

/// Queues the job, and gives it a thread if there are not enough yet. What cannot be queued is dropped,
/// which reports it.
pub(super) fn queue(shared: &Arc<Shared>, job: Job) {
    let mut uploads = lock(&shared.uploads);
    if uploads.waiting.len() >= shared.options.snapshots_queued_max || shared.is_stopped() {
        drop(uploads);
        return shared.counters.snapshots_failed.add(1);
    }
    uploads.waiting.push_back(job);
    if uploads.running >= shared.options.snapshots_sent_at_once {
        return;
    }
    uploads.running += 1;
    drop(uploads);
    let worker = Worker {
        shared: Arc::clone(shared),
        is_counted: true,
    };
    if !shared.spawn("peerstore-upload", move || worker.run()) {
        let unsent = lock(&shared.uploads).waiting.pop_back();
        shared
            .counters
            .snapshots_failed
            .add(unsent.iter().len() as u64);
    }
}

/// Drops what waits: none of it is sent.
pub(super) fn give_up(shared: &Shared) {
    let waiting = std::mem::take(&mut lock(&shared.uploads).waiting);
    shared.counters.snapshots_failed.add(waiting.len() as u64);
}

/// A thread that sends snapshots until none waits.
struct Worker {
    shared: Arc<Shared>,
    // Whether it is one of those that run.
    is_counted: bool,
}

impl Worker {
    fn run(mut self) {
        loop {
            let mut uploads = lock(&self.shared.uploads);
            let Some(job) = uploads.waiting.pop_front() else {
                // Under the lock: who queues a job now sees that it needs another thread.
                uploads.running -= 1;
                self.is_counted = false;
                return;
            };
            drop(uploads);
            let counters = &self.shared.counters;
            match send(&self.shared, &job) {
                Ok(()) => {
                    counters.snapshots_sent.add(1);
                    job.ticket.finish();
                }
                Err(refusal) => {
                    counters.snapshots_failed.add(1);
                    if !self.shared.is_stopped() {
                        let name = format!("snapshots to store {}", job.to);
                        counters.end(&name, &refusal);
                    }
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_counted {
            lock(&self.shared.uploads).running -= 1;
        }
    }
}

/// Sends one; it has arrived whole if this returns without an error.
fn send(shared: &Arc<Shared>, job: &Job) -> Result<(), Refusal> {
    let stopped = || Refusal::new(Reason::Stopped, "the transport was stopped");
    let in_file = |e: &dyn std::fmt::Display| Refusal::new(Reason::File, e.to_string());
    let snapshots = match shared.gate.enter() {
        Some(inside) => Arc::clone(&inside.ends.snapshots),
        None => return Err(stopped()),
    };
    let mut file = snapshots.send(&job.key).map_err(|e| in_file(&e))?;
    let size = file.seek(SeekFrom::End(0)).map_err(|e| in_file(&e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| in_file(&e))?;
    let mut connection = shared.dial(job.to, Purpose::Snapshot)?;
    let mut buffer = Vec::new();
    let start = begin(&mut buffer);
    buffer.push(Kind::Offer as u8);
    buffer.extend_from_slice(&size.to_le_bytes());
    let encoded = job.message.encode(&mut buffer);
    encoded.map_err(|e| Refusal::new(Reason::Message, e.to_string()))?;
    if buffer.len() - start > connection.limits.frame_bytes_max as usize {
        let detail = format!("the message of the snapshot has {} bytes", buffer.len());
        return Err(Refusal::new(Reason::TooLong, detail));
    }
    finish(&mut buffer, start);
    connection.allow(shared.options.io_timeout);
    connection.write(&buffer)?;
    connection.allow(shared.options.snapshot_timeout);
    let (mut credit, offset) = match answer(&mut connection)? {
        Answer::Accept { credit, offset } if offset <= size => (u64::from(credit), offset),
        other => return Err(unexpected(&other)),
    };
    // The receiver has what is before it of an earlier try.
    let start = SeekFrom::Start(offset);
    file.seek(start).map_err(|e| in_file(&e))?;
    let left = size - offset;
    send_chunks(shared, &mut connection, &mut *file, left, &mut credit)?;
    connection.allow(shared.options.snapshot_timeout);
    loop {
        match answer(&mut connection)? {
            Answer::Done => return Ok(()),
            Answer::Grant(_) => {}
            other => return Err(unexpected(&other)),
        }
    }
}

fn send_chunks(
    shared: &Shared,
    connection: &mut Connection,
    file: &mut dyn SnapshotFile,
    mut left: u64,
    credit: &mut u64,
) -> Result<(), Refusal> {
    let mut buffer = Vec::new();
    while left > 0 {
        let part = left.min(CHUNK_BYTES as u64);
        while *credit < part {
            connection.allow(shared.options.idle_timeout);
            match answer(connection)? {
                Answer::Grant(more) => *credit += u64::from(more),
                other => return Err(unexpected(&other)),
            }
        }
        buffer.clear();
        let start = begin(&mut buffer);
        buffer.push(Kind::Chunk as u8);
        let content = buffer.len();
        buffer.resize(content + part as usize, 0);
        (file.read_exact(&mut buffer[content..]))
            .map_err(|e| Refusal::new(Reason::File, e.to_string()))?;
        finish(&mut buffer, start);
        connection.allow(shared.options.io_timeout);
        connection.write(&buffer)?;
        (*credit, left) = (*credit - part, left - part);
        shared.counters.snapshot_bytes_sent.add(part);
        let pause = lock(&shared.rate).take(Instant::now(), part as usize);
        (shared.counters.snapshot_pauses_us).add(pause.as_micros() as u64);
        if !pause.is_zero() && shared.pause(pause) {
            return Err(Refusal::new(Reason::Stopped, "the transport was stopped"));
        }
    }
    Ok(())
}

/// What a receiver says.
#[derive(Debug)]
enum Answer {
    Accept { credit: u32, offset: u64 },
    Grant(u32),
    Done,
}

/// Waits for what the receiver says next.
fn answer(connection: &mut Connection) -> Result<Answer, Refusal> {
    let payload = connection.read(HANDSHAKE_BYTES_MAX)?;
    let (&kind, rest) = payload.split_first().unwrap_or((&0, &[]));
    match (kind, rest) {
        (_, [a, b, c, d, offset @ ..]) if kind == Kind::Accept as u8 => {
            let offset = match offset {
                [] => Some(0),
                offset => offset.try_into().ok().map(u64::from_le_bytes),
            };
            let credit = u32::from_le_bytes([*a, *b, *c, *d]);
            let accept = offset.map(|offset| Answer::Accept { credit, offset });
            accept.ok_or_else(|| {
                let detail = format!("an accept of {} bytes, expected 5 or 13", payload.len());
                Refusal::new(Reason::Protocol, detail)
            })
        }
        (_, [a, b, c, d]) if kind == Kind::Grant as u8 => {
            Ok(Answer::Grant(u32::from_le_bytes([*a, *b, *c, *d])))
        }
        (_, []) if kind == Kind::Done as u8 => Ok(Answer::Done),
        (_, [code, detail @ ..]) if kind == Kind::Refuse as u8 => {
            Err(Refusal::decode(*code, detail))
        }
        _ => {
            let detail = format!("a frame of kind {kind}, {} bytes", payload.len());
            Err(Refusal::new(Reason::Protocol, detail))
        }
    }
}

fn unexpected(answer: &Answer) -> Refusal {
    Refusal::new(Reason::Protocol, format!("{answer:?} does not belong here"))
}
