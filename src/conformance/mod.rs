//! Suites that any backend is run against. Uses: the public seams. Never knows a backend.
//!
//! Whoever writes a storage runs the suite of its seam in a test of their own:
//!
//! - [`raft_log`] for a [`RaftLogStorage`],
//! - [`app_store`] for an [`ApplicationDataStorage`],
//! - [`transactions`] for a [`TransactionalStorage`],
//! - [`snapshots`] for a [`RaftSnapshotStorage`],
//! - [`raft_storage`] for anything that implements [`raft::Storage`], whatever it is built on.
//!
//! Every case gets a new, empty store. `run` goes through all of them and then panics with the names
//! and messages of those that failed; `check` returns these instead.
//!
//! ```
//! use peerstore::conformance;
//! use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
//!
//! conformance::raft_log::run(MemoryLog::new);
//! conformance::app_store::run(MemoryData::new);
//! conformance::snapshots::run(MemorySnapshots::new);
//! ```
//!
//! A store that keeps what it is given says how to open it again; the cases of persistence are
//! skipped without. Here a log that is "on disk" in an older copy of itself:
//!
//! ```
//! use peerstore::conformance::{self, Harness};
//! use peerstore::memory::MemoryLog;
//! use peerstore::{RaftLogStorage, Result};
//!
//! struct Reopened(MemoryLog);
//!
//! impl Harness<dyn RaftLogStorage> for Reopened {
//!     fn store(&self) -> &(dyn RaftLogStorage + 'static) {
//!         &self.0
//!     }
//!     fn reopen(&mut self) -> Result<bool> {
//!         self.0 = self.0.crash_copy(usize::MAX);
//!         Ok(true)
//!     }
//!     fn crash(&mut self) -> Result<bool> {
//!         self.0 = self.0.crash_copy(0);
//!         Ok(true)
//!     }
//! }
//!
//! conformance::raft_log::run(|| Reopened(MemoryLog::new()));
//! ```

pub mod app_store;
pub mod raft_log;
pub mod raft_storage;
mod samples;
pub mod snapshots;
pub mod transactions;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    ApplicationDataStorage, RaftLogStorage, RaftSnapshotStorage, Result, TransactionalStorage,
};

/// A store under test and how it is opened again. A store by itself is one that cannot be.
pub trait Harness<S: ?Sized> {
    /// The store; empty until a case has written to it.
    fn store(&self) -> &S;

    /// Closes the store and opens what it left, as after the death of the process: everything
    /// written is there. False if it cannot be opened again; cases that need it are skipped then.
    ///
    /// # Errors
    /// Those of opening, which fail the case.
    fn reopen(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// The same as after a power cut: what was not synced may be gone. False, the default, if the
    /// test cannot do that.
    ///
    /// # Errors
    /// Those of opening, which fail the case.
    fn crash(&mut self) -> Result<bool> {
        Ok(false)
    }
}

impl<L: RaftLogStorage + 'static> Harness<dyn RaftLogStorage> for L {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        self
    }
}

impl<D: ApplicationDataStorage + 'static> Harness<dyn ApplicationDataStorage> for D {
    fn store(&self) -> &(dyn ApplicationDataStorage + 'static) {
        self
    }
}

impl<T: TransactionalStorage + 'static> Harness<dyn TransactionalStorage> for T {
    fn store(&self) -> &(dyn TransactionalStorage + 'static) {
        self
    }
}

impl<S: RaftSnapshotStorage + 'static> Harness<dyn RaftSnapshotStorage> for S {
    fn store(&self) -> &(dyn RaftSnapshotStorage + 'static) {
        self
    }
}

/// One test of a suite over a harness `H`.
pub struct Case<H: ?Sized> {
    name: String,
    run: Box<dyn Fn(&mut H)>,
}

/// A case that failed, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the case.
    pub case: String,
    /// The message of its panic.
    pub message: String,
}

impl<H: ?Sized> Case<H> {
    /// A case that is named as its function is.
    fn new<F: Fn(&mut H) + 'static>(run: F) -> Self {
        let path = std::any::type_name::<F>();
        let path = path.split('<').next().unwrap_or(path);
        Case {
            name: path.rsplit("::").next().unwrap_or(path).to_string(),
            run: Box::new(run),
        }
    }

    /// What the case demands, as a sentence.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it over `harness`, whose store must be empty. A case fails by a panic, its own or one of
    /// the store; with `panic = "abort"` the first failure is therefore the last.
    ///
    /// # Errors
    /// The failure.
    pub fn run(&self, harness: &mut H) -> Result<(), Failure> {
        catch_unwind(AssertUnwindSafe(|| (self.run)(harness))).map_err(|panic| Failure {
            case: self.name.clone(),
            message: message(panic.as_ref()),
        })
    }
}

impl<H: ?Sized> fmt::Debug for Case<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.message)
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
        .to_string()
}

/// Panics with all of `failures`, if there are any.
fn report(suite: &str, failures: &[Failure]) {
    let lines: String = failures.iter().map(|f| format!("\n  {f}")).collect();
    let count = failures.len();
    assert!(failures.is_empty(), "{suite}: {count} cases failed:{lines}");
}
