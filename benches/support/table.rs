//! A table of figures, each beside its target and whether it was met.

use comfy_table::{Table, presets};

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// Shown for what it is.
    None,
}

/// A table that knows how many of its targets were missed.
pub struct Report {
    title: &'static str,
    table: Table,
    missed: usize,
}

impl Report {
    /// `columns` come between the name of a row and its figure.
    pub fn new(title: &'static str, columns: &[&str]) -> Report {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let head = [&["what"], columns, &["figure", "target", "mark"]].concat();
        table.set_header(head);
        Report {
            title,
            table,
            missed: 0,
        }
    }

    /// Adds a row; `cells` are as many as there are columns.
    pub fn row(&mut self, what: &str, cells: &[String], figure: (f64, &str), target: Target) {
        let (value, unit) = figure;
        let (goal, met) = match target {
            Target::AtMost(limit) => (format!("<= {limit}{unit}"), Some(value <= limit)),
            Target::AtLeast(limit) => (format!(">= {limit}{unit}"), Some(value >= limit)),
            Target::None => (String::new(), None),
        };
        self.missed += usize::from(met == Some(false));
        let mark = match met {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "",
        };
        let mut row = vec![what.to_string()];
        row.extend_from_slice(cells);
        row.extend([format!("{}{unit}", shown(value)), goal, mark.into()]);
        self.table.add_row(row);
    }

    /// Prints it.
    pub fn print(&self) {
        println!("\n{}\n\n{}", self.title, self.table);
        match self.missed {
            0 => println!("\nevery target met"),
            missed => println!("\n{missed} missed"),
        }
    }
}

/// A figure with three digits that say something.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Seconds, in the unit that suits them.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.1} us", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}

/// The median of samples and, behind it, where eight of ten lie.
pub fn spread(samples: &super::Samples) -> String {
    let (low, high) = (samples.quantile(0.1), samples.quantile(0.9));
    format!("{} ({}-{})", time(samples.median()), time(low), time(high))
}
