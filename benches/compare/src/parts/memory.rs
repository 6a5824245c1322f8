//! What entries take in memory. Uses: the engines.

use super::Source;
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
    let count: u64 = million.unwrap_or(3) * 1_000_000;
    let before = rss()?;
    for index in 1..=count / regions {
        let writes = (1..=regions).map(|region| source.write(region, index, 1));
        engine.write(&writes.collect::<Vec<_>>(), false)?;
    }
    Ok((rss()? - before) / count as f64)
}
