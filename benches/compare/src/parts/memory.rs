//! What entries take in memory. Uses: the engines.

use super::{REGIONS, Source};
use crate::engines::{Engine, Outcome};

fn rss() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split(' ').nth(1).ok_or("no RSS")?.parse()?;
    Ok(pages * 4096.0)
}

/// Millions of entries, ten to a batch over ten regions.
pub fn memory(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    let million = std::env::var("COMPARE_MILLION")
        .ok()
        .and_then(|m| m.parse().ok());
    let count: u64 = million.unwrap_or(10) * 1_000_000;
    let before = rss()?;
    for index in 1..=count / regions {
        let writes = (1..=regions).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok((rss()? - before) / count as f64)
}

/// Regions with one entry and a state, a hundred to a batch.
pub fn idle(engine: &dyn Engine, source: &Source, regions: u64) -> Outcome<f64> {
    // First what every log takes, whoever its regions are: buffers, the newest frames.
    for index in 1..=20_000 {
        let writes: Vec<_> = (1..=REGIONS).map(|r| source.write(r, index, 1)).collect();
        engine.write(&writes, false)?;
    }
    engine.compact(&(1..=REGIONS).map(|r| (r, 20_000)).collect::<Vec<_>>())?;
    let before = rss()?;
    for some in (1..=regions / 100).map(|at| REGIONS + at * 100) {
        let writes = (some..some + 100).map(|region| source.write(region, 1, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok((rss()? - before) / regions as f64)
}
