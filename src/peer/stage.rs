//! How a peer stands, and what leads from where to where. Uses: nothing of ours. Never does I/O.

use raft::Ready;
use raft::eraftpb::Message;

/// How a peer stands.
#[derive(Debug)]
pub enum Stage {
    /// It takes part.
    Active,
    /// A snapshot is being installed: raft is not touched until it is done.
    Installing(Box<Installing>),
    /// It goes as soon as nothing of it is being written.
    Leaving,
    /// It cannot go on.
    Stopped(String),
}

/// See [`Stage::Installing`].
#[derive(Debug)]
pub struct Installing {
    pub(super) ready: Ready,
    pub(super) messages: Vec<Message>,
}

/// The transitions between the [`RegionStage`](crate::RegionStage)s: from, what happens, to. Each change
/// of a peer's stage is checked against this table, and `dot/region_stages.dot` is drawn from it. `Merging`
/// is a peer that takes part and has applied that it stops.
pub const REGION_TRANSITIONS: [(&str, &str, &str); 12] = [
    (
        "Active",
        "a snapshot comes, everything before it is done",
        "Installing",
    ),
    ("Installing", "installed", "Active"),
    ("Active", "PrepareMerge applied", "Merging"),
    ("Merging", "RollbackMerge applied", "Active"),
    ("Merging", "taken in by its neighbour", "Leaving"),
    ("Merging", "a snapshot comes", "Installing"),
    ("Active", "removed from its region, or destroyed", "Leaving"),
    ("Installing", "told to go: after the install", "Leaving"),
    ("Stopped", "destroyed by its operator", "Leaving"),
    ("Active", "an error or a panic of its own", "Stopped"),
    ("Merging", "an error or a panic of its own", "Stopped"),
    ("Installing", "the store was poisoned", "Stopped"),
];

impl Stage {
    /// Its name, as the table and the picture have it.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Active => "Active",
            Stage::Installing(_) => "Installing",
            Stage::Leaving => "Leaving",
            Stage::Stopped(_) => "Stopped",
        }
    }

    /// Goes to `next`, which must be an edge of [`REGION_TRANSITIONS`]; hands back what was there.
    pub(super) fn go(&mut self, next: Stage) -> Stage {
        let (from, to) = (self.name(), next.name());
        assert!(
            REGION_TRANSITIONS
                .iter()
                .any(|(f, _, t)| (*f, *t) == (from, to)),
            "stage of a peer: {from} does not lead to {to}"
        );
        std::mem::replace(self, next)
    }
}
