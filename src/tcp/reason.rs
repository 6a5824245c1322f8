//! Why a connection was refused or ended, in words that travel.

use std::fmt;
use std::io::{Error as IoError, ErrorKind};

/// Why a connection was refused, or ended. The numbers are on the wire and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Reason {
    /// What came in is no handshake of ours.
    Stranger = 1,
    /// It speaks another version of the protocol.
    Version = 2,
    /// It belongs to another cluster.
    Cluster = 3,
    /// The store that answered is not the one that was dialled.
    Store = 4,
    /// It claims to be the store that it talks to.
    Itself = 5,
    /// Its certificate does not name the store that it claims to be.
    Identity = 6,
    /// There are too many connections, or too many snapshots, already.
    Busy = 7,
    /// It wants something that this version does not know.
    Purpose = 8,
    /// TLS failed, or only one side uses it.
    Tls = 9,
    /// A frame is longer than the limit.
    TooLong = 10,
    /// A frame's checksum is not that of its bytes.
    Checksum = 11,
    /// A frame that does not belong where it came.
    Protocol = 12,
    /// A message within an intact frame that does not decode. The message is dropped, the connection
    /// stays.
    Message = 13,
    /// A message from a peer of another store, or for one. It is dropped, the connection stays.
    Misaddressed = 14,
    /// Something did not happen in time.
    Slow = 15,
    /// The other side closed the connection.
    Closed = 16,
    /// There is no connection: no address, or nobody who answers at it.
    Unreachable = 17,
    /// Nobody here wants the snapshot.
    Unwanted = 18,
    /// The snapshot's file could not be read or written, or is not what was announced.
    File = 19,
    /// The transport was stopped.
    Stopped = 20,
    /// The other side gives a reason that this version does not know.
    Unknown = 255,
}

impl Reason {
    /// All that this version sends.
    const ALL: [Reason; 20] = [
        Reason::Stranger,
        Reason::Version,
        Reason::Cluster,
        Reason::Store,
        Reason::Itself,
        Reason::Identity,
        Reason::Busy,
        Reason::Purpose,
        Reason::Tls,
        Reason::TooLong,
        Reason::Checksum,
        Reason::Protocol,
        Reason::Message,
        Reason::Misaddressed,
        Reason::Slow,
        Reason::Closed,
        Reason::Unreachable,
        Reason::Unwanted,
        Reason::File,
        Reason::Stopped,
    ];

    /// The reason with this number.
    pub(super) fn of(code: u8) -> Reason {
        let found = Reason::ALL.into_iter().find(|r| *r as u8 == code);
        found.unwrap_or(Reason::Unknown)
    }
}

/// A [`Reason`] with what was found and expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: Reason,
    pub detail: String,
}

/// The most bytes of a detail that travel.
const DETAIL_BYTES_MAX: usize = 512;

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Refusal {
        let detail = detail.into();
        Refusal { reason, detail }
    }

    /// Its bytes: the number, then the detail in UTF-8, cut to what travels.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut end = self.detail.len().min(DETAIL_BYTES_MAX);
        while !self.detail.is_char_boundary(end) {
            end -= 1;
        }
        buffer.push(self.reason as u8);
        buffer.extend_from_slice(&self.detail.as_bytes()[..end]);
    }

    /// The refusal that the other side sent. Its text is not trusted: it comes out escaped and short.
    pub fn decode(code: u8, detail: &[u8]) -> Refusal {
        let detail = &detail[..detail.len().min(DETAIL_BYTES_MAX)];
        let text = String::from_utf8_lossy(detail);
        let detail = format!("the other side says: {}", text.escape_debug());
        Refusal::new(Reason::of(code), detail)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.reason, self.detail)
    }
}

impl From<IoError> for Refusal {
    fn from(error: IoError) -> Self {
        let reason = match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Reason::Slow,
            // What rustls makes of bytes that are no TLS of the other side's.
            ErrorKind::InvalidData => Reason::Tls,
            _ => Reason::Closed,
        };
        Refusal::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_its_own_reason_and_others_are_unknown() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(
                (reason as usize, Reason::of(reason as u8)),
                (at + 1, reason)
            );
        }
        assert_eq!(Reason::of(0), Reason::Unknown);
        assert_eq!(Reason::of(21), Reason::Unknown);
    }

    #[test]
    fn a_detail_is_cut_between_characters_and_comes_out_escaped() {
        let mut bytes = Vec::new();
        Refusal::new(Reason::Cluster, "é".repeat(400)).encode(&mut bytes);
        assert_eq!(bytes.len(), 1 + DETAIL_BYTES_MAX);
        Refusal::new(Reason::Cluster, "a".to_string() + &"é".repeat(400)).encode(&mut bytes);
        assert_eq!(bytes.len(), 2 * (1 + DETAIL_BYTES_MAX) - 1);
        let refusal = Refusal::decode(3, b"two\nlines\x1b[31m\xff");
        assert_eq!(refusal.reason, Reason::Cluster);
        assert!(refusal.detail.chars().all(|c| !c.is_control()), "{refusal}");
    }
}
