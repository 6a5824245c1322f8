//! What is measured: the table, its document, and the page of the example over a real socket.

#[path = "../../examples/prometheus.rs"]
mod prometheus;

mod events;
mod page;
mod table;
