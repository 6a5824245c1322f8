//! The transport between stores, over real sockets on the loopback.

mod garbage;
mod messages;
mod refusals;
mod snapshots;
mod support;
#[cfg(feature = "tls")]
mod tls;
