//! The append-only log against power cuts, damage, failing disks and a plain model.

mod cuts;
mod faults;
mod flips;
mod model;
mod node;
mod observed;
mod support;
mod together;
mod upkeep;
