//! A blocking stream that is written as an async one. Uses: offload, error.

use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::runtime::Handle;

use super::STREAM_BUFFER_BYTES;
use super::offload::{Offload, broken};
use crate::error::Result;
use crate::snapshot_store::stream_error;

/// Writes a blocking stream on the blocking threads of a runtime. It gathers up to
/// [`STREAM_BUFFER_BYTES`] and takes no more while they are written.
///
/// A write whose future was dropped before it was ready has taken nothing. Flushing writes what was
/// gathered and flushes the stream; shutting down does the same. After an error every call fails.
pub struct AsyncSink<S: Write + Send + 'static>(Offload<Sink<S>>);

/// The stream with its buffer: what travels to the blocking thread and back.
struct Sink<S> {
    stream: S,
    // Invariant: not longer than STREAM_BUFFER_BYTES.
    gathered: Vec<u8>,
    // Whether anything was written since the last flush.
    is_dirty: bool,
    failure: Option<Failure>,
}

/// What ended the stream.
enum Failure {
    /// Nobody has heard of it yet.
    New(std::io::Error),
    Told(String),
}

impl<S: Write> Sink<S> {
    fn write(&mut self) {
        if let Err(error) = self.stream.write_all(&self.gathered) {
            self.failure = Some(Failure::New(error));
        }
        self.gathered.clear();
    }

    fn flush(&mut self) {
        self.write();
        if self.failure.is_none()
            && let Err(error) = self.stream.flush()
        {
            self.failure = Some(Failure::New(error));
        }
        self.is_dirty = false;
    }

    /// # Errors
    /// What ended the stream, the first time as it was, then `Poisoned`.
    fn check(&mut self) -> std::io::Result<()> {
        let (error, cause) = match self.failure.take() {
            None => return Ok(()),
            Some(Failure::New(error)) => {
                let cause = error.to_string();
                (error, cause)
            }
            Some(Failure::Told(cause)) => (broken(&cause).into(), cause),
        };
        self.failure = Some(Failure::Told(cause));
        Err(error)
    }
}

impl<S: Write + Send + 'static> AsyncSink<S> {
    /// Writes `stream` on the blocking threads of `runtime`.
    pub fn new(runtime: Handle, stream: S) -> Self {
        let sink = Sink {
            stream,
            gathered: Vec::new(),
            is_dirty: false,
            failure: None,
        };
        AsyncSink(Offload::new(runtime, sink))
    }

    /// Writes what was gathered, then ends the stream with `end`.
    ///
    /// # Errors
    /// What ended the stream before, and those of `end`.
    pub(super) async fn finish<R: Send + 'static>(
        mut self,
        end: impl FnOnce(S) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        poll_fn(|context| self.0.poll_here(context).map_ok(drop)).await?;
        let finished = self.0.finish(move |mut sink| {
            sink.check().map_err(stream_error)?;
            sink.write();
            sink.check().map_err(stream_error)?;
            end(sink.stream)
        });
        finished.await
    }
}

impl<S: Write + Send + 'static> AsyncWrite for AsyncSink<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let sink = ready!(self.0.poll_here(context))?;
        sink.check()?;
        if sink.gathered.capacity() == 0 {
            sink.gathered.reserve_exact(STREAM_BUFFER_BYTES);
        }
        let count = bytes.len().min(STREAM_BUFFER_BYTES - sink.gathered.len());
        sink.gathered.extend_from_slice(&bytes[..count]);
        sink.is_dirty |= count > 0;
        if sink.gathered.len() == STREAM_BUFFER_BYTES {
            self.0.start(Sink::write);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let sink = ready!(self.0.poll_here(context))?;
            sink.check()?;
            if !sink.is_dirty {
                return Poll::Ready(Ok(()));
            }
            self.0.start(Sink::flush);
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_flush(context)
    }
}
