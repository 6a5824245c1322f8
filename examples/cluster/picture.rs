//! Where the regions are, as dot text and as SVG. Uses: svg.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::protocol::Known;
use super::{Outcome, shown, svg};

/// Draws the regions on the stores before a store was lost and at the end: into `dir` if it is kept,
/// else beside what cargo has built.
pub fn draw(
    before: &BTreeMap<u64, Vec<Known>>,
    after: &BTreeMap<u64, Vec<Known>>,
    dir: Option<&Path>,
) -> Outcome<()> {
    let built = std::env::current_exe()?;
    let built = built.ancestors().nth(3).map(Path::to_path_buf);
    let kept = dir.map(|dir| dir.join("diagrams"));
    let target = kept.unwrap_or_else(|| built.unwrap_or_else(std::env::temp_dir).join("demo"));
    std::fs::create_dir_all(&target)?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for (name, survey) in [("before", before), ("after", after)] {
        let text = dot(name, survey);
        let picture = svg::render(&text).map_err(|e| format!("{name}: {e}"))?;
        std::fs::write(target.join(format!("{name}.dot")), text)?;
        std::fs::write(target.join(format!("{name}.svg")), picture)?;
        paths.push(target.join(format!("{name}.svg")));
    }
    let paths: Vec<String> = paths.iter().map(|path| shown(path)).collect();
    println!("the regions on the stores: {}", paths.join(", "));
    Ok(())
}

/// A record of all regions in the order of their keys, and one of each store. An arrow leads from a
/// region to the store that leads it, a dashed one to a store that leads none.
fn dot(name: &str, survey: &BTreeMap<u64, Vec<Known>>) -> String {
    let mut leaders: Vec<&Known> = survey.values().flatten().filter(|k| k.is_leader).collect();
    leaders.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
    let mut rows = vec!["regions, by their first key".to_string()];
    let skipped = common_directory(&leaders);
    for known in &leaders {
        let (id, key) = (known.region.id, &known.region.start_key);
        let key = key.get(skipped..).unwrap_or_default();
        rows.push(format!("<r{id}> region {id}: {}", shown_key(key)));
    }
    let mut text = format!(
        "digraph {name} {{\n  rankdir=LR;\n  bgcolor=\"white\";\n  \
         node [shape=box, style=filled, color=\"#666666\", fontname=\"Helvetica\", fontsize=14];\n  \
         edge [color=\"#444444\", fontname=\"Helvetica\", fontsize=10];\n"
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  regions [shape=record, label=\"{}\", fillcolor=\"#ffe8b8\"];",
        rows.join(" | ")
    );
    for (store, regions) in survey {
        let mut rows = vec![format!("store {store}")];
        let mut own: Vec<&Known> = regions.iter().collect();
        own.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
        for known in own {
            let role = if known.is_leader { "leads" } else { "follows" };
            let id = known.region.id;
            rows.push(format!("<r{id}> {role} {id}, applied {}", known.applied));
        }
        let _ = writeln!(
            text,
            "  store{store} [shape=record, label=\"{}\", fillcolor=\"#cfe2ff\"];",
            rows.join(" | ")
        );
    }
    for (store, regions) in survey {
        if !regions.iter().any(|known| known.is_leader) {
            let _ = writeln!(text, "  regions -> store{store} [style=dashed];");
        }
        for known in regions.iter().filter(|known| known.is_leader) {
            let id = known.region.id;
            let _ = writeln!(text, "  regions:r{id} -> store{store}:r{id};");
        }
    }
    text.push_str("}\n");
    text
}

/// How much of the keys is the same directory for all of them, and need not be shown.
fn common_directory(regions: &[&Known]) -> usize {
    let mut keys = regions.iter().map(|known| &known.region.start_key[..]);
    let mut keys = keys.by_ref().filter(|key| !key.is_empty());
    let first = keys.next().unwrap_or_default();
    let common = keys.fold(first.len(), |length, key| {
        let same = first.iter().zip(key).take_while(|(a, b)| a == b);
        length.min(same.count())
    });
    let slash = first[..common].iter().rposition(|byte| *byte == b'/');
    slash.map_or(0, |at| at + 1)
}

/// The beginning of a key, without what has a meaning in dot.
fn shown_key(key: &[u8]) -> String {
    const SHOWN: usize = 28;
    let plain = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => *byte as char,
        _ => ' ',
    };
    let head: String = key.iter().take(SHOWN).map(plain).collect();
    match key.len() {
        0 => "the first".into(),
        length if length > SHOWN => format!("{head}..."),
        _ => head,
    }
}
