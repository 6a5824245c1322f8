//! What reading costs. Uses: the engines.

use std::path::Path;
use std::time::Instant;

use super::{REGIONS, Source, forget, io};
use crate::engines::{Engine, Outcome};

const READS: u64 = 20_000;

pub fn one(engine: &dyn Engine, count: u64, newest: bool) -> Outcome<f64> {
    let mut at = 1u64;
    let start = Instant::now();
    for _ in 0..READS {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // The newest tenth is in memory, where there is a place for it.
        let index = match newest {
            true => count - (at >> 33) % (count / 10),
            false => 1 + (at >> 33) % (count / 2),
        };
        if engine.read(1 + (at >> 50) % REGIONS, index..index + 1)? == 0 {
            return Err(format!("entry {index} is empty").into());
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / READS as f64)
}

/// What reading in chunks came to.
pub struct Chunks {
    /// In MiB a second.
    pub speed: f64,
    /// Bytes read for each byte of payload.
    pub amplified: f64,
}

/// Reads in chunks of 64 entries what was written in such for all regions together; from the disk if
/// there is a `cold` directory to forget.
pub fn chunks(engine: &dyn Engine, source: &Source, cold: Option<&Path>) -> Outcome<Chunks> {
    let rounds = 40;
    for round in 0..rounds {
        let writes = (1..=REGIONS).map(|region| source.write(region, 1 + round * 64, 64));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    if let Some(dir) = cold {
        forget(dir)?;
    }
    let (before, mut bytes) = (io("rchar")?, 0);
    let start = Instant::now();
    for region in 1..=REGIONS {
        for round in 0..rounds / 2 {
            let low = 1 + round * 64;
            bytes += engine.read(region, low..low + 64)?;
        }
    }
    let took = start.elapsed().as_secs_f64();
    Ok(Chunks {
        speed: bytes as f64 / took / f64::from(1 << 20),
        amplified: (io("rchar")? - before) / bytes as f64,
    })
}
