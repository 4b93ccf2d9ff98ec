//! What is tried with input that nobody would send in earnest: by the programs in `fuzz/`, which make it up
//! as they go, and by the tests below, with what was kept of it in `fuzz/corpus`.
//!
//! Compiled for these two only. Each function takes any bytes, and panics where a promise is broken.

#![allow(clippy::missing_panics_doc, reason = "it is what they are for")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::cursor::Cursor;
use crate::quoting::{identifier, literal};

/// A cursor, as text and as what stands beneath it with a right check sum. What is read as one is written as it
/// was.
pub fn cursor(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        comes_back(text);
    }
    let mut body = bytes.to_vec();
    body.extend(crc32fast::hash(bytes).to_be_bytes());
    comes_back(&URL_SAFE_NO_PAD.encode(body));
}

fn comes_back(text: &str) {
    if let Ok(cursor) = Cursor::decode(text) {
        assert_eq!(cursor.encode(), text);
    }
}

/// The value of `since`: what gets through is a date or a cursor that can be served.
pub fn since(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::http::fuzzing::since(text);
    }
}

/// A query string: what gets through is bounded.
pub fn query(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::http::fuzzing::query(text);
    }
}

/// A token, made of a line with its header, one with its claims and its signature: nobody signed it, so it is
/// refused, whatever it passes off as a key. Also an Authorization header, and a file of API keys.
pub fn token(bytes: &[u8]) {
    crate::http::fuzzing::header(bytes);
    crate::auth::fuzzing::token(bytes);
}

/// A name and a value as SQL text: Postgres reads what was meant, and nothing after it.
pub fn quoted(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match literal(text) {
        Err(_) => assert!(text.contains('\0')),
        Ok(sql) => assert_eq!(read_literal(&sql).as_deref(), Some(text)),
    }
    assert_eq!(read_identifier(&identifier(text)).as_deref(), Some(text));
}

/// What Postgres' scanner makes of a string constant with escapes, where that is all of the text.
fn read_literal(sql: &str) -> Option<String> {
    let mut rest = sql.strip_prefix("E'")?.strip_suffix('\'')?.chars();
    let mut value = String::new();
    while let Some(character) = rest.next() {
        match character {
            '\'' | '\\' if rest.next() == Some(character) => value.push(character),
            '\'' | '\\' | '\0' => return None,
            other => value.push(other),
        }
    }
    Some(value)
}

/// The same of a quoted identifier.
fn read_identifier(sql: &str) -> Option<String> {
    let inner = sql.strip_prefix('"')?.strip_suffix('"')?;
    let unpaired = inner.replace("\"\"", "").contains('"');
    (!unpaired).then(|| inner.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Tries what is kept of a target.
    fn corpus(target: &str, tried: impl Fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            tried(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count >= 10, "the corpus of {target} is not there");
    }

    #[test]
    fn the_corpus_of_cursors_comes_back() {
        corpus("cursor", super::cursor);
    }

    #[test]
    fn the_corpus_of_since_is_bounded() {
        corpus("since", super::since);
    }

    #[test]
    fn the_corpus_of_queries_is_bounded() {
        corpus("query", super::query);
    }

    #[test]
    fn the_corpus_of_tokens_is_refused() {
        corpus("token", super::token);
    }

    #[test]
    fn the_corpus_of_names_and_values_is_read_as_it_was_meant() {
        corpus("quoted", super::quoted);
    }
}
