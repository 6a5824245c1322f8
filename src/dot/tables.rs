//! Pictures of two tables: the layers of the source, the keyspaces on disk. Uses: keys.

use super::graph::{Graph, Kind, Way};
use crate::keys::{KEYSPACES, KeyspaceInfo};

const LAYERS: &str = include_str!("../../docs/layers.txt");

/// The layers of `docs/layers.txt`: a module uses its own row and the rows above it.
pub fn layers() -> String {
    let rows = LAYERS.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<(&str, &str)> = rows.filter_map(|line| line.split_once(": ")).collect();
    let mut graph = Graph::new("layers", Way::Down);
    for (number, (title, modules)) in rows.iter().enumerate() {
        let fields: Vec<&str> = [*title]
            .into_iter()
            .chain(modules.split_whitespace())
            .collect();
        graph.fields(&format!("row{number}"), Kind::Data, &fields);
    }
    for number in 1..rows.len() {
        let above = format!("row{}", number - 1);
        graph.edge(&format!("row{number}"), &above, "");
    }
    graph.finish()
}

/// What is on disk where, drawn from [`KEYSPACES`].
pub fn keyspaces() -> String {
    let mut graph = Graph::new("keyspaces", Way::Right);
    let stores = [
        ("raft", Kind::Log, "LogBatch"),
        ("kv", Kind::Data, "AppBatch"),
    ];
    for (store, kind, batch) in stores {
        let batch_id = format!("{store}_batch");
        graph.node(
            &batch_id,
            Kind::Memory,
            &format!("{batch}\nall of it or nothing"),
        );
        let title = format!("keyspace of {store}/");
        let mut columns = [vec![title.as_str()], vec!["key"], vec!["value"]];
        for keyspace in KEYSPACES.iter().filter(|k| k.store == store) {
            let KeyspaceInfo {
                store: _,
                name,
                key,
                value,
            } = keyspace;
            for (column, cell) in columns.iter_mut().zip([name, key, value]) {
                column.push(cell);
            }
        }
        graph.table(store, kind, &columns);
        graph.edge(&batch_id, store, "");
    }
    graph.finish()
}
