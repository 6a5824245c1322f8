//! The pictures of this crate as Graphviz dot text, built from its own types and tables, so that they
//! change with the code or do not compile. Uses: the public API only. Never does I/O.
//!
//! `make dot` writes them to `dot/`. [`live`] draws one region with the numbers that it has right now:
//!
//! ```
//! # use peerstore::{CompositeStorage, Config, Region};
//! # let dir = tempfile::tempdir()?;
//! # let node = CompositeStorage::open(dir.path(), Config::default())?;
//! let storage = node.create_region(&Region::single(7, 1))?;
//! let text = peerstore::dot::live(&storage);
//! assert!(text.starts_with("digraph peerstorage {"));
//! assert!(text.contains("applied_index = 5"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Only plain boxes, records and labels are used: what every reader of dot can draw.

mod flow;
mod graph;
mod reads;
mod states;
mod storage;
mod tables;

pub use flow::{data_flow, install};
pub use reads::entries;
pub use states::{region_stages, snapshot_states};
pub use storage::{live, peer_storage};
pub use tables::{keyspaces, layers};

/// The name of a picture's file, and what draws it.
pub type Picture = (&'static str, fn() -> String);

/// Every picture that needs no storage.
pub const PICTURES: [Picture; 8] = [
    ("data_flow", data_flow),
    ("install", install),
    ("keyspaces", keyspaces),
    ("layers", layers),
    ("peerstorage", peer_storage),
    ("peerstorage_entries", entries),
    ("snapshot_states", snapshot_states),
    ("region_stages", region_stages),
];
