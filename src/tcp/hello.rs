//! The handshake: who speaks, to whom, and what for. Both sides say it, and each side checks it.
//!
//! The first twelve bytes of both frames, magic and version, are fixed for all versions to come.

use super::frame::{HANDSHAKE_BYTES_MAX, begin, finish};
use super::reason::{Reason, Refusal};

/// The first bytes of either side.
const MAGIC: [u8; 8] = *b"peerwire";
/// The version that is spoken.
const VERSION: u32 = 1;
/// Magic, version u32.
const PREAMBLE_BYTES: usize = 12;
/// Preamble, purpose u8, cluster u64, from store u64, to store u64.
const HELLO_BYTES: usize = PREAMBLE_BYTES + 25;
/// Preamble, cluster u64, store u64, frame bytes u32, idle ms u32, reason u8; then a text.
const ANSWER_BYTES: usize = PREAMBLE_BYTES + 25;

const _: () = assert!(HELLO_BYTES + 512 < HANDSHAKE_BYTES_MAX as usize);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Purpose {
    Messages = 1,
    Snapshot = 2,
}

/// Who a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub cluster_id: u64,
    pub store_id: u64,
}

/// What the side that dials says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub purpose: Purpose,
    pub from: Ids,
    pub to: u64,
}

/// What the side that was dialled lets the other know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub frame_bytes_max: u32,
    pub idle_ms: u32,
}

/// Takes numbers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// A number of `bytes` bytes; the lengths were checked.
    fn number(&mut self, bytes: usize) -> u64 {
        let (field, rest) = self.0.split_at(bytes);
        self.0 = rest;
        field
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }
}

fn preamble(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
}

/// Checks the fixed bytes in front, and that at least `length` bytes are there.
fn check_preamble(payload: &[u8], length: usize) -> Result<Fields<'_>, Refusal> {
    if payload.len() < PREAMBLE_BYTES || payload[..MAGIC.len()] != MAGIC {
        let start = payload[..payload.len().min(MAGIC.len())].escape_ascii();
        let detail = format!(
            "it begins \"{start}\", expected \"{}\"",
            MAGIC.escape_ascii()
        );
        return Err(Refusal::new(Reason::Stranger, detail));
    }
    let mut fields = Fields(&payload[MAGIC.len()..]);
    let version = fields.number(4);
    if version != u64::from(VERSION) {
        let detail = format!("protocol version {version}, expected {VERSION}");
        return Err(Refusal::new(Reason::Version, detail));
    }
    if payload.len() < length {
        let detail = format!("a handshake of {} bytes, expected {length}", payload.len());
        return Err(Refusal::new(Reason::Stranger, detail));
    }
    Ok(fields)
}

impl Hello {
    /// As a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        let start = begin(&mut buffer);
        preamble(&mut buffer);
        buffer.push(self.purpose as u8);
        for number in [self.from.cluster_id, self.from.store_id, self.to] {
            buffer.extend_from_slice(&number.to_le_bytes());
        }
        finish(&mut buffer, start);
        buffer
    }

    /// Reads and checks what a stranger says to the store `own`.
    pub fn decode(payload: &[u8], own: Ids) -> Result<Hello, Refusal> {
        let mut fields = check_preamble(payload, HELLO_BYTES)?;
        let purpose = fields.number(1);
        let [cluster_id, store_id, to] = [0; 3].map(|_: u8| fields.number(8));
        check_cluster(cluster_id, own)?;
        if to != own.store_id {
            let detail = format!("dialled store {to}, this is store {}", own.store_id);
            return Err(Refusal::new(Reason::Store, detail));
        }
        if store_id == own.store_id || store_id == 0 {
            let detail = format!("it says it is store {store_id}, to store {}", own.store_id);
            return Err(Refusal::new(Reason::Itself, detail));
        }
        let purpose = match purpose {
            1 => Purpose::Messages,
            2 => Purpose::Snapshot,
            other => {
                let detail = format!("purpose {other}, expected 1 or 2");
                return Err(Refusal::new(Reason::Purpose, detail));
            }
        };
        let from = Ids {
            cluster_id,
            store_id,
        };
        Ok(Hello { purpose, from, to })
    }
}

fn check_cluster(cluster_id: u64, own: Ids) -> Result<(), Refusal> {
    if cluster_id != own.cluster_id {
        let detail = format!("cluster {cluster_id}, expected {}", own.cluster_id);
        return Err(Refusal::new(Reason::Cluster, detail));
    }
    Ok(())
}

/// The answer to a hello, as a frame.
pub(super) fn encode_answer(own: Ids, limits: Welcome, refusal: Option<&Refusal>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let start = begin(&mut buffer);
    preamble(&mut buffer);
    for number in [own.cluster_id, own.store_id] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    for number in [limits.frame_bytes_max, limits.idle_ms] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    match refusal {
        None => buffer.push(0),
        Some(refusal) => refusal.encode(&mut buffer),
    }
    finish(&mut buffer, start);
    buffer
}

/// Reads and checks what the store `dialled` answered.
pub(super) fn decode_answer(payload: &[u8], dialled: Ids) -> Result<Welcome, Refusal> {
    let mut fields = check_preamble(payload, ANSWER_BYTES)?;
    let [cluster_id, store_id] = [0; 2].map(|_: u8| fields.number(8));
    let [frame_bytes_max, idle_ms] = [0; 2].map(|_: u8| fields.number(4) as u32);
    match fields.number(1) as u8 {
        0 => {}
        code => return Err(Refusal::decode(code, fields.0)),
    }
    check_cluster(cluster_id, dialled)?;
    if store_id != dialled.store_id {
        let detail = format!("store {store_id} answers, dialled {}", dialled.store_id);
        return Err(Refusal::new(Reason::Store, detail));
    }
    Ok(Welcome {
        frame_bytes_max,
        idle_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame::HEAD_BYTES;
    use super::*;

    const OWN: Ids = ids(7, 1);

    const fn ids(cluster_id: u64, store_id: u64) -> Ids {
        Ids {
            cluster_id,
            store_id,
        }
    }

    fn hello(from: Ids, to: u64) -> Vec<u8> {
        let purpose = Purpose::Snapshot;
        Hello { purpose, from, to }.encode().split_off(HEAD_BYTES)
    }

    #[test]
    fn hello_and_answer_have_their_golden_bytes_and_come_back() {
        let bytes = hello(ids(7, 2), 1);
        let golden =
            b"peerwire\x01\0\0\0\x02\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";
        assert_eq!(bytes, golden);
        let decoded = Hello::decode(&bytes, OWN).unwrap();
        assert_eq!(
            (decoded.from, decoded.purpose),
            (ids(7, 2), Purpose::Snapshot)
        );
        let limits = Welcome {
            frame_bytes_max: 0x0102,
            idle_ms: 3,
        };
        let answer = encode_answer(OWN, limits, None).split_off(HEAD_BYTES);
        let golden =
            b"peerwire\x01\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01\0\0\x03\0\0\0\0";
        assert_eq!(answer, golden);
        assert_eq!(decode_answer(&answer, OWN), Ok(limits));
    }

    #[test]
    fn each_untruth_has_its_reason() {
        let reason = |bytes: &[u8]| Hello::decode(bytes, OWN).unwrap_err().reason;
        let good = hello(ids(7, 2), 1);
        assert_eq!(reason(&hello(ids(8, 2), 1)), Reason::Cluster);
        assert_eq!(reason(&hello(ids(7, 2), 3)), Reason::Store);
        assert_eq!(reason(&hello(ids(7, 1), 1)), Reason::Itself);
        assert_eq!(reason(&hello(ids(7, 0), 1)), Reason::Itself);
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            reason(&bytes)
        };
        assert_eq!(
            [changed(0), changed(8), changed(12)],
            [Reason::Stranger, Reason::Version, Reason::Purpose,]
        );
        for end in 0..good.len() {
            assert_eq!(reason(&good[..end]), Reason::Stranger);
        }
    }

    #[test]
    fn an_answer_from_another_store_or_a_refusal_is_no_welcome() {
        let limits = Welcome {
            frame_bytes_max: 1,
            idle_ms: 1,
        };
        let answer = |own, refusal: Option<&Refusal>| {
            let bytes = encode_answer(own, limits, refusal).split_off(HEAD_BYTES);
            decode_answer(&bytes, OWN).unwrap_err()
        };
        assert_eq!(answer(ids(7, 2), None).reason, Reason::Store);
        assert_eq!(answer(ids(8, 1), None).reason, Reason::Cluster);
        let refusal = Refusal::new(Reason::Busy, "full");
        let told = answer(OWN, Some(&refusal));
        assert_eq!(told.to_string(), "Busy: the other side says: full");
    }
}
