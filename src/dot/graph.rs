//! Writes dot text. Uses: nothing of ours.

use std::fmt::Write as _;

/// What a box stands for, told by its colour, the same in every picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Durable, in the log store.
    Log,
    /// Durable, in the data store.
    Data,
    /// Durable, a snapshot file.
    File,
    /// In memory.
    Memory,
    /// A call, of raft-rs or ours.
    Call,
    /// A question whose answer decides the way.
    Question,
    /// Refused, or not now.
    Refusal,
}

impl Kind {
    fn colour(self) -> &'static str {
        match self {
            Kind::Log => "#ffe8b8",
            Kind::Data => "#cfe2ff",
            Kind::File => "#e3d5f5",
            Kind::Memory => "#d6efd6",
            Kind::Call => "#f0f0f0",
            Kind::Question => "#ffffff",
            Kind::Refusal => "#f8d0cc",
        }
    }
}

/// Which way the arrows of a picture run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Down,
    Right,
}

/// A picture that is being written.
pub(super) struct Graph {
    text: String,
    way: Way,
}

impl Graph {
    pub fn new(name: &str, way: Way) -> Graph {
        let direction = match way {
            Way::Down => "TB",
            Way::Right => "LR",
        };
        let text = format!(
            "digraph {name} {{\n  \
             rankdir={direction};\n  \
             bgcolor=\"white\";\n  \
             node [shape=box, style=filled, color=\"#666666\", fontname=\"Helvetica\", fontsize=14];\n  \
             edge [color=\"#444444\", fontname=\"Helvetica\", fontsize=10];\n"
        );
        Graph { text, way }
    }

    /// A box with the lines of `label`.
    pub fn node(&mut self, id: &str, kind: Kind, label: &str) {
        self.line(&format!(
            "{id} [label=\"{}\", fillcolor=\"{}\"];",
            escaped(label),
            kind.colour()
        ));
    }

    /// A box with a title and rows below it; an arrow may end at the port of a row.
    pub fn record(&mut self, id: &str, kind: Kind, title: &str, rows: &[Row]) {
        let mut label = field(title);
        for row in rows {
            label += &format!(" | {}", row.field());
        }
        if self.way == Way::Down {
            label = format!("{{ {label} }}");
        }
        self.labelled(id, kind, &label);
    }

    /// Fields beside each other.
    pub fn fields(&mut self, id: &str, kind: Kind, fields: &[&str]) {
        let fields: Vec<String> = fields.iter().map(|text| field(text)).collect();
        let mut label = fields.join(" | ");
        if self.way == Way::Right {
            label = format!("{{ {label} }}");
        }
        self.labelled(id, kind, &label);
    }

    /// Columns beside each other, all of the same length.
    pub fn table(&mut self, id: &str, kind: Kind, columns: &[Vec<&str>]) {
        let column = |cells: &Vec<&str>| {
            let cells: Vec<String> = cells.iter().map(|cell| field(cell)).collect();
            format!("{{ {} }}", cells.join(" | "))
        };
        let columns: Vec<String> = columns.iter().map(column).collect();
        let label = match self.way {
            Way::Down => columns.join(" | "),
            Way::Right => format!("{{ {} }}", columns.join(" | ")),
        };
        self.labelled(id, kind, &label);
    }

    fn labelled(&mut self, id: &str, kind: Kind, label: &str) {
        let colour = kind.colour();
        self.line(&format!(
            "{id} [shape=record, label=\"{label}\", fillcolor=\"{colour}\"];"
        ));
    }

    /// An arrow between `node` or `node:port`.
    pub fn edge(&mut self, from: &str, to: &str, label: &str) {
        match label {
            "" => self.line(&format!("{from} -> {to};")),
            _ => self.line(&format!("{from} -> {to} [label=\"{}\"];", escaped(label))),
        }
    }

    /// The same, dashed: what happens later, or only sometimes.
    pub fn dashed(&mut self, from: &str, to: &str, label: &str) {
        match label {
            "" => self.line(&format!("{from} -> {to} [style=dashed];")),
            _ => self.line(&format!(
                "{from} -> {to} [style=dashed, label=\"{}\"];",
                escaped(label)
            )),
        }
    }

    pub fn finish(mut self) -> String {
        self.text += "}\n";
        self.text
    }

    fn line(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "  {line}");
    }
}

/// A row of a record.
pub(super) struct Row {
    /// What an arrow names it by, or nothing.
    pub port: &'static str,
    pub text: String,
}

impl Row {
    fn field(&self) -> String {
        match self.port {
            "" => field(&self.text),
            port => format!("<{port}> {}", field(&self.text)),
        }
    }
}

pub(super) fn row(port: &'static str, text: impl Into<String>) -> Row {
    let text = text.into();
    Row { port, text }
}

/// `text` within quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "/")
        .replace('"', "'")
        .replace('\n', "\\n")
        .replace(|c: char| c.is_control(), " ")
}

/// `text` as a field of a record: what has a meaning there is put otherwise, because not every reader
/// knows how to escape it.
fn field(text: &str) -> String {
    escaped(text)
        .replace('{', "(")
        .replace('}', ")")
        .replace('|', "or")
        .replace('<', "less than")
        .replace('>', "more than")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_break_out_of_its_label() {
        let mut graph = Graph::new("g", Way::Down);
        graph.node("a", Kind::Call, "say \"no\"\nand \\n \u{7}");
        let hostile = [row("p", "x\"]; {a|<b>\\")];
        graph.record("b", Kind::Data, "t", &hostile);
        let text = graph.finish();
        assert!(text.contains(r#"a [label="say 'no'\nand /n  ","#), "{text}");
        let expected = r#"label="{ t | <p> x']; (aorless thanbmore than/ }""#;
        assert!(text.contains(expected), "{text}");
    }
}
