//! The figures of all runs as a table, with the ratios that are aimed at. Uses: the parts.

use crate::parts::{Aim, Part};

/// The figures of one engine, a run each, in the order of the runs.
pub struct Figures {
    pub engine: &'static str,
    pub runs: Vec<f64>,
}

/// Lowest, middle and highest.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            low: *sorted.first()?,
            median: sorted[sorted.len() / 2],
            high: *sorted.last()?,
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        let Spread { low, median, high } = self;
        write!(f, "{median:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}

/// The ratios of the runs of `own` to those of `other` that were made in the same turn.
fn ratio(own: &Figures, other: &Figures) -> Option<Spread> {
    let pairs = own.runs.iter().zip(&other.runs);
    let ratios: Vec<f64> = pairs.map(|(own, other)| own / other).collect();
    Spread::of(&ratios)
}

pub fn head() -> String {
    "| part | engine | median (lowest to highest) | append_log is | aim |\n|---|---|---|---|---|"
        .into()
}

/// The rows of a part. `figures` ends with the append-only log's.
pub fn rows(part: &Part, figures: &[Figures]) -> String {
    let Some(own) = figures.last() else {
        return String::new();
    };
    let mut rows = Vec::new();
    for of_engine in figures {
        let Some(spread) = Spread::of(&of_engine.runs) else {
            continue;
        };
        let is_own = of_engine.engine == own.engine;
        let ratio = ratio(own, of_engine).filter(|_| !is_own);
        let said = ratio.map_or(String::new(), |ratio| format!("{ratio} x"));
        let aims = part.aims.iter();
        let aims = aims.filter_map(|aim| verdict(*aim, of_engine.engine, is_own, spread, ratio));
        let aims: Vec<String> = aims.collect();
        rows.push(format!(
            "| {} {} x {} B, {} | {} | {spread} | {said} | {} |",
            part.name,
            part.threads,
            part.bytes,
            part.unit,
            of_engine.engine,
            aims.join("; ")
        ));
    }
    rows.join("\n")
}

/// What is to be said of an aim in the row of an engine.
fn verdict(
    aim: Aim,
    engine: &str,
    is_own: bool,
    own: Spread,
    ratio: Option<Spread>,
) -> Option<String> {
    let (sign, aimed, got) = match aim {
        Aim::AtLeast(aimed, other) if other == engine => (">=", aimed, ratio?.median),
        Aim::AtMost(aimed, other) if other == engine => ("<=", aimed, ratio?.median),
        Aim::Above(aimed) if is_own => (">=", aimed, own.median),
        Aim::Below(aimed) if is_own => ("<=", aimed, own.median),
        _ => return None,
    };
    let is_met = if sign == ">=" {
        got >= aimed
    } else {
        got <= aimed
    };
    let met = if is_met { "met" } else { "missed" };
    Some(format!("{sign} {aimed}: {met}"))
}
