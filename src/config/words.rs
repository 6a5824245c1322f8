//! What a refusal of a config says, whatever the file is written in. Uses: nothing of ours. Never does I/O.

use std::fmt;

/// What is wrong with a key or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A key that there is not.
    UnknownKey {
        key: String,
        known: Vec<&'static str>,
    },
    /// A word that is none of those that can stand here.
    UnknownWord {
        word: String,
        known: Vec<&'static str>,
    },
    /// A value of another kind.
    Wrong { got: String, expected: String },
    /// Anything else.
    Other(String),
}

impl Fault {
    pub fn unknown_key(key: &str, known: &[&'static str]) -> Self {
        Fault::UnknownKey {
            key: key.into(),
            known: known.to_vec(),
        }
    }

    pub fn unknown_word(word: &str, known: &[&'static str]) -> Self {
        Fault::UnknownWord {
            word: word.into(),
            known: known.to_vec(),
        }
    }

    pub fn wrong(got: &dyn fmt::Display, expected: &dyn serde::de::Expected) -> Self {
        Fault::Wrong {
            got: got.to_string(),
            expected: in_words(&expected.to_string()).into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::UnknownKey { key, known } => {
                let (near, known_keys) = (nearest(key, known), known.join(", "));
                write!(
                    f,
                    "unknown key `{key}`{near}; the keys here are {known_keys}"
                )
            }
            Fault::UnknownWord { word, known } => {
                let (near, known_words) = (nearest(word, known), known.join(" or "));
                write!(f, "got `{word}`{near}, expected {known_words}")
            }
            Fault::Wrong { got, expected } => write!(f, "got {got}, expected {expected}"),
            Fault::Other(what) => f.write_str(what),
        }
    }
}

/// `line 3, "entry_cache_bytes: x": …`; lines count from 1.
pub(super) fn at_line(text: &str, line: usize, what: &str) -> String {
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    format!("line {line}, \"{}\": {what}", source.trim())
}

/// A parser's name of a type in the words of a config file.
pub(super) fn in_words(ty: &str) -> &str {
    match ty {
        "bool" | "boolean" | "a boolean" => "true or false",
        "u64" => "an integer, 0 or larger",
        "i32" => "an integer",
        other => other,
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
