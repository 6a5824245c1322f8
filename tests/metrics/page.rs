//! The example's page, as a Prometheus would get it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use peerstore::metrics::{METRICS, MetricKind};

use crate::prometheus::{Cluster, Page, install_recorder};

const PATIENCE: Duration = Duration::from_secs(60);

fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The body of the page.
fn get(address: SocketAddr) -> String {
    let answer = request(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    body.to_string()
}

/// A line of the page: its name, its labels, its value.
fn samples(body: &str) -> Vec<(&str, BTreeMap<&str, &str>, f64)> {
    let lines = body
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (left, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = left.split_once('{').unwrap_or((left, "}"));
            let labels = labels
                .strip_suffix('}')
                .unwrap()
                .split(',')
                .filter(|l| !l.is_empty());
            let labels = labels.map(|label| {
                let (label, value) = label.split_once('=').unwrap();
                (label, value.trim_matches('"'))
            });
            (name, labels.collect(), value.parse().unwrap())
        })
        .collect()
}

fn sum(body: &str, name: &str, label: &str, value: &str) -> f64 {
    let all = samples(body).into_iter();
    let ours =
        all.filter(|(n, labels, _)| *n == name && (label.is_empty() || labels[label] == value));
    ours.map(|(_, _, value)| value).sum()
}

#[test]
fn every_metric_of_the_table_is_on_the_page_with_its_type_and_bounded_labels() {
    let recorder = install_recorder().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).unwrap();
    let page = Page::serve("127.0.0.1:0", recorder, cluster.stores.clone()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    for number in 0..50 {
        while let Err(error) = cluster.put("key", &number.to_string()) {
            assert!(Instant::now() < deadline, "{error}");
        }
    }
    let body = get(page.address());
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let line = format!("# TYPE {} {kind}", metric.name);
        assert!(
            body.lines().any(|l| l == line),
            "no line {line:?} in\n{body}"
        );
        let line = format!("# HELP {} {}", metric.name, metric.meaning);
        assert!(
            body.lines().any(|l| l == line),
            "no line {line:?} in\n{body}"
        );
    }
    check_labels(&body);
    check_values(&body);
    check_strangers(page.address());
}

/// What has happened is there.
fn check_values(body: &str) {
    assert!(sum(body, "peerstore_proposals_total", "", "") >= 50.0);
    assert!(sum(body, "peerstore_reads_total", "", "") >= 50.0);
    assert!(sum(body, "peerstore_elections_total", "", "") >= 1.0);
    assert_eq!(sum(body, "peerstore_leaders", "", ""), 1.0);
    assert_eq!(sum(body, "peerstore_regions", "state", "active"), 3.0);
    assert_eq!(sum(body, "peerstore_regions", "", ""), 3.0);
    assert!(sum(body, "peerstore_log_append_entries_sum", "", "") >= 100.0);
    assert!(
        sum(
            &body,
            "peerstore_log_append_seconds_count",
            "durability",
            "synced"
        ) >= 50.0
    );
    assert!(sum(body, "peerstore_fsync_seconds_count", "part", "log") >= 50.0);
    assert!(sum(body, "peerstore_apply_entries_sum", "", "") >= 50.0);
    assert!(sum(body, "peerstore_log_segments", "", "") >= 3.0);
    assert!(sum(body, "peerstore_log_entries", "", "") >= 100.0);
    assert!(
        sum(
            &body,
            "peerstore_transport_messages_total",
            "direction",
            "sent"
        ) >= 50.0
    );
    assert!(
        sum(
            &body,
            "peerstore_transport_bytes_total",
            "direction",
            "received"
        ) >= 50.0
    );
    assert!(
        sum(
            &body,
            "peerstore_transport_connections_total",
            "direction",
            "accepted"
        ) >= 2.0
    );
    assert!(sum(body, "peerstore_round_seconds_count", "", "") >= 50.0);
    assert_eq!(
        sum(body, "peerstore_log_append_failures_total", "", ""),
        0.0
    );
}

/// No label but those of the table, with no other values: so the number of series is bounded.
fn check_labels(body: &str) {
    let mut stores = BTreeSet::new();
    for (name, labels, _) in samples(body) {
        let is_part = |metric: &&peerstore::metrics::Metric| {
            let rest = name.strip_prefix(metric.name);
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let metric = METRICS.iter().find(is_part);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
        for (label, value) in labels {
            let is_known = match (label, metric.label) {
                ("store", _) => stores.insert(value.to_string()) || true,
                ("le", _) => metric.kind == MetricKind::Histogram,
                (label, Some((known, values))) => label == known && values.contains(&value),
                _ => false,
            };
            assert!(is_known, "{name} has {label}={value:?}");
        }
    }
    assert_eq!(stores, ["1", "2", "3"].map(String::from).into());
}

/// What is no request for the page does not keep the page from others.
fn check_strangers(address: SocketAddr) {
    let other = request(address, "GET /other HTTP/1.1\r\n\r\n");
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let mut broken = TcpStream::connect(address).unwrap();
    broken.write_all(b"GET /met").unwrap();
    broken.shutdown(Shutdown::Write).unwrap();
    let mut endless = TcpStream::connect(address).unwrap();
    // It is hung up on behind the limit; how much of this is taken before is the system's affair.
    let _ = endless.write_all(&[b'x'; 64 << 10]);
    drop(endless);
    assert!(get(address).contains("peerstore_"));
}
