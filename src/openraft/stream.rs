//! The file of a snapshot as a stream of tokio: read where it is sent, written where it arrives. Uses:
//! snapshot_store. Touches files on threads for blocking work only.

use std::fmt;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotFile, SnapshotInfo, SnapshotReceiver};

/// What is read or written at once.
const PIECE_BYTES: usize = 256 << 10;

/// The bytes of a snapshot's file: compressed, and checked when the last one has come.
///
/// The sender reads and seeks, the receiver writes from the start. A receiver may seek back and write
/// again what it has already, as openraft does when an answer was lost: those bytes are passed over. A
/// gap is an error. Everything else is `Unsupported`. It has to be used inside a tokio runtime.
pub struct SnapshotStream {
    state: State,
    // Where the next read or write is.
    position: u64,
}

enum State {
    Idle(Side),
    /// A thread has the file.
    Busy(JoinHandle<(Side, io::Result<()>)>),
    /// What the thread had was lost with a panic of the store, or given to an install.
    Gone,
}

enum Side {
    Sending(Sending),
    Receiving(Receiving),
}

struct Sending {
    file: Box<dyn SnapshotFile>,
    length: u64,
    // What was read from `ahead_at` on.
    ahead: Vec<u8>,
    ahead_at: u64,
}

struct Receiving {
    // None after an error: the file is given up.
    receiver: Option<Box<dyn SnapshotReceiver>>,
    received: u64,
}

impl SnapshotStream {
    /// Reads `file`, which has `length` bytes.
    pub(super) fn sending(file: Box<dyn SnapshotFile>, length: u64) -> Self {
        SnapshotStream::of(Side::Sending(Sending {
            file,
            length,
            ahead: Vec::new(),
            ahead_at: 0,
        }))
    }

    /// Takes a file in.
    pub(super) fn receiving(receiver: Box<dyn SnapshotReceiver>) -> Self {
        let received = receiver.offset();
        SnapshotStream::of(Side::Receiving(Receiving {
            receiver: Some(receiver),
            received,
        }))
    }

    fn of(side: Side) -> Self {
        SnapshotStream {
            state: State::Idle(side),
            position: 0,
        }
    }

    /// The side, when no thread has it.
    fn poll_side(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut Side>> {
        if let State::Busy(thread) = &mut self.state {
            let done = ready!(Pin::new(thread).poll(context));
            self.state = State::Gone;
            let (side, result) = done.map_err(io::Error::other)?;
            self.state = State::Idle(side);
            result?;
        }
        match &mut self.state {
            State::Idle(side) => Poll::Ready(Ok(side)),
            State::Busy(_) | State::Gone => {
                Poll::Ready(Err(io::Error::other("the stream is gone")))
            }
        }
    }

    /// Lets a thread do `work` with the side.
    fn start(&mut self, work: impl FnOnce(&mut Side) -> io::Result<()> + Send + 'static) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(mut side) => State::Busy(tokio::task::spawn_blocking(move || {
                let result = work(&mut side);
                (side, result)
            })),
            other => other,
        };
    }

    /// Waits until no thread has the file any more.
    ///
    /// # Errors
    /// Those of the last write.
    pub(super) async fn finish(mut self) -> Result<Arrived> {
        let failed = |e: io::Error| stream_error("receive snapshot", e);
        let idle = std::future::poll_fn(|context| self.poll_side(context).map_ok(drop)).await;
        idle.map_err(failed)?;
        match self.state {
            State::Idle(side) => Ok(Arrived(side)),
            State::Busy(_) | State::Gone => Err(failed(io::Error::other("the stream is gone"))),
        }
    }
}

/// A stream that has come to its end.
pub(super) struct Arrived(Side);

impl Arrived {
    /// Puts the file into `store`, checked and durable: what was received, or a copy of what is sent.
    /// Waits for the disk.
    ///
    /// # Errors
    /// `Corruption` if it is not whole, those of the stream, those of the store.
    pub fn commit(self, store: &dyn RaftSnapshotStorage) -> Result<SnapshotInfo> {
        match self.0 {
            Side::Receiving(Receiving { receiver, .. }) => match receiver {
                Some(receiver) => receiver.commit(),
                None => Err(stream_error("receive snapshot", given_up())),
            },
            Side::Sending(Sending { mut file, .. }) => {
                let rewound = file.seek(SeekFrom::Start(0));
                rewound.map_err(|e| stream_error("read snapshot", e))?;
                store.install(&mut file)
            }
        }
    }
}

fn given_up() -> io::Error {
    io::Error::other("the snapshot was given up after an error; receive it again from its start")
}

/// A stream of ours has this crate's own error inside.
fn stream_error(op: &'static str, error: io::Error) -> Error {
    let stream = std::path::Path::new("(stream)");
    error
        .downcast()
        .unwrap_or_else(|e| Error::io(op, stream, e))
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what.to_string())
}

impl Sending {
    /// What of the bytes from `position` on is in memory.
    fn ahead_of(&self, position: u64) -> &[u8] {
        let skipped = position.checked_sub(self.ahead_at);
        let skipped = skipped.and_then(|n| usize::try_from(n).ok());
        skipped
            .and_then(|n| self.ahead.get(n..))
            .unwrap_or_default()
    }

    fn fill(&mut self, position: u64) -> io::Result<()> {
        self.ahead.clear();
        self.file.seek(SeekFrom::Start(position))?;
        self.ahead_at = position;
        let mut piece = (&mut self.file).take(PIECE_BYTES as u64);
        piece.read_to_end(&mut self.ahead)?;
        if self.ahead.is_empty() {
            let what = format!(
                "the file ends at {position}, before its {} bytes",
                self.length
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        Ok(())
    }
}

impl AsyncRead for SnapshotStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let position = this.position;
        loop {
            let Side::Sending(sending) = ready!(this.poll_side(context))? else {
                return Poll::Ready(Err(unsupported("a snapshot that arrives is not read")));
            };
            if position >= sending.length || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let ahead = sending.ahead_of(position);
            if !ahead.is_empty() {
                let count = ahead.len().min(buffer.remaining());
                buffer.put_slice(&ahead[..count]);
                this.position += count as u64;
                return Poll::Ready(Ok(()));
            }
            this.start(move |side| match side {
                Side::Sending(sending) => sending.fill(position),
                Side::Receiving(_) => Ok(()),
            });
        }
    }
}

impl Receiving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let receiver = self.receiver.as_mut().ok_or_else(given_up)?;
        if let Err(error) = receiver.write_all(bytes) {
            self.receiver = None;
            return Err(error);
        }
        self.received += bytes.len() as u64;
        Ok(())
    }
}

impl AsyncWrite for SnapshotStream {
    /// Takes the bytes at once and lets a thread write them; what becomes of that the next call says.
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let position = this.position;
        let Side::Receiving(receiving) = ready!(this.poll_side(context))? else {
            return Poll::Ready(Err(unsupported("a snapshot that is sent is not written")));
        };
        let received = receiving.received;
        if position > received {
            let what = format!("a write at {position}, of which {received} bytes have come");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let known = usize::try_from(received - position).unwrap_or(usize::MAX);
        if bytes.is_empty() || known > 0 {
            let count = known.min(bytes.len());
            this.position += count as u64;
            return Poll::Ready(Ok(count));
        }
        let piece = bytes[..bytes.len().min(PIECE_BYTES)].to_vec();
        let count = piece.len();
        this.position += count as u64;
        this.start(move |side| match side {
            Side::Receiving(receiving) => receiving.write(&piece),
            Side::Sending(_) => Ok(()),
        });
        Poll::Ready(Ok(count))
    }

    /// Waits until what was written has come to the store; durable it is after the install.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_side(context).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl AsyncSeek for SnapshotStream {
    /// Touches nothing: the next read or write goes there.
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        let length = match &this.state {
            State::Idle(Side::Sending(sending)) => Some(sending.length),
            _ => None,
        };
        let target = match (to, length) {
            (SeekFrom::Start(offset), _) => Some(offset),
            (SeekFrom::Current(by), _) => this.position.checked_add_signed(by),
            (SeekFrom::End(by), Some(length)) => length.checked_add_signed(by),
            (SeekFrom::End(_), None) => {
                return Err(unsupported(
                    "the end of a snapshot that arrives is not known",
                ));
            }
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a seek before the start");
        this.position = target.ok_or_else(before)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        ready!(this.poll_side(context))?;
        Poll::Ready(Ok(this.position))
    }
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match &self.state {
            State::Idle(Side::Sending(_)) => "sending",
            State::Idle(Side::Receiving(_)) => "receiving",
            State::Busy(_) => "busy",
            State::Gone => "gone",
        };
        f.debug_struct("SnapshotStream")
            .field("state", &side)
            .field("position", &self.position)
            .finish()
    }
}
