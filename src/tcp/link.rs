//! The connection that brings messages to one store: one thread, made when there is something to say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{HANDSHAKE_BYTES_MAX, HEAD_BYTES, Kind, begin, finish, frame};
use super::hello::Purpose;
use super::queue::{Queue, Queued, Waited};
use super::reason::{Reason, Refusal};
use super::shared::{Connection, Shared};
use crate::snapshot_format::random_number;

/// About how many bytes of messages are taken from the queue at once.
const BATCH_BYTES: usize = 1 << 20;
/// A frame with messages of so many bytes takes no further one.
const FRAME_BYTES: usize = 256 << 10;
/// How often the answer to a ping is looked for.
const POLL: Duration = Duration::from_millis(5);
/// A connection on which nothing was sent for so long is looked at before it is used.
const STALE: Duration = Duration::from_millis(20);

/// One thread's work: to bring the messages of `queue` to `store`.
pub(super) struct Link {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    store: u64,
    name: String,
    failures: u32,
    batch: Vec<Queued>,
    buffer: Vec<u8>,
}

/// What a connection owes us, and when it was used last.
struct Pulse {
    every: Duration,
    next_ping: Instant,
    pinged: Option<Instant>,
    used: Instant,
}

impl Link {
    pub fn new(shared: &Arc<Shared>, queue: &Arc<Queue>, store: u64) -> Link {
        Link {
            shared: Arc::clone(shared),
            queue: Arc::clone(queue),
            store,
            name: format!("store {store}"),
            failures: 0,
            batch: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Until the transport is stopped: waits for messages, opens a connection, sends until that ends.
    pub fn run(mut self) {
        while self.queue.wait(None) != Waited::Stopped {
            let dialled = self.shared.dial(self.store, Purpose::Messages);
            let refusal = match dialled {
                Ok(connection) => self.talk(connection),
                Err(refusal) => {
                    self.failures = self.failures.max(1);
                    refusal
                }
            };
            self.lose_batch();
            if self.shared.is_stopped() {
                break;
            }
            self.shared.counters.end(&self.name, &refusal);
            self.back_off();
        }
        self.batch.extend(self.queue.stop());
        self.lose_batch();
    }

    /// Sends until the connection ends; why it did.
    fn talk(&mut self, mut connection: Connection) -> Refusal {
        self.queue.reached();
        let (start, keepalive) = (Instant::now(), self.shared.options.keepalive);
        // The other side gives up after its idle time: it is to hear from us three times in it.
        let idle = Duration::from_millis(u64::from(connection.limits.idle_ms));
        let every = keepalive.min(idle / 3).max(Duration::from_millis(1));
        let mut pulse = Pulse {
            every,
            next_ping: start + every,
            pinged: None,
            used: start,
        };
        let refusal = loop {
            match self.step(&mut connection, &mut pulse) {
                Ok(()) => {}
                Err(refusal) => break refusal,
            }
        };
        // One that lived long may be opened again at once: its store was restarted, perhaps.
        if start.elapsed() >= self.shared.options.backoff_max {
            self.failures = 0;
            self.shared.counters.forget(&self.name);
        }
        refusal
    }

    /// Waits for something to do, and does it.
    fn step(&mut self, connection: &mut Connection, pulse: &mut Pulse) -> Result<(), Refusal> {
        let until = match pulse.pinged {
            None => pulse.next_ping,
            Some(_) => Instant::now() + POLL,
        };
        let waited = self.queue.wait(Some(until));
        if waited == Waited::Stopped {
            return Err(Refusal::new(Reason::Stopped, "the transport was stopped"));
        }
        let now = Instant::now();
        if pulse.pinged.is_some() || now - pulse.used > STALE {
            listen(connection, pulse)?;
        }
        if waited == Waited::Messages {
            self.queue.take(BATCH_BYTES, &mut self.batch);
            self.send_batch(connection)?;
            pulse.used = Instant::now();
        }
        match pulse.pinged {
            None if now >= pulse.next_ping => {
                connection.allow(self.shared.options.io_timeout);
                connection.write(&frame(Kind::Ping, &[]))?;
                pulse.pinged = Some(now);
                pulse.next_ping = now + pulse.every;
            }
            Some(at) if now - at > self.shared.options.io_timeout => {
                let detail = format!("no answer within {:?}", self.shared.options.io_timeout);
                return Err(Refusal::new(Reason::Slow, detail));
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the batch, many messages in a frame, many frames in a call.
    fn send_batch(&mut self, connection: &mut Connection) -> Result<(), Refusal> {
        let limit = connection.limits.frame_bytes_max as usize;
        self.buffer.clear();
        let (mut frames, mut open) = (0, None);
        let mut piece = Vec::new();
        let mut unsent = Vec::new();
        for at in 0..self.batch.len() {
            piece.clear();
            let mut length = [0; 4];
            let encoded = self.batch[at].message.encode(&mut piece);
            // The kind in front, and the length of the message.
            let fits = encoded.is_ok() && piece.len() + 1 + length.len() <= limit;
            if !fits {
                let detail = match encoded {
                    Err(error) => error.to_string(),
                    Ok(()) => format!("{} bytes, store {} takes {limit}", piece.len(), self.store),
                };
                let refusal = Refusal::new(Reason::TooLong, detail);
                self.shared.counters.end(&self.name, &refusal);
                unsent.push(at);
                continue;
            }
            if let Some(start) = open {
                let filled = self.buffer.len() - start - HEAD_BYTES;
                if filled >= FRAME_BYTES || filled + length.len() + piece.len() > limit {
                    finish(&mut self.buffer, start);
                    open = None;
                }
            }
            if open.is_none() {
                open = Some(begin(&mut self.buffer));
                self.buffer.push(Kind::Messages as u8);
                frames += 1;
            }
            let bytes = u32::try_from(piece.len()).expect("it is at most the limit, a u32");
            length = bytes.to_le_bytes();
            self.buffer.extend_from_slice(&length);
            self.buffer.extend_from_slice(&piece);
        }
        if let Some(start) = open {
            finish(&mut self.buffer, start);
        }
        connection.allow(self.shared.options.io_timeout);
        connection.write(&self.buffer)?;
        self.sent(&unsent, frames);
        Ok(())
    }

    /// The batch but for `unsent` is on its way.
    fn sent(&mut self, unsent: &[usize], frames: u64) {
        let counters = &self.shared.counters;
        counters.frames_sent.add(frames);
        counters.bytes_sent.add(self.buffer.len() as u64);
        (counters.messages_sent).add((self.batch.len() - unsent.len()) as u64);
        for (at, mut queued) in self.batch.drain(..).enumerate() {
            if unsent.contains(&at) {
                self.queue.lose(queued, &self.shared.gate, counters);
            } else if let Some(ticket) = queued.ticket.take() {
                ticket.finish();
            }
        }
        if self.buffer.capacity() > 4 * BATCH_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Nothing of the batch is known to have arrived.
    fn lose_batch(&mut self) {
        for queued in self.batch.drain(..) {
            (self.queue).lose(queued, &self.shared.gate, &self.shared.counters);
        }
    }

    /// Takes no messages for a while, longer after each failure, and never all stores at once.
    fn back_off(&mut self) {
        let options = &self.shared.options;
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            return; // What is left in the queue may still be in time.
        }
        let doubled = 1_u32 << (self.failures - 2).min(16);
        let longest = (options.backoff_min.saturating_mul(doubled)).min(options.backoff_max);
        let half = longest / 2;
        let jitter = Duration::from_nanos(random_number() % (half.as_nanos() as u64 + 1));
        let rest = self.queue.refuse_until(Instant::now() + half + jitter);
        self.batch.extend(rest);
        self.lose_batch();
    }
}

/// Takes what the other side has sent: answers to pings. An end of the connection shows here too.
fn listen(connection: &mut Connection, pulse: &mut Pulse) -> Result<(), Refusal> {
    connection.allow(Duration::from_secs(1)); // Nothing here waits.
    while let Some(payload) = connection.poll(HANDSHAKE_BYTES_MAX)? {
        if payload != [Kind::Pong as u8] || pulse.pinged.take().is_none() {
            let detail = format!("a frame of kind {} instead of a pong", payload[0]);
            return Err(Refusal::new(Reason::Protocol, detail));
        }
    }
    pulse.used = Instant::now();
    Ok(())
}
