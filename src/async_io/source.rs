//! A blocking stream that is read and sought in as an async one. Uses: offload.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::runtime::Handle;

use super::STREAM_BUFFER_BYTES;
use super::offload::Offload;

/// Reads a blocking stream, from where it stands, on the blocking threads of a runtime. It holds one
/// buffer of [`STREAM_BUFFER_BYTES`] and never reads further ahead.
///
/// A read or seek whose future was dropped is finished on its thread; what it has read is what the next
/// read gives.
pub struct AsyncSource<S: Read + Seek + Send + 'static>(Offload<Source<S>>);

/// The stream with its buffer: what travels to the blocking thread and back.
struct Source<S> {
    stream: S,
    // Taken with the first read.
    buffer: Vec<u8>,
    // What of the buffer is not given out yet.
    unread: Range<usize>,
    // Of the stream itself: behind what is unread.
    position: u64,
    outcome: Outcome,
}

/// What the last work brought that nobody has heard of yet.
enum Outcome {
    Nothing,
    /// A read found no byte.
    End,
    ReadFailed(std::io::Error),
    SeekFailed(std::io::Error),
}

impl<S: Read + Seek> Source<S> {
    fn fill(&mut self) {
        self.buffer.resize(STREAM_BUFFER_BYTES, 0);
        let read = loop {
            match self.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.outcome = match read {
            Ok(0) => Outcome::End,
            Ok(count) => {
                self.unread = 0..count;
                self.position += count as u64;
                Outcome::Nothing
            }
            Err(error) => Outcome::ReadFailed(error),
        };
    }

    fn seek(&mut self, to: SeekFrom) {
        let ahead = self.unread.len() as i64;
        let to = match to {
            // Whoever reads stands before what is unread, the stream behind it.
            SeekFrom::Current(delta) => match delta.checked_sub(ahead) {
                Some(delta) => SeekFrom::Current(delta),
                None => {
                    self.outcome = Outcome::SeekFailed(ErrorKind::InvalidInput.into());
                    return;
                }
            },
            absolute => absolute,
        };
        self.outcome = match self.stream.seek(to) {
            Ok(position) => {
                (self.position, self.unread) = (position, 0..0);
                Outcome::Nothing
            }
            Err(error) => Outcome::SeekFailed(error),
        };
    }
}

impl<S: Read + Seek + Send + 'static> AsyncSource<S> {
    /// Reads `stream`, which stands at its start, on the blocking threads of `runtime`.
    pub fn new(runtime: Handle, stream: S) -> Self {
        let source = Source {
            stream,
            buffer: Vec::new(),
            unread: 0..0,
            position: 0,
            outcome: Outcome::Nothing,
        };
        AsyncSource(Offload::new(runtime, source))
    }
}

impl<S: Read + Seek + Send + 'static> AsyncRead for AsyncSource<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while buffer.remaining() > 0 {
            let source = ready!(self.0.poll_here(context))?;
            if !source.unread.is_empty() {
                let count = source.unread.len().min(buffer.remaining());
                let given = source.unread.start..source.unread.start + count;
                buffer.put_slice(&source.buffer[given]);
                source.unread.start += count;
                break;
            }
            match std::mem::replace(&mut source.outcome, Outcome::Nothing) {
                Outcome::End => break,
                Outcome::ReadFailed(error) => return Poll::Ready(Err(error)),
                // Nobody has waited for that seek: the stream stands where it stood.
                Outcome::SeekFailed(_) | Outcome::Nothing => self.0.start(Source::fill),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Seek + Send + 'static> AsyncSeek for AsyncSource<S> {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> std::io::Result<()> {
        if self.0.here().is_none() {
            let message = "a read or seek is under way; wait for it by `poll_complete`";
            return Err(std::io::Error::other(message));
        }
        self.0.start(move |source| source.seek(to));
        Ok(())
    }

    fn poll_complete(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<u64>> {
        let source = ready!(self.0.poll_here(context))?;
        if let Outcome::SeekFailed(_) = &source.outcome
            && let Outcome::SeekFailed(error) =
                std::mem::replace(&mut source.outcome, Outcome::Nothing)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(source.position - source.unread.len() as u64))
    }
}
