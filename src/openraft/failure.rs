//! Errors as openraft wants them, and work that may wait for the disk. Uses: error.

use openraft::AnyError;

use crate::error::{Error, Result, catch_panic};

/// The error as openraft carries it: its text, its type and its sources.
pub(super) fn any(error: &Error) -> AnyError {
    AnyError::new(error)
}

/// Does `work` on a thread of the runtime that may wait.
///
/// # Errors
/// What `work` answers; `WorkerPanicked`; `WorkerGone` if the runtime ends.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    const WORKER: &str = "openraft blocking";
    let done = tokio::task::spawn_blocking(move || catch_panic(WORKER, work)).await;
    done.unwrap_or(Err(Error::WorkerGone { worker: WORKER }))
}
