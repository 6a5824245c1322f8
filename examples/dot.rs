//! Draws the pictures in `dot/` again: as dot text and, without Graphviz, as SVG.
//!
//! `cargo run --example dot [directory]`, or `make dot`

#[path = "support/svg.rs"]
mod svg;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args_os().nth(1);
    let dir = given.map_or_else(|| "dot".into(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    for (name, draw) in peerstore::dot::PICTURES {
        let text = draw();
        let picture = svg::render(&text).map_err(|e| format!("{name}: {e}"))?;
        std::fs::write(dir.join(format!("{name}.dot")), &text)?;
        std::fs::write(dir.join(format!("{name}.svg")), picture)?;
        println!("{}", dir.join(format!("{name}.svg")).display());
    }
    Ok(())
}
