//! The suite of [`raft::Storage`].
