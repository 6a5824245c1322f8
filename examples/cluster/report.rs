//! What it took: a table, and diagrams of the regions as they are.

use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use super::input::Input;
use super::net::{Cluster, STORES};
use super::store::Store;
use super::{Outcome, shown, svg};

const MIB: f64 = (1 << 20) as f64;

pub fn print(cluster: &Cluster, input: &Input, load_time: Duration, retries: u64) {
    let (mib, seconds) = (input.bytes as f64 / MIB, load_time.as_secs_f64());
    println!(
        "loaded {mib:.1} MiB in {seconds:.1} s: {:.1} MiB/s, each on {STORES} stores; {retries} proposals repeated\n",
        mib / seconds.max(0.001)
    );
    let header = [
        "store",
        "log\nentries",
        "log\nMiB",
        "log\nfsyncs",
        "entries\nper fsync",
        "data\nfsyncs",
        "snapshots\ninstalled",
        "snapshot\nMiB",
        "snapshot\nseconds",
        "cache\nhits",
        "cold\nreads",
    ];
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for id in 1..=STORES {
        let figures = cluster.figures(id);
        let (log, snapshots) = (figures.log, figures.snapshots);
        let reads = (figures.cache_hits + figures.cache_misses).max(1);
        table.add_row([
            id.to_string(),
            log.entries.to_string(),
            format!("{:.1}", log.bytes as f64 / MIB),
            log.syncs.to_string(),
            format!("{:.1}", log.entries as f64 / log.syncs.max(1) as f64),
            figures.data_syncs.to_string(),
            snapshots.installed.to_string(),
            format!("{:.1}", snapshots.bytes as f64 / MIB),
            format!("{:.2}", snapshots.time.as_secs_f64()),
            format!("{:.1} %", figures.cache_hits as f64 * 100.0 / reads as f64),
            figures.cold_reads.to_string(),
        ]);
    }
    println!("{table}\n");
}

/// Draws the regions of `store` as they are, as dot text and as SVG: into `dir` if it is kept, else
/// beside what cargo has built.
pub fn draw(store: &Store, dir: Option<&Path>) -> Outcome<()> {
    let built = std::env::current_exe()?;
    let built = built.ancestors().nth(3).map(Path::to_path_buf);
    let kept = dir.map(|dir| dir.join("diagrams"));
    let target = kept.unwrap_or_else(|| built.unwrap_or_else(std::env::temp_dir).join("demo"));
    std::fs::create_dir_all(&target)?;
    for (region, peer) in &store.peers {
        let text = peerstore::dot::live(peer.raft.store());
        let picture = svg::render(&text).map_err(|e| format!("region {region}: {e}"))?;
        std::fs::write(target.join(format!("region-{region}.dot")), text)?;
        std::fs::write(target.join(format!("region-{region}.svg")), picture)?;
    }
    let (id, count, path) = (store.id, store.peers.len(), shown(&target));
    println!("store {id} as it is now: {path}/region-1.svg, and so on to {count}");
    Ok(())
}
