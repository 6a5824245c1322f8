//! Errors of peerstore as d-engine knows errors. Never does I/O.

use std::error::Error as _;

use d_engine_core::{Error, StorageError};

/// What d-engine does about an error depends on its kind: `Fatal` and `DataCorruption` end the node, any
/// other is logged and tried again. A poisoned store refuses every write until it is opened again, so it
/// has to be fatal: d-engine would otherwise go on with a log that never becomes longer.
pub(crate) fn of(error: peerstore::Error) -> Error {
    let text = whole(&error);
    match error {
        peerstore::Error::Poisoned { .. } => Error::Fatal(text),
        peerstore::Error::Corruption { .. } | peerstore::Error::UnsupportedVersion { .. } => {
            StorageError::DataCorruption { location: text }.into()
        }
        _ => StorageError::DbError(text).into(),
    }
}

/// What does not fit to the log as it is. Nothing was written.
pub(crate) fn log(got: String, expected: String) -> Error {
    StorageError::LogStorage(format!("{got}, expected {expected}")).into()
}

/// What does not fit to the state machine as it is. Nothing was changed.
pub(crate) fn state_machine(got: String, expected: String) -> Error {
    StorageError::StateMachineError(format!("{got}, expected {expected}")).into()
}

/// What is stored and cannot be.
pub(crate) fn damaged(location: String) -> Error {
    StorageError::DataCorruption { location }.into()
}

/// The error with what caused it: of d-engine's own, only the outermost line is shown.
fn whole(error: &peerstore::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
