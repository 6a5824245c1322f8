//! A connection below the frames: plain or in TLS, and never without a deadline.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::reason::Refusal;

/// The bytes of a connection, both ways.
pub(super) trait Duplex: Read + Write + Send {
    /// What is below.
    fn socket(&mut self) -> &mut Socket;

    /// Checks that the other side has proved to be this store. Where nothing is proved, it is believed.
    ///
    /// # Errors
    /// `Identity` if it has proved to be another.
    fn check_identity(&self, _cluster_id: u64, _store_id: u64) -> std::result::Result<(), Refusal> {
        Ok(())
    }
}

/// A TCP connection. Every read and write ends at the deadline, however slowly bytes trickle.
pub(super) struct Socket {
    tcp: TcpStream,
    deadline: Instant,
    // What the system was told last.
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Socket {
    pub fn new(tcp: TcpStream, deadline: Instant) -> Result<Socket> {
        tcp.set_nodelay(true)?;
        Ok(Socket {
            tcp,
            deadline,
            read_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
        })
    }

    /// From now on, reads and writes have to end within `time`.
    pub fn allow(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }

    /// Whether a read or write returns at once instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        self.tcp.set_nonblocking(nonblocking)
    }

    /// Says to the other side that nothing more comes.
    pub fn finish_writing(&self) {
        let _ = self.tcp.shutdown(Shutdown::Write); // It may be closed already.
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "it took too long"));
        }
        Ok(left.max(Duration::from_millis(1)))
    }
}

/// Whether the timeout that is set is near enough to the one that is wanted: most reads then need no
/// further call.
fn fits(set: Duration, wanted: Duration) -> bool {
    set >= wanted / 2 && set <= wanted + wanted / 4
}

fn timed_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock => Error::new(ErrorKind::TimedOut, "it took too long"),
        _ => error,
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.left()?;
        if !fits(self.read_timeout, left) {
            self.tcp.set_read_timeout(Some(left))?;
            self.read_timeout = left;
        }
        self.tcp.read(buffer).map_err(timed_out)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let left = self.left()?;
        if !fits(self.write_timeout, left) {
            self.tcp.set_write_timeout(Some(left))?;
            self.write_timeout = left;
        }
        self.tcp.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> Result<()> {
        self.tcp.flush()
    }
}

impl Duplex for Socket {
    fn socket(&mut self) -> &mut Socket {
        self
    }
}
