//! Reading a range page by page. Uses: app_store, types, error. Never does I/O of its own.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;

use crate::app_store::{DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::types::KeyRange;

/// What to read: which keys, in which order, how many at a time, and where to go on.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{AppBatch, ApplicationDataStorage, DataRead, Durability, KeyRange, Keyspace, Scan};
/// let data = MemoryData::new();
/// let mut batch = AppBatch::new();
/// for key in ["a/1", "a/2", "a/3", "b/1"] {
///     batch.put(Keyspace::Data, key, "");
/// }
/// data.write(&batch, Durability::Buffered)?;
///
/// let newest_first = Scan::of(KeyRange::prefix("a/")).reverse().limit(2);
/// let page = data.page(Keyspace::Data, &newest_first)?;
/// assert_eq!(page.keys().collect::<Vec<_>>(), [b"a/3", b"a/2"]);
/// let Some(cursor) = page.cursor else { panic!("there is more") };
/// let page = data.page(Keyspace::Data, &newest_first.after(cursor))?;
/// assert_eq!(page.keys().collect::<Vec<_>>(), [b"a/1"]);
/// assert_eq!(page.cursor, None);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scan {
    range: KeyRange,
    reverse: bool,
    limit: usize,
    bytes_max: usize,
    after: Option<Cursor>,
}

/// Where a page ended. Its bytes may travel to a client and back.
///
/// It fits the scan that gave it: the same keyspace, range and order, while the limits may change. One
/// that was given without a transaction is good for ever, because it names a key, not a place; one of a
/// [`ReadTransaction`](crate::ReadTransaction) is good in that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

/// Some of the keys and values that a [`Scan`] asks for, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys and values.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where to go on, if there was more.
    pub cursor: Option<Cursor>,
}

/// Which moment a page is as of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Whatever is there when it is read.
    pub const NOW: Moment = Moment(0);

    /// One that no other read transaction has, of this process or another.
    pub fn unique() -> Self {
        Moment(RandomState::new().hash_one(0_u8).max(1))
    }
}

impl Scan {
    /// The keys of `range`, ascending, in pages of at most 1 MiB.
    pub fn of(range: KeyRange) -> Self {
        Scan {
            range,
            reverse: false,
            limit: usize::MAX,
            bytes_max: 1 << 20,
            after: None,
        }
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The keys that are read.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Whether it goes from the last key to the first.
    pub(crate) fn is_reverse(&self) -> bool {
        self.reverse
    }

    /// At most so many keys in a page. At least 1.
    pub fn limit(mut self, keys: usize) -> Self {
        self.limit = keys.max(1);
        self
    }

    /// At most so many bytes of keys and values in a page, unless its first pair alone has more.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Goes on where the page that gave `cursor` ended.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// The page, as [`DataRead::page`] says, where `moment` is what `data` is as of.
    pub(crate) fn page(
        &self,
        data: &(impl DataRead + ?Sized),
        keyspace: Keyspace,
        moment: Moment,
    ) -> Result<Page> {
        let tag = self.tag(keyspace);
        let mut range = self.range.clone();
        if let Some(cursor) = &self.after {
            let last = cursor.open(tag, moment)?;
            if !range.contains(last) {
                let reason = "its key is not in the range";
                return Err(Error::CursorInvalid { reason });
            }
            match self.reverse {
                // Nothing comes before the first key of all, and as an end it would mean no bound.
                true if last.is_empty() => return Ok(Page::default()),
                true => range.end = last.to_vec(),
                false => range.start = [last, &[0]].concat(),
            }
        }
        let (mut page, mut bytes, mut is_full) = (Page::default(), 0_usize, false);
        let mut take = |key: &[u8], value: &[u8]| {
            let next = bytes.saturating_add(key.len() + value.len());
            let has_room = page.pairs.len() < self.limit && next <= self.bytes_max;
            if !has_room && !page.pairs.is_empty() {
                is_full = true;
                return Ok(ControlFlow::Break(()));
            }
            bytes = next;
            page.pairs.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        };
        match self.reverse {
            true => data.scan_back(keyspace, &range, &mut take)?,
            false => data.scan(keyspace, &range, &mut take)?,
        }
        if let (true, Some((last, _))) = (is_full, page.pairs.last()) {
            page.cursor = Some(Cursor::at(last, tag, moment));
        }
        Ok(page)
    }

    /// Tells scans apart whose cursors must not be mixed up.
    fn tag(&self, keyspace: Keyspace) -> u32 {
        let KeyRange { start, end } = &self.range;
        let mut tag = crc32c::crc32c(&[u8::from(self.reverse)]);
        for part in [keyspace.name().as_bytes(), start, end] {
            tag = crc32c::crc32c_append(tag, &(part.len() as u64).to_le_bytes());
            tag = crc32c::crc32c_append(tag, part);
        }
        tag
    }
}

impl Page {
    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.pairs.iter().map(|(key, _)| key.as_slice())
    }
}

/// Version u8, tag of the scan u32 LE, moment u64 LE; then the last key of the page, and the CRC-32C of
/// all before it, u32 LE.
const CURSOR_VERSION: u8 = 1;
const HEAD_BYTES: usize = 13;
const CRC_BYTES: usize = 4;

impl Cursor {
    fn at(key: &[u8], tag: u32, moment: Moment) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + CRC_BYTES);
        bytes.push(CURSOR_VERSION);
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&moment.0.to_le_bytes());
        bytes.extend_from_slice(key);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Cursor(bytes)
    }

    /// The bytes of a cursor, wherever they come from: what they are is checked when they are used.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Cursor(bytes.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last key before it.
    fn open(&self, tag: u32, moment: Moment) -> Result<&[u8]> {
        let invalid = |reason| Err(Error::CursorInvalid { reason });
        let Some((body, crc)) = self.0.split_last_chunk::<CRC_BYTES>() else {
            return invalid("it is too short");
        };
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return invalid("its checksum does not match");
        }
        let Some((&[version, t0, t1, t2, t3, ref of @ ..], key)) =
            body.split_first_chunk::<HEAD_BYTES>()
        else {
            return invalid("it is too short");
        };
        if version != CURSOR_VERSION {
            return invalid("it is of another version of this crate");
        }
        if u32::from_le_bytes([t0, t1, t2, t3]) != tag {
            return invalid("it is of another scan");
        }
        let of: &[u8; 8] = of;
        if u64::from_le_bytes(*of) != moment.0 {
            return Err(Error::CursorExpired);
        }
        Ok(key)
    }
}
