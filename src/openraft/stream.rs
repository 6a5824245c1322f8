//! The file of a snapshot as openraft moves it: read where it is sent, written where it arrives. Uses:
//! async_io, snapshot_store. Files are touched on threads for blocking work only.

use std::fmt;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncSeek, AsyncSeekExt as _, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use crate::async_io::{AsyncSnapshotReceiver, AsyncSnapshots, AsyncSource};
use crate::error::{Error, Result};
use crate::snapshot_store::{SnapshotFile, SnapshotInfo};

/// The bytes of a snapshot's file: compressed, and checked when the last one has come.
///
/// The sender reads and seeks, the receiver writes from the start. A receiver may seek back and write
/// again what it has already, as openraft does when an answer was lost: those bytes are passed over, and
/// the checksums of the file say whether the others fit to them. A gap is an error. Everything else is
/// `Unsupported`.
pub struct SnapshotStream(Side);

enum Side {
    Sending(AsyncSource<Box<dyn SnapshotFile>>),
    Receiving {
        receiver: AsyncSnapshotReceiver,
        // Where the next byte belongs. Invariant: at most what has come, whenever one is taken.
        position: u64,
    },
}

impl SnapshotStream {
    /// Reads `file`, which stands at its start, on the blocking threads of `runtime`.
    pub(super) fn sending(runtime: Handle, file: Box<dyn SnapshotFile>) -> Self {
        SnapshotStream(Side::Sending(AsyncSource::new(runtime, file)))
    }

    /// Takes a file in.
    pub(super) fn receiving(receiver: AsyncSnapshotReceiver) -> Self {
        SnapshotStream(Side::Receiving {
            position: receiver.offset(),
            receiver,
        })
    }

    /// Puts the file into `snapshots`, checked and durable: what was received, or a copy of what is sent.
    ///
    /// # Errors
    /// `Corruption` if it is not whole, those of the stream, those of the store.
    pub(super) async fn take_in(self, snapshots: &AsyncSnapshots) -> Result<SnapshotInfo> {
        match self.0 {
            Side::Receiving { receiver, .. } => receiver.commit().await,
            Side::Sending(mut source) => {
                let mut receiver = snapshots.receive().await?;
                source.rewind().await.map_err(stream_error)?;
                let copied = tokio::io::copy(&mut source, &mut receiver).await;
                copied.map_err(stream_error)?;
                receiver.commit().await
            }
        }
    }
}

/// A stream of ours has this crate's own error inside.
fn stream_error(error: io::Error) -> Error {
    let stream = std::path::Path::new("(stream)");
    (error.downcast()).unwrap_or_else(|e| Error::io("copy snapshot", stream, e))
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what.to_string())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

const NOT_READ: &str = "a snapshot that arrives is not read";
const NOT_WRITTEN: &str = "a snapshot that is sent is not written";

impl AsyncRead for SnapshotStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Side::Sending(source) => Pin::new(source).poll_read(context, buffer),
            Side::Receiving { .. } => Poll::Ready(Err(unsupported(NOT_READ))),
        }
    }
}

impl AsyncWrite for SnapshotStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Side::Receiving { receiver, position } = &mut self.get_mut().0 else {
            return Poll::Ready(Err(unsupported(NOT_WRITTEN)));
        };
        let received = receiver.offset();
        let Some(known) = received.checked_sub(*position) else {
            let what = format!("a write at {position}, and {received} bytes have come");
            return Poll::Ready(Err(invalid(what)));
        };
        let known = usize::try_from(known)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let written = match known {
            0 => Pin::new(receiver).poll_write(context, bytes),
            known => Poll::Ready(Ok(known)),
        };
        if let Poll::Ready(Ok(count)) = &written {
            *position += *count as u64;
        }
        written
    }

    /// Waits until what was written has come to the store; durable it is after the install.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Side::Receiving { receiver, .. } => Pin::new(receiver).poll_flush(context),
            Side::Sending(_) => Poll::Ready(Err(unsupported(NOT_WRITTEN))),
        }
    }

    /// As flushing it.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl AsyncSeek for SnapshotStream {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let position = match &mut self.get_mut().0 {
            Side::Sending(source) => return Pin::new(source).start_seek(to),
            Side::Receiving { position, .. } => position,
        };
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => position.checked_add_signed(by),
            SeekFrom::End(_) => {
                return Err(unsupported(
                    "the end of a snapshot that arrives is not known",
                ));
            }
        };
        *position = target.ok_or_else(|| invalid("a seek before the start".into()))?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match &mut self.get_mut().0 {
            Side::Sending(source) => Pin::new(source).poll_complete(context),
            Side::Receiving { position, .. } => Poll::Ready(Ok(*position)),
        }
    }
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Side::Sending(_) => "SnapshotStream(sending)",
            Side::Receiving { .. } => "SnapshotStream(receiving)",
        })
    }
}
