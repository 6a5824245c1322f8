//! The rules that one file is held to. Each gives a line for what breaks it.

use crate::source::{code_of, items, line_of, without_tests, words};

/// A file may not reach this many lines.
const FILE_LINES: usize = 600;
/// A function may not reach this many lines.
const FUNCTION_LINES: usize = 70;

/// Where files are touched: the seam that tests can break, RocksDB's own, and the config's one file.
const MAY_USE_FILES: [&str; 5] = [
    "src/fs.",
    "src/fs/",
    "src/rocks/",
    "src/config.",
    "src/bin/",
];
/// The node's clock, which a simulation replaces; nothing that safety rests on.
const MAY_USE_CLOCK: [&str; 1] = ["src/peer_storage/clock.rs"];
/// Where the names are those of another crate's trait.
const MAY_SAY_GET: [&str; 1] = ["src/openraft/"];
/// What has neither threads nor clocks of its own, so that a test decides when things happen.
const WITHOUT_THREADS: [&str; 2] = ["src/entry_cache", "src/peer_storage"];

/// A source file and its forms.
pub struct File {
    /// From the root of the project, with slashes.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Without the contents of comments and literals.
    pub code: String,
    /// The code without its tests.
    pub product: String,
}

impl File {
    pub fn new(path: &str, text: &str) -> File {
        let code = code_of(text);
        let is_test = !path.starts_with("src/") || path.ends_with("/tests.rs");
        let product = if is_test {
            String::new()
        } else {
            without_tests(&code)
        };
        File {
            path: path.to_string(),
            text: text.to_string(),
            code,
            product,
        }
    }

    /// `path:line: what`
    pub fn at(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line_of(&self.text, at))
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    fn each(&self, code: &str, word: &str, what: &str) -> Vec<String> {
        words(code, word).map(|at| self.at(at, what)).collect()
    }
}

pub fn sizes(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines >= FILE_LINES {
        found.push(format!(
            "{}: {lines} lines, fewer than {FILE_LINES} allowed",
            file.path
        ));
    }
    for item in items(&file.code, "fn") {
        let lines = file.code[item.span.clone()].lines().count();
        if lines >= FUNCTION_LINES {
            let what = format!(
                "`{}` has {lines} lines, fewer than {FUNCTION_LINES} allowed",
                item.name
            );
            found.push(file.at(item.span.start, &what));
        }
    }
    found
}

pub fn type_parameters(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for keyword in ["fn", "struct", "enum", "trait"] {
        for item in items(&file.code, keyword) {
            let types = item.generics.split(',').map(str::trim);
            // What follows a comma within bounds, as `F: Fn(A, B)`, is no parameter of its own.
            let types = types.filter(|p| {
                !p.is_empty()
                    && !p.starts_with('\'')
                    && !p.starts_with("const ")
                    && !p.contains(')')
            });
            let count = types.count();
            if count > 1 {
                let what = format!(
                    "`{}` has {count} type parameters, at most one is allowed",
                    item.name
                );
                found.push(file.at(item.span.start, &what));
            }
        }
    }
    found
}

pub fn unfinished_or_unreadable(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["macro_rules", "todo", "unimplemented", "dbg"] {
        for at in words(&file.code, name).filter(|at| file.code[at + name.len()..].starts_with('!'))
        {
            found.push(file.at(at, &format!("`{name}!` does not belong here")));
        }
    }
    for item in items(&file.product, "fn") {
        if item.name.starts_with("get_") && !file.is_in(&MAY_SAY_GET) {
            let what = format!("`{}`: say it without get_", item.name);
            found.push(file.at(item.span.start, &what));
        }
    }
    found
}

/// A panic says why it cannot happen. The conformance suite is exempt: a panic is its verdict.
pub fn panics(file: &File) -> Vec<String> {
    if file.is_in(&["src/conformance/"]) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, _) in file.product.match_indices(".unwrap()") {
        found.push(file.at(
            at,
            "`.unwrap()`: give the error on, or `expect` with the proof",
        ));
    }
    for (at, call) in file.product.match_indices(".expect(") {
        let argument = file.text[at + call.len()..].trim_start();
        let message = argument.strip_prefix('"').and_then(|a| a.split('"').next());
        let is_sentence = message.is_some_and(|m| m.split_whitespace().count() >= 3);
        if !is_sentence {
            found.push(file.at(
                at,
                "`.expect(..)`: the message is to prove that it cannot fail",
            ));
        }
    }
    found
}

pub fn head(file: &File) -> Vec<String> {
    let head: Vec<&str> = (file.text.lines())
        .take_while(|line| line.starts_with("//!"))
        .collect();
    if head.is_empty() {
        return vec![format!(
            "{}:1: a file begins with `//!` and what lives in it",
            file.path
        )];
    }
    // A part of the crate says what it builds on; a file of a line or two has nothing to say.
    let parts = file
        .path
        .strip_prefix("src/")
        .map(|p| p.matches('/').count());
    let is_module = parts == Some(0) || file.path.ends_with("/mod.rs");
    let must_name = is_module && file.path != "src/lib.rs" && file.text.lines().count() > 2;
    if must_name && !head.iter().any(|line| line.contains("Uses: ")) {
        return vec![format!("{}:1: the head is to say `Uses: …`", file.path)];
    }
    Vec::new()
}

pub fn waivers(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for (at, _) in file.code.match_indices(opening) {
            let end = file.code[at..]
                .find(']')
                .map_or(file.code.len(), |end| at + end);
            if words(&file.code[at..end], "reason").next().is_none() {
                found.push(file.at(at, "a waiver without a `reason`"));
            }
        }
    }
    found
}

/// Every file access goes through the seam, or no test could make it fail.
pub fn files_and_threads(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    if !file.is_in(&MAY_USE_FILES) {
        for (at, _) in file.product.match_indices("std::fs") {
            found.push(file.at(at, "files are touched through `FileSystem` only"));
        }
    }
    if file.is_in(&WITHOUT_THREADS) {
        let clocks = ["Instant", "SystemTime"].into_iter();
        let clocks = clocks.filter(|_| !file.is_in(&MAY_USE_CLOCK));
        for word in clocks.chain(["thread"]) {
            found.extend(file.each(&file.product, word, "neither threads nor clocks here"));
        }
    }
    found
}

/// For every kind of text file.
pub fn plain_text(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Spelled in pieces, or this file would break the rule.
    let homes = ["/ho|me/", "/ro|ot/", "/wo|rk/", "/Us|ers/"].map(|p| p.replace('|', ""));
    for (number, line) in text.lines().enumerate() {
        let mut report = |what: &str| found.push(format!("{path}:{}: {what}", number + 1));
        if line.ends_with([' ', '\t']) {
            report("white space at the end of the line");
        }
        if line.contains('\t') && path != "Makefile" {
            report("a tab");
        }
        if homes.iter().any(|home| line.contains(home)) {
            report("a path of somebody's machine");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{path}: no newline at the end"));
    }
    found
}

/// The targets that `text` tells its reader to `make` and that `makefile` does not have.
pub fn unknown_targets(path: &str, text: &str, makefile: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let in_backticks = line.split("`make ").skip(1);
        let commands = line.trim_start_matches(['$', ' ']).strip_prefix("make ");
        for rest in in_backticks.chain(commands) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            let target = &rest[..end.unwrap_or(rest.len())];
            let is_prose =
                commands.is_some() && rest.split_whitespace().count() > 2 && !rest.contains('=');
            let known = makefile
                .lines()
                .any(|l| l.starts_with(&format!("{target}:")));
            if !known && !is_prose {
                found.push(format!("{path}: `make {target}` is not in the Makefile"));
            }
        }
    }
    found
}
