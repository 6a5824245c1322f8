//! How what is on disk about a region contradicts itself. Uses: nothing of ours. Never does I/O.

/// How the stored states of a region contradict each other. Each names a rule of
/// `docs/architecture.md`; none is repaired silently, because each means lost or foreign data.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Rule 1.
    #[error(
        "commit {commit} is beyond last index {last_index}: acknowledged entries are gone; {REMOVE}"
    )]
    CommitBeyondLog {
        /// The larger of the two recorded commits.
        commit: u64,
        /// The end of the log.
        last_index: u64,
    },
    /// Rule 2.
    #[error(
        "applied commit {index} has term {got:?} in the log, {expected} was recorded: the log is not the one that was applied; {REMOVE}"
    )]
    CommitTermMismatch {
        /// The recorded commit.
        index: u64,
        /// The term in the log, if the entry is there.
        got: Option<u64>,
        /// The term that was recorded.
        expected: u64,
    },
    /// Rule 3.
    #[error(
        "hard state has term {got}, an entry of term {expected} was committed: a vote was lost; {REMOVE}"
    )]
    TermBehindCommit {
        /// The term of the hard state.
        got: u64,
        /// The term of the recorded commit.
        expected: u64,
    },
    /// Rule 4.
    #[error(
        "last index {last_index} is neither in the log nor the truncated index {truncated_index}; {REMOVE}"
    )]
    LastEntryMissing {
        /// The recorded end of the log.
        last_index: u64,
        /// Where the log was cut.
        truncated_index: u64,
    },
    /// Rule 5.
    #[error(
        "applied index {applied} is neither in the log nor the truncated index {truncated_index}; {REMOVE}"
    )]
    AppliedEntryMissing {
        /// The applied index.
        applied: u64,
        /// Where the log was cut.
        truncated_index: u64,
    },
    /// Rule 6.
    #[error(
        "applied index {applied} is beyond last index {last_index}: the log store is older than the data; {REMOVE}"
    )]
    AppliedBeyondLog {
        /// The applied index.
        applied: u64,
        /// The end of the log.
        last_index: u64,
    },
    /// Raft itself refuses to start like this; no order of our writes leads here.
    #[error("applied index {applied} is beyond commit {commit}; {REMOVE}")]
    AppliedBeyondCommit {
        /// The applied index.
        applied: u64,
        /// The larger of the two recorded commits.
        commit: u64,
    },
    /// Rule 7.
    #[error("the region has peers but no hard state: its vote is gone; {REMOVE}")]
    HardStateMissing,
    /// Rule 11.
    #[error("state is Applying, but the snapshot state saved for it is missing; {REMOVE}")]
    PendingSnapshotMissing,
    /// Rule 10.
    #[error("state is Applying, and its snapshot file {name} cannot be read ({reason}); {REMOVE}")]
    SnapshotFileMissing {
        /// The name of the file.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A state that must be there is not.
    #[error("{what} is missing; {REMOVE}")]
    StateMissing {
        /// Which one.
        what: &'static str,
    },
    /// Raft could not restore this configuration.
    #[error("its configuration is invalid: {reason}; {REMOVE}")]
    ConfStateInvalid {
        /// What is wrong with it.
        reason: String,
    },
}

/// What a user can do about a replica that contradicts itself.
const REMOVE: &str = "remove this replica by conf change and add a new one, or restore a backup";
