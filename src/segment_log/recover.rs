//! Opening a log: the checkpoint, then the frames behind it, then what the next opening will see.
//! The table of cases is in `docs/log-format.md`. Uses: fs.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{self, Head, Position};
use super::core::{Core, Tables, lock};
use super::format::{HEADER_BYTES, Header, HeaderFound, Identity, SegmentId, Usage};
use super::index::Op;
use super::options::SegmentLogOptions;
use super::pool::Pool;
use super::ring::Ring;
use super::scan::{Damage, scan_group, tail};
use super::segment::{Info, Segment, damaged, file_name, newer, parse_name};
use crate::error::{Error, Result};
use crate::fs::FileSystem;

pub(super) const LOCK: &str = "LOCK";

/// What a directory turned out to hold.
enum Kind {
    Empty,
    Log(Vec<SegmentId>),
}

/// Looks at a directory without touching it.
fn look(fs: &dyn FileSystem, dir: &Path) -> Result<Kind> {
    let names = fs.list(dir)?;
    let names: Vec<_> = names.iter().map(|n| n.to_string_lossy()).collect();
    let segments: Vec<SegmentId> = names.iter().filter_map(|n| parse_name(n)).collect();
    if names.iter().any(|n| n == checkpoint::NAME) {
        return Ok(Kind::Log(segments));
    }
    if !segments.is_empty() {
        return Err(Error::IncompleteStore {
            path: dir.to_path_buf(),
            missing: format!("the file {}", checkpoint::NAME),
        });
    }
    let ours = [LOCK, checkpoint::NEW_NAME];
    match names.iter().find(|n| !ours.contains(&n.as_ref())) {
        None => Ok(Kind::Empty),
        Some(name) => Err(Error::ForeignDirectory {
            path: dir.to_path_buf(),
            found: format!("\"{name}\" and no {}", checkpoint::NAME),
        }),
    }
}

/// Opens or creates the log in `dir`, whose lock is held.
pub(super) fn open(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    options: SegmentLogOptions,
) -> Result<Arc<Core>> {
    match look(&*fs, dir)? {
        Kind::Empty => create(fs, dir, options),
        Kind::Log(files) => Recovery::run(fs, dir, options, files),
    }
}

/// That `dir` is there, or may be made, and is not somebody else's.
pub(super) fn check_dir(fs: &dyn FileSystem, dir: &Path, create: bool) -> Result<()> {
    let not_found = || Error::StoreNotFound {
        path: dir.to_path_buf(),
    };
    if !fs.exists(dir)? {
        return if create {
            fs.create_dir_all(dir)
        } else {
            Err(not_found())
        };
    }
    match look(fs, dir)? {
        Kind::Empty if !create => Err(not_found()),
        // Made, perhaps, by somebody who was killed before its name was durable.
        Kind::Empty => fs.create_dir_all(dir),
        Kind::Log(_) => Ok(()),
    }
}

fn create(fs: Arc<dyn FileSystem>, dir: &Path, options: SegmentLogOptions) -> Result<Arc<Core>> {
    let store = match options.store_id {
        0 => RandomState::new().hash_one(dir),
        given => given,
    };
    let core = start(
        fs,
        dir,
        options,
        Identity {
            store,
            ..Identity::default()
        },
        SegmentId(1),
    );
    core.begin()?;
    Ok(core)
}

fn start(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    options: SegmentLogOptions,
    before: Identity,
    next: SegmentId,
) -> Arc<Core> {
    let identity = Identity {
        incarnation: before.incarnation + 1,
        ..before
    };
    let bytes = options.segment_bytes;
    let pool = Pool::new(
        Arc::clone(&fs),
        dir.to_path_buf(),
        bytes,
        before.store,
        next,
    );
    let ring = Ring::new(options.ring_bytes);
    let core = Core::new(fs, dir.to_path_buf(), options, pool, identity);
    core.write_tables().ring = ring;
    Arc::new(core)
}

/// What is found out on the way.
struct Recovery<'a> {
    dir: &'a Path,
    head: Head,
    tables: Tables,
    /// Files in use that the checkpoint does not name.
    hot: BTreeMap<SegmentId, (Segment, Header)>,
    cold: BTreeMap<SegmentId, (Segment, Header)>,
    spares: Vec<Segment>,
    /// Files that hold nothing that counts.
    unused: Vec<Segment>,
    damages: Vec<Damage>,
}

impl Recovery<'_> {
    fn run(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: SegmentLogOptions,
        files: Vec<SegmentId>,
    ) -> Result<Arc<Core>> {
        let mut tables = Tables::default();
        let (head, _) = checkpoint::read(&*fs, dir, |region, log| {
            tables.index.restore(region, log);
        })?;
        let mut recovery = Recovery {
            dir,
            head,
            tables,
            hot: BTreeMap::new(),
            cold: BTreeMap::new(),
            spares: Vec::new(),
            unused: Vec::new(),
            damages: Vec::new(),
        };
        recovery.open_named(&*fs)?;
        for id in &files {
            if !recovery.tables.segments.contains_key(id) {
                recovery.classify(&*fs, *id)?;
            }
        }
        recovery.replay()?;
        recovery.judge(&options)?;
        let next = files
            .last()
            .map_or(0, |id| id.0 + 1)
            .max(recovery.head.next.0);
        recovery.finish(fs, options, SegmentId(next))
    }

    /// Opens the segments that the checkpoint names.
    fn open_named(&mut self, fs: &dyn FileSystem) -> Result<()> {
        for row in &self.head.segments {
            let id = row.identity.segment;
            let path = self.dir.join(file_name(id));
            let segment = Segment::open(fs, path.clone(), id).map_err(|e| match e {
                Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                    incomplete(self.dir, id)
                }
                other => other,
            })?;
            let header = segment.valid_header()?;
            let is_cold = header.usage == Usage::Cold;
            let is_it = header.identity == row.identity && is_cold == row.is_cold;
            if !is_it || segment.size < row.end {
                let detail = format!(
                    "expected {row:?}, found {header:?} in {} bytes",
                    segment.size
                );
                return Err(damaged(&path, detail));
            }
            let info = Info {
                segment: Arc::new(segment),
                identity: row.identity,
                is_cold,
                end: row.end,
                footer: row.footer,
            };
            self.tables.segments.insert(id, info);
        }
        Ok(())
    }

    /// Tells what a file is that the checkpoint does not name.
    fn classify(&mut self, fs: &dyn FileSystem, id: SegmentId) -> Result<()> {
        let path = self.dir.join(file_name(id));
        let segment = Segment::open(fs, path.clone(), id)?;
        let header = match segment.header()? {
            HeaderFound::Valid(header) => header,
            // Its making was cut short.
            HeaderFound::Blank => {
                self.unused.push(segment);
                return Ok(());
            }
            HeaderFound::Newer(got) => return Err(newer(&path, got)),
            HeaderFound::Damaged(..) => segment.valid_header()?,
        };
        let identity = header.identity;
        if identity.store != self.head.store {
            let (got, own) = (identity.store, self.head.store);
            let detail = format!("it belongs to log {got:#018x}, this is {own:#018x}");
            return Err(damaged(&path, detail));
        }
        let is_current = identity.incarnation == self.head.incarnation;
        match header.usage {
            // Its recycling was cut short: it has its new name and its old header, or the reverse.
            _ if identity.segment != id => self.unused.push(segment),
            Usage::Spare => self.spares.push(segment),
            Usage::Hot { .. } if is_current => {
                self.hot.insert(id, (segment, header));
            }
            Usage::Cold if is_current => {
                self.cold.insert(id, (segment, header));
            }
            _ => self.unused.push(segment),
        }
        Ok(())
    }

    /// Replays the log from the checkpoint's position on, segment by segment.
    fn replay(&mut self) -> Result<()> {
        let mut at = self.head.position;
        let mut is_sealed = self.head.is_sealed;
        loop {
            let next = self.successor(at.segment);
            let known_end = next.as_ref().map(|(_, end)| *end);
            if at.segment != SegmentId(0) && !is_sealed {
                at.offset = self.replay_segment(at, known_end)?;
            }
            let Some((id, end)) = next else {
                break;
            };
            if end != at.offset {
                let path = self.dir.join(file_name(id));
                let detail = format!(
                    "it follows offset {end} of segment {}, which ends at {}",
                    at.segment, at.offset
                );
                return Err(damaged(&path, detail));
            }
            self.enlist(id);
            (at, is_sealed) = (
                Position {
                    segment: id,
                    offset: HEADER_BYTES,
                },
                false,
            );
        }
        self.tables.position = at;
        // What is in use and not reached follows a segment that is not there. Older ones were given
        // up by this checkpoint.
        let lost = self.hot.keys().find(|id| **id > at.segment);
        if let Some(id) = lost {
            let detail = format!(
                "nothing leads to it; the log ends in segment {}",
                at.segment
            );
            return Err(damaged(&self.dir.join(file_name(*id)), detail));
        }
        Ok(())
    }

    /// The segment that goes on behind `previous`, and where it says that one ended.
    fn successor(&self, previous: SegmentId) -> Option<(SegmentId, u64)> {
        self.hot
            .iter()
            .find_map(|(id, (_, header))| match header.usage {
                Usage::Hot { previous: p, end } if p == previous => Some((*id, end)),
                _ => None,
            })
    }

    fn enlist(&mut self, id: SegmentId) {
        let file = self.hot.remove(&id).or_else(|| self.cold.remove(&id));
        if let Some((segment, header)) = file {
            let info = Info {
                segment: Arc::new(segment),
                identity: header.identity,
                is_cold: header.usage == Usage::Cold,
                end: HEADER_BYTES,
                footer: None,
            };
            self.tables.segments.insert(id, info);
        }
    }

    /// Replays one segment from `at` on and returns where it ends.
    fn replay_segment(&mut self, at: Position, known_end: Option<u64>) -> Result<u64> {
        let Some(info) = self.tables.segments.get(&at.segment).cloned() else {
            return Err(incomplete(self.dir, at.segment));
        };
        // Offsets are those of the file, so the bytes before are left out as zeroes.
        let mut bytes = vec![0; info.segment.size.max(at.offset) as usize];
        let wanted = &mut bytes[at.offset as usize..];
        info.segment.file.read_exact_at(wanted, at.offset)?;
        let must_reach = known_end.unwrap_or(at.offset).max(at.offset);
        let scanned = tail(&info, &bytes, at.offset, must_reach)?;
        for frame in &scanned.frames {
            for op in scan_group(frame, &bytes)? {
                self.reach(&op)?;
                self.tables.index.apply(at.segment, &op);
            }
        }
        self.damages.extend(scanned.damages);
        if known_end.is_none() {
            self.make_durable(&info, &bytes, scanned.durable, scanned.end)?;
        }
        if let Some(info) = self.tables.segments.get_mut(&at.segment) {
            info.end = scanned.end;
        }
        Ok(scanned.end)
    }

    /// Makes the tail durable that is served from now on. It is written again, because the process
    /// before may have had an fsync that failed: then the pages count as clean, and no fsync of ours
    /// would write them.
    fn make_durable(&self, info: &Info, bytes: &[u8], durable: u64, end: u64) -> Result<()> {
        let file = &info.segment.file;
        let has_header = durable > HEADER_BYTES;
        if has_header && end == durable {
            return Ok(());
        }
        if !has_header {
            let mut header = vec![0; HEADER_BYTES as usize];
            file.read_exact_at(&mut header, 0)?;
            file.write_all_at(&header, 0)?;
        }
        file.write_all_at(&bytes[durable as usize..end as usize], durable)?;
        file.sync()
    }

    /// Finds the segment that a move leads to.
    fn reach(&mut self, op: &Op) -> Result<()> {
        let Op::Move { run, to, .. } = op else {
            return Ok(());
        };
        if !self.tables.segments.contains_key(to) {
            self.enlist(*to);
        }
        let Some(info) = self.tables.segments.get_mut(to) else {
            return Err(incomplete(self.dir, *to));
        };
        let end = u64::from(run.offset) + u64::from(run.stored & !super::format::COMPRESSED);
        info.end = info.end.max(end);
        Ok(())
    }

    /// Refuses damage that the caller has not agreed to lose, and drops the rest.
    fn judge(&mut self, options: &SegmentLogOptions) -> Result<()> {
        let is_agreed = |damage: &&Damage| options.quarantine.contains(&damage.region);
        if let Some(damage) = self.damages.iter().find(|damage| !is_agreed(damage)) {
            return Err(damage.error());
        }
        for damage in &self.damages {
            tracing::warn!(region = damage.region.0, what = %damage.what, detail = %damage.detail,
                "dropped the damaged log of a quarantined region");
            let region = damage.region;
            self.tables.index.apply(SegmentId(0), &Op::Clear { region });
        }
        let logs = self.tables.index.regions.iter();
        let dangling = logs
            .flat_map(|(region, log)| log.parts.iter().map(move |part| (*region, part.segment)))
            .find(|(_, segment)| !self.tables.segments.contains_key(segment));
        match dangling {
            None => Ok(()),
            Some((_, segment)) => Err(incomplete(self.dir, segment)),
        }
    }

    fn finish(
        self,
        fs: Arc<dyn FileSystem>,
        options: SegmentLogOptions,
        next: SegmentId,
    ) -> Result<Arc<Core>> {
        let before = Identity {
            store: self.head.store,
            segment: SegmentId(0),
            incarnation: self.head.incarnation,
        };
        let position = self.tables.position;
        let core = start(fs, self.dir, options, before, next);
        lock(&core.active).resume_at(position);
        {
            let mut tables = core.write_tables();
            let ring = std::mem::take(&mut tables.ring);
            *tables = self.tables;
            tables.ring = ring;
        }
        for spare in self.spares {
            // Numbers ascend along the log; one that was passed over is made anew.
            match spare.id > position.segment {
                true => core.pool.adopt(spare),
                false => core.pool.recycle(Arc::new(spare)),
            }
        }
        let cold = self.cold.into_values().chain(self.hot.into_values());
        for segment in self
            .unused
            .into_iter()
            .chain(cold.map(|(segment, _)| segment))
        {
            core.pool.recycle(Arc::new(segment));
        }
        match core.begin() {
            // It can be read; the first write tries again.
            Ok(()) | Err(Error::DiskFull { .. }) => Ok(core),
            Err(error) => Err(error),
        }
    }
}

fn incomplete(dir: &Path, segment: SegmentId) -> Error {
    let path: PathBuf = dir.to_path_buf();
    Error::IncompleteStore {
        path,
        missing: format!("the file {}", file_name(segment)),
    }
}
