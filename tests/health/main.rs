//! How a node stands: real faults below it, and what a check says of them. Time is moved by hand.

mod layers;
mod support;
mod trouble;
mod watching;
