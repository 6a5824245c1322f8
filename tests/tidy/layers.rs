//! The layer rule: the table of `docs/layers.txt`, and what a file of `src/` may name.

use crate::rules::File;
use crate::source::{closing, words};

/// One row of the table.
struct Row {
    apart: bool,
    modules: Vec<String>,
}

/// The table; the row of a module decides what it may use.
pub struct Layers(Vec<Row>);

impl Layers {
    /// Reads rows such as `L2 backends, apart: rocks memory`.
    pub fn parse(text: &str) -> Layers {
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let row = |line: &str| {
            let (head, modules) = line.split_once(':').expect("a row has a colon");
            let apart = head.ends_with(", apart");
            let modules = modules.split_whitespace().map(str::to_string).collect();
            Row { apart, modules }
        };
        Layers(rows.map(row).collect())
    }

    fn row(&self, module: &str) -> Option<usize> {
        let has = |row: &Row| row.modules.iter().any(|m| m == module);
        self.0.iter().position(has)
    }

    /// What `file` names and must not, or that it has no row.
    pub fn check(&self, file: &File) -> Vec<String> {
        let Some(path) = module_path(&file.path) else {
            return Vec::new();
        };
        let Some(own_row) = self.row(&path[0]) else {
            let message = format!("{}: `{}` has no row in docs/layers.txt", file.path, path[0]);
            return vec![message];
        };
        let mut found = Vec::new();
        for (at, target) in self.targets(&file.product, path.len()) {
            let allowed = match self.row(&target) {
                _ if target == path[0] => true,
                Some(row) if row == own_row => !self.0[row].apart,
                Some(row) => row < own_row,
                // A name that lib.rs exports: for those who use the public API only.
                None => own_row + 1 == self.0.len(),
            };
            if !allowed {
                found.push(file.at(at, &format!("`{}` may not use `crate::{target}`", path[0])));
            }
        }
        found
    }

    /// Each name right below the root of the crate that `code`, a module `depth` levels deep, uses.
    fn targets(&self, code: &str, depth: usize) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for at in words(code, "crate") {
            if let Some(rest) = code[at..].strip_prefix("crate::") {
                found.extend(first_names(rest).into_iter().map(|name| (at, name)));
            }
        }
        let root = "super::".repeat(depth);
        for (at, _) in code.match_indices(root.as_str()) {
            let names = first_names(&code[at + root.len()..]);
            let of_the_table = names.into_iter().filter(|name| self.row(name).is_some());
            found.extend(of_the_table.map(|name| (at, name)));
        }
        found
    }
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c}`.
fn first_names(path: &str) -> Vec<String> {
    let ident = |text: &str| -> String {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_string()
    };
    if !path.starts_with('{') {
        return vec![ident(path)];
    }
    let inside = &path[1..closing(path, 0, ('{', '}'))];
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(ident(&inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.push(ident(&inside[start..]));
    names.retain(|name| !name.is_empty());
    names
}

/// `[rocks, log]` of `src/rocks/log.rs`; nothing for tests, `lib.rs` and what is not in `src/`.
fn module_path(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts: Vec<String> = inside.split('/').map(str::to_string).collect();
    if inside == "lib" || parts.iter().any(|part| part == "tests") {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    Some(parts)
}
