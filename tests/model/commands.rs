//! What can happen to a node, as intents: a command is made to fit the region that it meets, so that
//! any shorter list of commands makes sense too.

use peerstore::memory::WriteFault;
use proptest::prelude::*;

/// A region of the node.
pub type At = usize;

/// One call, or what belongs together.
#[derive(Clone, Debug)]
pub enum Op {
    /// Entries by hand, the first `back` behind the end.
    Append { at: At, back: u8, entries: Bytes },
    /// Term and vote by hand.
    Vote { at: At, bump: u8, vote: u8 },
    /// Commit by hand.
    Commit { at: At, by: u8 },
    /// Configuration by hand.
    Conf { at: At, n: u8 },
    /// Cuts the log at a share of what is applied.
    Compact { at: At, share: u8 },
    /// Applies some of what is committed.
    Apply { at: At, count: u8 },
    /// The same for a state machine that keeps its data elsewhere.
    Advance { at: At, count: u8 },
    /// Stages what raft has into the batch that is being filled, or persists it alone.
    Ready { at: At, news: News, alone: bool },
    /// Writes the batch that was filled.
    Write,
    /// Says that the oldest written batch is durable.
    Persisted,
    /// Builds a snapshot.
    Snapshot { at: At },
    /// Installs one that was built on either node, by hand.
    Install { at: At, which: u8 },
    /// Drops cached entries.
    CompactCache { at: At, share: u8 },
    /// Destroys the region and creates it anew.
    Recreate { at: At, initialized: bool },
}

impl Op {
    /// Whether nothing has changed, in memory either, if it fails.
    pub fn is_all_or_nothing(&self) -> bool {
        match self {
            Op::Ready { news, .. } => !matches!(news, News::Snapshot { .. }),
            Op::Compact { .. } | Op::Install { .. } | Op::Recreate { .. } => false,
            Op::Persisted => false,
            _ => true,
        }
    }
}

/// Data of new entries.
pub type Bytes = Vec<Vec<u8>>;

/// What a leader or candidate says.
#[derive(Clone, Debug)]
pub enum News {
    Append {
        back: u8,
        entries: Bytes,
        commit: u8,
    },
    Vote {
        by: u8,
    },
    Commit {
        by: u8,
    },
    Snapshot {
        which: u8,
    },
}

/// How much of what was not synced is there after a power cut: a share of 255.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub log: u8,
    pub data: u8,
}

#[derive(Clone, Debug)]
pub enum Command {
    Do(usize, Op),
    /// The power is cut, and the node opened again.
    Crash(usize, Kept),
    /// The same while `Op` runs, whose next write to the log or to the data fails.
    Fail {
        node: usize,
        op: Op,
        on_log: bool,
        fault: WriteFault,
        kept: Kept,
    },
}

fn kept() -> impl Strategy<Value = Kept> {
    let share = || prop_oneof![Just(0u8), Just(255u8), any::<u8>()];
    (share(), share()).prop_map(|(log, data)| Kept { log, data })
}

fn data() -> impl Strategy<Value = Bytes> {
    let size = prop_oneof![8 => 0..12usize, 1 => 100..400usize];
    let one = size.prop_flat_map(|size| proptest::collection::vec(any::<u8>(), size));
    proptest::collection::vec(one, 1..7)
}

fn back() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => 1..8u8]
}

fn news() -> impl Strategy<Value = News> {
    let append = (back(), data(), 0..4u8);
    prop_oneof![
        6 => append.prop_map(|(back, entries, commit)| News::Append { back, entries, commit }),
        1 => (1..9u8).prop_map(|by| News::Vote { by }),
        2 => (1..9u8).prop_map(|by| News::Commit { by }),
        1 => any::<u8>().prop_map(|which| News::Snapshot { which }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..2usize;
    prop_oneof![
        4 => (at(), back(), data())
            .prop_map(|(at, back, entries)| Op::Append { at, back, entries }),
        2 => (at(), 0..3u8, 0..4u8).prop_map(|(at, bump, vote)| Op::Vote { at, bump, vote }),
        3 => (at(), 1..9u8).prop_map(|(at, by)| Op::Commit { at, by }),
        1 => (at(), any::<u8>()).prop_map(|(at, n)| Op::Conf { at, n }),
        3 => (at(), any::<u8>()).prop_map(|(at, share)| Op::Compact { at, share }),
        6 => (at(), 1..9u8).prop_map(|(at, count)| Op::Apply { at, count }),
        1 => (at(), 1..5u8).prop_map(|(at, count)| Op::Advance { at, count }),
        8 => (at(), news(), prop::bool::weighted(0.25))
            .prop_map(|(at, news, alone)| Op::Ready { at, news, alone }),
        5 => Just(Op::Write),
        5 => Just(Op::Persisted),
        2 => at().prop_map(|at| Op::Snapshot { at }),
        2 => (at(), any::<u8>()).prop_map(|(at, which)| Op::Install { at, which }),
        1 => (at(), any::<u8>()).prop_map(|(at, share)| Op::CompactCache { at, share }),
        1 => (at(), any::<bool>())
            .prop_map(|(at, initialized)| Op::Recreate { at, initialized }),
    ]
}

pub fn command() -> BoxedStrategy<Command> {
    let node = || prop_oneof![4 => Just(0usize), 1 => Just(1usize)];
    let fault = prop_oneof![Just(WriteFault::DiskFull), Just(WriteFault::SyncFailed)];
    let failing = (node(), op(), any::<bool>(), fault, kept());
    prop_oneof![
        20 => (node(), op()).prop_map(|(node, op)| Command::Do(node, op)),
        1 => (node(), kept()).prop_map(|(node, kept)| Command::Crash(node, kept)),
        1 => failing.prop_map(|(node, op, on_log, fault, kept)| Command::Fail {
            node, op, on_log, fault, kept
        }),
    ]
    .boxed()
}
