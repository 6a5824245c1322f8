//! Files that come from another store in more than one try. Uses: snapshot_dir, fs, snapshot_format, error.
//!
//! What has come lies in a file whose name says of what it is a part and when it was begun. Nothing is
//! synced before it is whole: whoever goes on with it reads what is there, and the checksums of its
//! blocks say how much of it can be believed, whatever a power cut has left.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::staging::{Fate, Staged};
use super::{FileCursor, Shared, key_of, numbers_of};
use crate::error::{Error, Result};
use crate::snapshot_format::{Sink, SinkStream, check_limit, whole_prefix};
use crate::snapshot_store::{SnapshotInfo, SnapshotKey, SnapshotReceiver, SnapshotTransfer};

/// What the names of partial files end with.
const PARTIAL_SUFFIX: &str = ".part";

/// A partial file, as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    key: SnapshotKey,
    file_id: u64,
    /// Unix time in seconds.
    pub begun_s: u64,
}

impl Partial {
    /// The partial file of a name that this store would give it, and of no other.
    pub fn of_name(name: &str) -> Option<Partial> {
        let [region, term, index, sequence, file_id, begun_s] = numbers_of(name, PARTIAL_SUFFIX)?;
        let partial = Partial {
            key: key_of([region, term, index, sequence]),
            file_id,
            begun_s,
        };
        (partial.to_string() == name).then_some(partial)
    }

    fn id(&self) -> ArrivalId {
        (self.key, self.file_id)
    }
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, file_id, begun_s) = (&self.key, self.file_id, self.begun_s);
        write!(f, "{key}-{file_id}-{begun_s}{PARTIAL_SUFFIX}")
    }
}

/// The snapshot as its sender names it, and which file of it.
type ArrivalId = (SnapshotKey, u64);

/// The files that are just coming, each from one sender.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<BTreeSet<ArrivalId>>);

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<ArrivalId>> {
        // Each change of the set is one call: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that nobody else may touch a partial file, until it is dropped.
struct Claim {
    shared: Arc<Shared>,
    id: ArrivalId,
}

impl Claim {
    /// Nothing if somebody else has it.
    fn new(shared: &Arc<Shared>, id: ArrivalId) -> Option<Claim> {
        shared.arrivals.lock().insert(id).then(|| Claim {
            shared: Arc::clone(shared),
            id,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.arrivals.lock().remove(&self.id);
    }
}

/// Goes on with what is there of `transfer`, or begins.
pub(super) fn resume(shared: &Arc<Shared>, transfer: &SnapshotTransfer) -> Result<Resumed> {
    let limit = shared.options.file_bytes_max;
    let more = usize::try_from(transfer.file_bytes).unwrap_or(usize::MAX);
    check_limit(&shared.dir, 0, more, limit)?;
    let id = (transfer.key, transfer.file_id);
    let claim = Claim::new(shared, id).ok_or_else(|| Error::SnapshotInUse {
        name: transfer.key.to_string(),
    })?;
    let now = SystemTime::now();
    let mut own = None;
    for partial in partials(shared)? {
        if partial.id() == id && own.is_none() && !shared.is_expired(&partial, now) {
            own = Some(partial);
        } else {
            give_up(shared, &partial, transfer, now)?;
        }
    }
    let staged = match own {
        Some(partial) => go_on(shared, &partial, transfer)?,
        None => begin(shared, transfer, now)?,
    };
    Ok(Resumed {
        staged,
        file_bytes: transfer.file_bytes,
        claim,
    })
}

fn partials(shared: &Shared) -> Result<Vec<Partial>> {
    let names = shared.fs.list(&shared.dir)?;
    let parsed = |name: PathBuf| Partial::of_name(name.to_str()?);
    Ok(names.into_iter().filter_map(parsed).collect())
}

/// Removes a partial file that `transfer` supersedes or that is too old, unless it is just coming.
fn give_up(
    shared: &Arc<Shared>,
    partial: &Partial,
    transfer: &SnapshotTransfer,
    now: SystemTime,
) -> Result<()> {
    let is_own = partial.id() == (transfer.key, transfer.file_id);
    let is_superseded = partial.key.region == transfer.key.region;
    if !is_superseded && !shared.is_expired(partial, now) {
        return Ok(());
    }
    // Its own is claimed already.
    let claim = Claim::new(shared, partial.id());
    if claim.is_none() && !is_own {
        return Ok(());
    }
    match shared.fs.remove(&shared.dir.join(partial.to_string())) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn begin(shared: &Arc<Shared>, transfer: &SnapshotTransfer, now: SystemTime) -> Result<Staged> {
    let since_epoch = now.duration_since(UNIX_EPOCH);
    let partial = Partial {
        key: transfer.key,
        file_id: transfer.file_id,
        begun_s: since_epoch.map_or(0, |since| since.as_secs()),
    };
    let path = shared.dir.join(partial.to_string());
    Ok(Staged {
        shared: Arc::clone(shared),
        file: shared.fs.create(&path)?.into(),
        path,
        length: 0,
        fate: Fate::Kept,
    })
}

fn go_on(shared: &Arc<Shared>, partial: &Partial, transfer: &SnapshotTransfer) -> Result<Staged> {
    let path = shared.dir.join(partial.to_string());
    let mut staged = Staged {
        shared: Arc::clone(shared),
        file: shared.fs.open_for_write(&path)?.into(),
        path,
        length: 0,
        fate: Fate::Kept,
    };
    let mut file = FileCursor::new(Arc::clone(&staged.file))?;
    if file.length > transfer.file_bytes {
        // Nothing that was written here is as long, and nothing makes a file shorter.
        staged.fate = Fate::Removed;
        drop(staged);
        return begin(shared, transfer, SystemTime::now());
    }
    staged.length = whole_prefix(&mut file, &staged.path, transfer)?;
    Ok(staged)
}

/// A file that comes from another store, and of which a part may have come before.
pub(super) struct Resumed {
    // Dropped before the claim: whoever claims it next finds it as it is left.
    staged: Staged,
    file_bytes: u64,
    claim: Claim,
}

impl Sink for Resumed {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let limit = check_limit(
            &self.staged.path,
            self.staged.length,
            bytes.len(),
            self.file_bytes,
        );
        let written = limit.and_then(|()| self.staged.put(bytes));
        if written.is_err() {
            self.staged.fate = Fate::Removed;
        }
        written
    }
}

impl SnapshotReceiver for SinkStream<Resumed> {
    fn offset(&self) -> u64 {
        self.sink().map_or(0, |resumed| resumed.staged.length)
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let resumed = self.into_inner()?;
        if resumed.staged.length < resumed.file_bytes {
            // It broke off; what is there is of use to the next try.
            let (got, expected) = (resumed.staged.length, resumed.file_bytes);
            let what = format!("snapshot file {}", resumed.staged.path.display());
            let detail = format!("{got} bytes have come, expected {expected}");
            let region = resumed.claim.id.0.region;
            return Err(Error::corruption(Some(region), what, detail));
        }
        let Resumed { staged, claim, .. } = resumed;
        let taken = staged.take_in();
        drop(claim);
        taken
    }
}
