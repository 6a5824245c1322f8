//! The table of metrics and the document that shows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use peerstore::metrics::{METRICS, Metric, MetricKind, MetricUnit};

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let unit = match metric.unit {
        MetricUnit::Count => "",
        MetricUnit::Bytes => "bytes",
        MetricUnit::Seconds => "seconds",
    };
    let label = metric.label.map(|(label, values)| {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("{label}: {}", values.join(", "))
    });
    let label = label.unwrap_or_default();
    let cells = [
        format!("`{}`", metric.name),
        kind.into(),
        unit.into(),
        label,
        metric.meaning.into(),
    ];
    let cells = cells.map(|cell: String| {
        if cell.is_empty() {
            " ".into()
        } else {
            format!(" {cell} ")
        }
    });
    format!("|{}|", cells.join("|"))
}

#[test]
fn the_document_shows_the_table_as_it_is() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from);
    let text = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let shown: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("| `peerstore_"))
        .collect();
    let rows: Vec<String> = METRICS.iter().map(row).collect();
    assert!(shown == rows, "the table should be:\n{}\n", rows.join("\n"));
}

#[test]
fn names_say_their_kind_and_unit_and_are_there_once() {
    let names: BTreeSet<&str> = METRICS.iter().map(|m| m.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for Metric {
        name, kind, unit, ..
    } in METRICS
    {
        assert!(name.starts_with("peerstore_"), "{name}");
        let base = name.strip_suffix("_total");
        assert_eq!(base.is_some(), *kind == MetricKind::Counter, "{name}");
        let base = base.unwrap_or(name);
        assert_eq!(
            base.ends_with("_seconds"),
            *unit == MetricUnit::Seconds,
            "{name}"
        );
        assert_eq!(
            base.ends_with("_bytes"),
            *unit == MetricUnit::Bytes,
            "{name}"
        );
    }
}
