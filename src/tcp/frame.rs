//! Frames: `length u32, CRC32C of the payload u32, payload`, little-endian. The first byte of a payload
//! is its [`Kind`], except in the handshake.

use std::io::{ErrorKind, Read};

use super::reason::{Reason, Refusal};

/// Length and checksum.
pub(super) const HEAD_BYTES: usize = 8;
/// The longest frame of the handshake.
pub(super) const HANDSHAKE_BYTES_MAX: u32 = 1024;
/// How much of a frame is read at least before its buffer grows.
const GROWTH_BYTES: usize = 64 << 10;
/// A buffer that became larger is given back after its frame.
const KEPT_BYTES: usize = 1 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Messages, each with its length in front.
    Messages = 1,
    /// Asks for a `Pong`.
    Ping = 2,
    /// Answers a `Ping`.
    Pong = 3,
    /// The bytes of a file u64, the message that it belongs to.
    Offer = 4,
    /// The file may come: as many bytes u32.
    Accept = 5,
    /// The next bytes of the file.
    Chunk = 6,
    /// As many more bytes u32 may come.
    Grant = 7,
    /// The snapshot has arrived whole.
    Done = 8,
    /// It will not: the number of a reason, a text.
    Refuse = 9,
}

/// Starts a frame at the end of `buffer`; put its payload there, then [`finish`] what this answers.
pub(super) fn begin(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEAD_BYTES]);
    start
}

/// Fills in the head of the frame that [`begin`] started, which is the last in `buffer`.
pub(super) fn finish(buffer: &mut [u8], start: usize) {
    let payload = &buffer[start + HEAD_BYTES..];
    let length = u32::try_from(payload.len()).expect("senders check the limit, a u32");
    let crc = crc32c::crc32c(payload);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// A frame of one payload.
pub(super) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(HEAD_BYTES + 1 + payload.len());
    let start = begin(&mut buffer);
    buffer.push(kind as u8);
    buffer.extend_from_slice(payload);
    finish(&mut buffer, start);
    buffer
}

/// Takes frames from a stream, one at a time. A read that would have to wait can be gone on with later.
#[derive(Default)]
pub(super) struct FrameReader {
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    payload: Vec<u8>,
    whole: bool,
}

impl FrameReader {
    /// The payload that the last [`FrameReader::read`] answered.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload of the next frame; nothing if the stream ended between frames. Memory grows with
    /// the bytes that came, not with the length that is claimed.
    ///
    /// # Errors
    /// `TooLong` before any memory is taken, `Checksum`, and those of the stream. After `WouldBlock`,
    /// which comes as [`Reason::Slow`], it can be called again.
    pub fn read(&mut self, stream: &mut dyn Read, limit: u32) -> Result<Option<&[u8]>, Refusal> {
        if self.whole {
            self.whole = false;
            self.head_filled = 0;
            if self.payload.capacity() > KEPT_BYTES {
                self.payload = Vec::new();
            }
            self.payload.clear();
        }
        while self.head_filled < HEAD_BYTES {
            match read_some(stream, &mut self.head[self.head_filled..])? {
                0 if self.head_filled == 0 => return Ok(None),
                0 => return Err(cut_short()),
                count => self.head_filled += count,
            }
        }
        let (length, crc) = self.head.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
        let (length, crc) = (number(length), number(crc));
        if length == 0 || length > limit {
            let detail = format!("a frame of {length} bytes, expected 1 to {limit}");
            return Err(Refusal::new(Reason::TooLong, detail));
        }
        let length = length as usize;
        while self.payload.len() < length {
            let growth = GROWTH_BYTES.max(self.payload.len());
            let part = growth.min(length - self.payload.len());
            self.payload.reserve(part);
            let mut stream = (&mut *stream).take(part as u64);
            match stream.read_to_end(&mut self.payload)? {
                0 => return Err(cut_short()),
                _ => continue,
            }
        }
        self.whole = true;
        let computed = crc32c::crc32c(&self.payload);
        if computed != crc {
            let detail = format!("crc {crc:#010x}, computed {computed:#010x} of {length} bytes");
            return Err(Refusal::new(Reason::Checksum, detail));
        }
        Ok(Some(&self.payload))
    }

    /// The first bytes of what came, for telling a stranger's protocol.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_filled]
    }
}

fn read_some(stream: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, Refusal> {
    loop {
        match stream.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

fn cut_short() -> Refusal {
    Refusal::new(Reason::Closed, "the connection ended within a frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_golden_bytes_and_comes_back() {
        let bytes = frame(Kind::Ping, b"");
        assert_eq!(
            bytes,
            b"\x01\x00\x00\x00\xa6\x23\x46\xb3\x02".as_slice(),
            "{bytes:02x?}"
        );
        let two = [bytes, frame(Kind::Chunk, &[7; 100_000])].concat();
        let (mut stream, mut reader) = (&two[..], FrameReader::default());
        assert_eq!(reader.read(&mut stream, 1).unwrap(), Some(&[2][..]));
        let chunk = reader.read(&mut stream, 100_001).unwrap().unwrap();
        assert!(chunk[0] == 6 && chunk[1..] == [7; 100_000]);
        assert_eq!(reader.read(&mut stream, 1).unwrap(), None);
    }

    /// Gives one byte at a time, and in between says that there is none yet.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            match self.1 {
                true => Err(ErrorKind::WouldBlock.into()),
                false => {
                    Read::read(&mut self.0.take(1), buffer).inspect(|n| self.0 = &self.0[*n..])
                }
            }
        }
    }

    #[test]
    fn a_read_that_would_wait_is_gone_on_with() {
        let bytes = frame(Kind::Chunk, b"some bytes");
        let (mut stream, mut reader) = (Trickle(&bytes, false), FrameReader::default());
        let mut waits = 0;
        loop {
            match reader.read(&mut stream, 100) {
                Err(refusal) => assert_eq!(refusal.reason, Reason::Slow),
                Ok(payload) => break assert_eq!(payload, Some(&b"\x06some bytes"[..])),
            }
            waits += 1;
        }
        assert_eq!(waits, bytes.len());
    }

    #[test]
    fn every_changed_or_missing_byte_is_found() {
        let bytes = frame(Kind::Chunk, b"some bytes");
        let read = |bytes: &[u8]| {
            let mut reader = FrameReader::default();
            reader
                .read(&mut &bytes[..], 64)
                .map(|p| p.map(<[u8]>::to_vec))
        };
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed).is_err(), "byte {at}");
            assert_eq!(read(&bytes[..at]).is_ok(), at == 0, "cut at {at}");
        }
    }
}
