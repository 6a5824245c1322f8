//! Enough of Rust's grammar to check the style of a file: what is code, what is a test, where a
//! function ends.

use std::ops::Range;

/// `text` with the contents of comments, strings and character literals turned into spaces. Lengths
/// and line ends stay, so that a place in the result is the same place in `text`.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (skip, length) = if rest.starts_with(b"//") {
            (0, end_of_line(rest))
        } else if rest.starts_with(b"/*") {
            (0, end_of_block_comment(rest))
        } else if let Some(length) = raw_string(bytes, at) {
            (1, length)
        } else if rest[0] == b'"' {
            (1, end_of_string(rest))
        } else if let Some(length) = char_literal(rest) {
            (1, length)
        } else {
            at += 1;
            continue;
        };
        // The quotes of a literal stay: `skip` is 1 for them.
        let end = at + length;
        for byte in &mut out[(at + skip).min(end)..end.saturating_sub(skip).max(at + skip)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole literals and comments were replaced, by ASCII")
}

fn end_of_line(rest: &[u8]) -> usize {
    let end = rest.iter().position(|b| *b == b'\n');
    end.unwrap_or(rest.len())
}

fn end_of_block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a raw string that starts at `at`, from its `r` on.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let inside_word = at > 0 && is_word(bytes[at - 1]) && bytes[at - 1] != b'b';
    let rest = bytes[at..].strip_prefix(b"r").filter(|_| !inside_word)?;
    let hashes = rest.iter().take_while(|b| **b == b'#').count();
    let body = rest[hashes..].strip_prefix(b"\"")?;
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let end = body.windows(close.len()).position(|w| w == close);
    let body = end.map_or(body.len(), |end| end + close.len());
    Some(2 + hashes + body)
}

/// The length of a character literal; nothing for a lifetime.
fn char_literal(rest: &[u8]) -> Option<usize> {
    let body = rest.strip_prefix(b"'")?;
    if body.first() == Some(&b'\\') {
        let close = body.iter().skip(2).position(|b| *b == b'\'')?;
        return Some(1 + 2 + close + 1);
    }
    let close = body.iter().take(5).position(|b| *b == b'\'')?;
    let one_char = std::str::from_utf8(&body[..close]).is_ok_and(|s| s.chars().count() == 1);
    one_char.then_some(1 + close + 1)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// `code` (of [`code_of`]) without what is compiled for tests only.
pub fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let end = end_of_item(code, start);
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(out).expect("whole items were replaced, by ASCII")
}

/// Behind the item that starts at `start`: its closing brace, or its semicolon.
fn end_of_item(code: &str, start: usize) -> usize {
    for (offset, c) in code[start..].char_indices() {
        match c {
            ';' => return start + offset + 1,
            '{' => return closing(code, start + offset, ('{', '}')) + 1,
            _ => {}
        }
    }
    code.len()
}

/// Where what opens at `open` is closed.
pub fn closing(code: &str, open: usize, (left, right): (char, char)) -> usize {
    let mut depth = 0;
    for (offset, c) in code[open..].char_indices() {
        if c == left {
            depth += 1;
        } else if c == right {
            depth -= 1;
            if depth == 0 {
                return open + offset;
            }
        }
    }
    code.len() - 1
}

/// A function or struct with a name and perhaps type parameters.
pub struct Item {
    pub name: String,
    /// From its keyword to its closing brace or semicolon.
    pub span: Range<usize>,
    /// What stands between its angle brackets.
    pub generics: String,
}

/// Every item of `code` that `keyword` (`fn`, `struct`, …) starts.
pub fn items(code: &str, keyword: &str) -> Vec<Item> {
    let mut found = Vec::new();
    for start in words(code, keyword) {
        let after = code[start + keyword.len()..].trim_start();
        let name: String = after
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() {
            continue; // The type `fn(..)`.
        }
        let generics_at = code.len() - after.len() + name.len();
        let generics = if code[generics_at..].starts_with('<') {
            let inside = code[generics_at..].replace("->", "  ");
            let end = closing(&inside, 0, ('<', '>'));
            inside[1..end].to_string()
        } else {
            String::new()
        };
        let span = start..end_of_item_after_signature(code, generics_at + generics.len());
        found.push(Item {
            name,
            span,
            generics,
        });
    }
    found
}

/// As [`end_of_item`], but a semicolon within brackets (`[u8; 4]`) does not count.
fn end_of_item_after_signature(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return start + offset + 1,
            '{' if depth == 0 => return closing(code, start + offset, ('{', '}')) + 1,
            _ => {}
        }
    }
    code.len()
}

/// Where `word` stands by itself.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + word.len());
            !before.is_some_and(is_word) && !after.copied().is_some_and(is_word)
        })
}

/// The line, from 1, of a place in `text`.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
