//! The figures as a picture: a panel a part, a bar an engine, its lowest and highest run as a line
//! across its end. Uses: the table.

use std::fmt::Write as _;

use crate::parts::Part;
use crate::table::{Figures, Spread};

const PANEL_WIDTH: usize = 360;
const BAR_HEIGHT: usize = 18;
const NAME_WIDTH: usize = 90;
const BAR_WIDTH: f64 = 170.0;
const COLUMNS: usize = 3;

/// What a bar is filled with.
fn colour(engine: &str) -> &'static str {
    match engine {
        "segment" => "#1f6fb4",
        "raft-engine" => "#d9822b",
        "rocksdb" => "#7a7a7a",
        _ => "#c9c9c9",
    }
}

/// All parts as one SVG.
pub fn svg(parts: &[(&Part, Vec<Figures>)]) -> String {
    let panels: Vec<String> = parts
        .iter()
        .map(|(part, figures)| panel(part, figures))
        .collect();
    let panel_height = 40 + 4 * (BAR_HEIGHT + 4);
    let (width, height) = (
        COLUMNS * PANEL_WIDTH,
        panels.len().div_ceil(COLUMNS) * panel_height + 10,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = (
            at % COLUMNS * PANEL_WIDTH + 10,
            at / COLUMNS * panel_height + 10,
        );
        writeln!(out, "<g transform=\"translate({x} {y})\">\n{panel}</g>").ok();
    }
    out + "</svg>\n"
}

fn panel(part: &Part, figures: &[Figures]) -> String {
    let spreads = figures
        .iter()
        .filter_map(|f| Some((f.engine, Spread::of(&f.runs)?)));
    let spreads: Vec<(&str, Spread)> = spreads.collect();
    let most = spreads
        .iter()
        .map(|(_, spread)| spread.high)
        .fold(0.0, f64::max);
    let mut out = format!(
        "<text y=\"12\" font-weight=\"bold\">{} {} x {} B: {}</text>\n",
        part.name, part.threads, part.bytes, part.unit
    );
    for (at, (engine, spread)) in spreads.iter().enumerate() {
        let y = 20 + at * (BAR_HEIGHT + 4);
        let to = |figure: f64| figure / most.max(f64::MIN_POSITIVE) * BAR_WIDTH;
        let (text_y, middle) = (y + 13, y + BAR_HEIGHT / 2);
        let end = NAME_WIDTH as f64 + to(spread.median);
        let (low, high) = (
            NAME_WIDTH as f64 + to(spread.low),
            NAME_WIDTH as f64 + to(spread.high),
        );
        let digits = if spread.median >= 100.0 { 0 } else { 2 };
        writeln!(
            out,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{engine}</text>\n\
             <rect x=\"{NAME_WIDTH}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{}\"/>\n\
             <line x1=\"{low:.1}\" y1=\"{middle}\" x2=\"{high:.1}\" y2=\"{middle}\" stroke=\"black\"/>\n\
             <text x=\"{:.1}\" y=\"{text_y}\">{:.digits$}</text>",
            NAME_WIDTH - 6,
            end - NAME_WIDTH as f64,
            colour(engine),
            high.max(end) + 5.0,
            spread.median,
        )
        .ok();
    }
    out
}
