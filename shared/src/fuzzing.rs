//! What is tried with pages that no server would send: by the programs in `fuzz/`, which make them up, and by
//! the test below, with what was kept in `fuzz/corpus`.
//!
//! Compiled for these two only. Each function takes any bytes, and panics where a promise is broken.

#![allow(clippy::missing_panics_doc, reason = "it is what they are for")]

use crate::parser::JSON_LINE_BYTES_MAX;
use crate::{BlockHeader, PageError, PageParser, PageSink, Timestamp, Trailer, copy_text};

/// What a page was found to hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found(Vec<String>);

impl PageSink for Found {
    type Error = std::convert::Infallible;

    fn block(&mut self, header: BlockHeader) -> Result<(), Self::Error> {
        self.0.push(format!("{header:?}"));
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Self::Error> {
        assert!(!line.contains(&b'\n'));
        for field in copy_text::fields(line).flatten() {
            let value = copy_text::unescape(field);
            assert!(value.len() <= field.len());
            let mut written = Vec::new();
            copy_text::escape_into(&value, &mut written);
            assert_eq!(copy_text::unescape(&written), value);
            is_a_date_or_none(&value);
        }
        self.0.push(format!("{line:?}"));
        Ok(())
    }
}

/// A page, of which the first byte says how it is cut into chunks: that makes no difference to what is found.
pub fn parser(bytes: &[u8]) {
    let Some((cut, page)) = bytes.split_first() else {
        return;
    };
    let whole = read(page, page.len().max(1));
    let cut = read(page, usize::from(*cut).max(1));
    assert_eq!(whole, cut);
    if let (found, Ok(trailer)) = whole {
        let rows = found.0.iter().filter(|found| found.starts_with('[')).count();
        assert_eq!(trailer.rows, rows as u64);
        assert!(trailer.next.len() <= JSON_LINE_BYTES_MAX);
    }
}

fn read(page: &[u8], chunk_bytes: usize) -> (Found, Result<Trailer, String>) {
    let (mut parser, mut found) = (PageParser::new(), Found::default());
    let pushed = page
        .chunks(chunk_bytes)
        .try_for_each(|chunk| parser.push(chunk, &mut found));
    let ended = pushed.and_then(|()| parser.finish());
    let told = |error: PageError<_>| error.to_string();
    (found, ended.map_err(told))
}

/// What is read as a date is written so that it can be read again.
fn is_a_date_or_none(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if let Ok(date) = text.parse::<Timestamp>() {
        assert_eq!(Timestamp::checked_from_micros(date.micros()), Some(date));
        assert_eq!(date.to_string().parse(), Ok(date));
    }
    if let Some(date) = Timestamp::from_postgres(text) {
        assert_eq!(date.to_string().parse(), Ok(date));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_pages_is_read_whole_and_in_chunks_alike() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/parser");
        let mut count = 0;
        for file in std::fs::read_dir(folder).expect(folder) {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            super::parser(&std::fs::read(&path).expect("a file"));
            count += 1;
        }
        assert!(count >= 10, "the corpus is not there");
    }
}
