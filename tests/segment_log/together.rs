//! Batches of many threads and tickets: each is answered, in its order, and is there.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use peerstore::memory::MemFs;
use peerstore::segment_log::{SegmentLog, SegmentLogOptions, SyncPolicy};
use peerstore::{Durability, Error, LogBatch, RaftLogStorage, RegionId, Result, Ticket};

use crate::support::{entry, open, options};

const PATIENCE: Duration = Duration::from_secs(120);

fn batch(region: u64, index: u64) -> LogBatch {
    let mut batch = LogBatch::default();
    let data = vec![region as u8; 40 + (index % 300) as usize];
    batch.append(RegionId(region), vec![entry(index, 1, data)]);
    batch
}

fn durability(index: u64) -> Durability {
    match index % 5 {
        0 => Durability::Buffered,
        _ => Durability::Synced,
    }
}

/// Every region has all of its entries.
fn check(log: &SegmentLog, regions: u64, count: u64) {
    for region in 1..=regions {
        let read = log.read_entries(RegionId(region), 1..count + 1, u64::MAX);
        let read = read.expect("read");
        assert_eq!(read.len() as u64, count, "region {region}");
        assert!(
            read.iter()
                .all(|e| e.data.iter().all(|b| *b == region as u8))
        );
    }
}

/// Wakes the thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The least that a runtime does.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Writes as the number of the thread says: blocking, by tickets that are waited for, awaited, polled
/// once and then waited for, given up after no time at all, or thrown away.
fn write(log: &SegmentLog, region: u64, count: u64) -> Result<()> {
    let mut index = 1;
    while index <= count {
        let together = 1 + (index * region) % 7;
        let last = count.min(index + together - 1);
        let submit = |index| log.submit(&batch(region, index), durability(index));
        match region % 5 {
            0 => (index..=last).try_for_each(|i| log.write(&batch(region, i), durability(i)))?,
            1 => {
                let tickets = (index..=last).map(submit).collect::<Result<Vec<_>>>()?;
                // The last first: its thread may write the others.
                tickets
                    .into_iter()
                    .rev()
                    .try_for_each(|t| t.wait(PATIENCE))?;
            }
            2 => {
                let tickets = (index..=last).map(submit).collect::<Result<Vec<_>>>()?;
                tickets.into_iter().try_for_each(block_on)?;
            }
            3 => {
                for index in index..=last {
                    let mut ticket = submit(index)?;
                    let mut context = Context::from_waker(Waker::noop());
                    match Pin::new(&mut ticket).poll(&mut context) {
                        Poll::Ready(answer) => answer?,
                        Poll::Pending => ticket.wait(PATIENCE)?,
                    }
                }
            }
            _ => {
                for index in index..last {
                    let waited = submit(index)?.wait(Duration::ZERO);
                    assert!(
                        matches!(waited, Ok(()) | Err(Error::Timeout { .. })),
                        "{waited:?}"
                    );
                }
                drop::<Ticket<()>>(submit(last)?);
            }
        }
        index = last + 1;
    }
    log.sync()
}

fn all_write(options: &SegmentLogOptions, threads: u64, count: u64) {
    let fs = MemFs::new();
    let log = open(&fs, options).expect("open");
    let start = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        for region in 1..=threads {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                write(log, region, count).expect("written");
            });
        }
    });
    check(&log, threads, count);
    let stats = log.stats();
    assert_eq!(stats.entries, threads * count);
    drop(log);
    check(&open(&fs, options).expect("open again"), threads, count);
}

#[test]
fn every_batch_is_answered_however_its_writer_waits() {
    all_write(&options(), 10, 300);
}

#[test]
fn every_batch_is_answered_where_the_log_has_threads() {
    let options = SegmentLogOptions {
        background: true,
        ..options()
    };
    all_write(&options, 10, 300);
}

#[test]
fn every_batch_is_answered_where_groups_are_small() {
    let options = SegmentLogOptions {
        background: true,
        group_bytes_max: 500,
        ..options()
    };
    all_write(&options, 12, 100);
}

#[test]
fn every_batch_is_answered_where_syncs_are_held_back() {
    let options = SegmentLogOptions {
        sync: SyncPolicy::Interval(Duration::from_millis(1)),
        background: true,
        ..options()
    };
    all_write(&options, 10, 60);
}

#[test]
fn a_lone_awaited_ticket_is_written_by_the_log_or_by_the_poll() -> Result<()> {
    for background in [true, false] {
        let options = SegmentLogOptions {
            background,
            ..options()
        };
        let fs = MemFs::new();
        let log = open(&fs, &options)?;
        block_on(log.submit(&batch(1, 1), Durability::Synced)?)?;
        check(&log, 1, 1);
        let kept = log.submit(&batch(1, 2), Durability::Synced)?;
        drop(log);
        // It was written when the log was closed, and says so.
        block_on(kept)?;
        check(&open(&fs, &options)?, 1, 2);
    }
    Ok(())
}

#[test]
fn a_failed_fsync_is_the_answer_to_everybody_of_the_group() -> Result<()> {
    let fs = MemFs::new();
    let log = open(&fs, &options())?;
    log.write(&batch(1, 1), Durability::Synced)?;
    let tickets = (2..6).map(|index| log.submit(&batch(1, index), Durability::Synced));
    let mut tickets = tickets.collect::<Result<Vec<_>>>()?;
    let awaited = tickets.pop();
    // The group is one write, and then its fsync.
    fs.fail_at(fs.operations() + 1, ErrorKind::Other);
    for ticket in tickets {
        let answer = ticket.wait(PATIENCE);
        assert!(matches!(answer, Err(Error::Io { .. })), "{answer:?}");
    }
    let answer = awaited.map(block_on);
    assert!(matches!(answer, Some(Err(Error::Io { .. }))), "{answer:?}");
    let later = log.submit(&batch(1, 6), Durability::Synced);
    assert!(matches!(later, Err(Error::Poisoned { .. })));
    Ok(())
}
