//! From YAML to a `Config`, and from the parser's errors to what a person can act on. Uses: nothing
//! of ours but the words of the config. Never does I/O.

use serde_saphyr::Error as YamlError;

use super::Config;
use super::document::Document;
use super::words::{Fault, at_line, in_words};

/// Parses `text`, or says at which line what is wrong.
pub(super) fn parse(text: &str) -> Result<Config, String> {
    let parsed: Result<Option<Document>, YamlError> = serde_saphyr::from_str(text);
    match parsed {
        Ok(document) => document.unwrap_or_default().into_config(),
        Err(error) => Err(explain(&error, text)),
    }
}

fn explain(error: &YamlError, text: &str) -> String {
    let what = describe(error.without_snippet());
    let line = error.location().map(|at| at.line()).filter(|l| *l > 0);
    match line.and_then(|line| usize::try_from(line).ok()) {
        Some(line) => at_line(text, line, &what),
        None => what,
    }
}

fn describe(error: &YamlError) -> String {
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => Fault::unknown_key(field, expected).to_string(),
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => Fault::unknown_word(variant, expected).to_string(),
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
