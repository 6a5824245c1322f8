//! The stores under openraft: its own suite, restarts, crashes, and a cluster.

mod suite;
mod support;
