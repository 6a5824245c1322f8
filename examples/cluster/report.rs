//! What it took, as a table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use super::client::Repeated;
use super::input::Input;
use super::protocol::{Figures, Known};

const MIB: f64 = (1 << 20) as f64;

pub fn print(
    input: &Input,
    load_time: Duration,
    repeated: &Repeated,
    survey: &BTreeMap<u64, Vec<Known>>,
    figures: &BTreeMap<u64, Figures>,
) {
    let (mib, seconds) = (input.bytes as f64 / MIB, load_time.as_secs_f64());
    println!(
        "loaded {mib:.1} MiB in {seconds:.1} s: {:.1} MiB/s, each key on 3 stores",
        mib / seconds.max(0.001)
    );
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "proposals made again: {} for another leader, {} after a split or merge, {} unanswered, {} others\n",
        count(&repeated.not_leader),
        count(&repeated.stale),
        count(&repeated.unanswered),
        count(&repeated.other)
    );
    let header = [
        "store",
        "up\ns",
        "regions",
        "leads",
        "applied\nentries",
        "log\nentries",
        "log\nMiB",
        "log\nMiB/s",
        "log\nfsyncs",
        "entries\nper fsync",
        "messages\nsent",
        "snapshots\nsent",
        "snapshots\ninstalled",
    ];
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (store, figures) in figures {
        let regions: Vec<&Known> = survey.get(store).into_iter().flatten().collect();
        let seconds = (figures.milliseconds as f64 / 1000.0).max(0.001);
        let mib = figures.log_bytes as f64 / MIB;
        let applied: u64 = regions.iter().map(|known| known.applied).sum();
        table.add_row([
            store.to_string(),
            format!("{seconds:.1}"),
            regions.len().to_string(),
            regions.iter().filter(|k| k.is_leader).count().to_string(),
            applied.to_string(),
            figures.log_entries.to_string(),
            format!("{mib:.1}"),
            format!("{:.1}", mib / seconds),
            figures.log_syncs.to_string(),
            format!(
                "{:.1}",
                figures.log_entries as f64 / figures.log_syncs.max(1) as f64
            ),
            figures.messages_out.to_string(),
            figures.snapshots_sent.to_string(),
            figures.snapshots_installed.to_string(),
        ]);
    }
    println!("{table}");
    println!("a store counts from its last start\n");
}
