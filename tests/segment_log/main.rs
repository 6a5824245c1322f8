//! The append-only log against power cuts, damage, failing disks and a plain model.

mod crowd;
mod cuts;
mod durability;
mod faults;
mod flips;
mod model;
mod node;
mod observed;
mod space;
mod support;
mod together;
mod upkeep;
