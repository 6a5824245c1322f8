//! From YAML to a `Config`, and from the parser's errors to what a person can act on. Uses: nothing
//! of ours but the config itself. Never does I/O.

use serde_saphyr::Error as YamlError;

use super::Config;

/// Parses `text`, or says at which line what is wrong.
pub(super) fn parse(text: &str) -> Result<Config, String> {
    let parsed: Result<Option<Config>, YamlError> = serde_saphyr::from_str(text);
    match parsed {
        Ok(config) => Ok(config.unwrap_or_default()),
        Err(error) => Err(explain(&error, text)),
    }
}

/// `line 3, "entry_cache_bytes: x": …`
fn explain(error: &YamlError, text: &str) -> String {
    let what = describe(error.without_snippet());
    let Some(line) = error.location().map(|at| at.line()).filter(|l| *l > 0) else {
        return what;
    };
    let source = usize::try_from(line - 1)
        .ok()
        .and_then(|line| text.lines().nth(line))
        .unwrap_or_default();
    format!("line {line}, \"{}\": {what}", source.trim())
}

fn describe(error: &YamlError) -> String {
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => format!(
            "unknown key `{field}`{}; the keys here are {}",
            nearest(field, expected),
            expected.join(", ")
        ),
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => format!(
            "got `{variant}`{}, expected {}",
            nearest(variant, expected),
            expected.join(" or ")
        ),
        YamlError::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | YamlError::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => format!("got {unexpected}, expected {expected}"),
        YamlError::InvalidScalar { ty, .. } => format!("expected {}", in_words(ty)),
        YamlError::InvalidBooleanStrict { .. } => "expected true or false".to_string(),
        other => without_place(other),
    }
}

/// The parser's name of a type in the words of a config file.
fn in_words(ty: &str) -> &str {
    match ty {
        "bool" | "boolean" => "true or false",
        "u64" => "an integer, 0 or larger",
        "i32" => "an integer",
        other => other,
    }
}

/// The parser's own message without the place that ends it: the line is named already.
fn without_place(error: &YamlError) -> String {
    let message = error.render_with_options(serde_saphyr::render_options! {
        formatter: &serde_saphyr::UserMessageFormatter,
        snippets: serde_saphyr::SnippetMode::Off,
    });
    match message.rsplit_once(" at line ") {
        Some((what, _)) => what.to_string(),
        None => message,
    }
}

/// `, did you mean …?` where a known word is close enough to be meant.
fn nearest(word: &str, known: &[&'static str]) -> String {
    let distances = known.iter().map(|k| (edits(word, k), k));
    match distances.min() {
        Some((distance, known)) if distance * 3 <= known.len().max(3) => {
            format!(", did you mean `{known}`?")
        }
        _ => String::new(),
    }
}

/// How many characters must be put in, taken out or replaced to turn `a` into `b`.
pub(super) fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
