//! Reads a page in `COPY` blocks as it arrives, in chunks of any size.
//!
//! The parser holds at most one unfinished line. What it finds it hands to a [`PageSink`] at
//! once; only [`PageParser::finish`] says whether the page was whole, so a sink must be able to
//! take everything back.

use crate::block::{BLOCK_VERSION, BlockHeader, BlockKind, END_OF_BLOCK, Trailer};

/// The longest line of a page: one row of the widest table.
pub const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The longest header or trailer. Postgres takes 1,600 columns with names of 63 bytes, and JSON needs much
/// more memory than its text.
pub const JSON_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Takes what a page holds, in order.
pub trait PageSink {
    /// What can go wrong while taking it.
    type Error;

    /// A block begins.
    fn block(&mut self, header: BlockHeader) -> Result<(), Self::Error>;

    /// One row of the block: `COPY` text without its newline, see [`crate::copy_text`].
    fn row(&mut self, line: &[u8]) -> Result<(), Self::Error>;
}

/// Why a page cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PageError<E> {
    /// The body ended before its trailer.
    #[error("the response ended before its trailer line; nothing of it was kept")]
    Incomplete,
    /// The body is not a page.
    #[error("the response is not a page: {0}")]
    Malformed(String),
    /// The body is in a form of a later version.
    #[error(
        "the response is in version {0} of the page form, this program reads {BLOCK_VERSION}; install a newer one"
    )]
    Version(u32),
    /// The sink refused.
    #[error(transparent)]
    Sink(E),
}

/// A push parser for one page.
#[derive(Debug, Default)]
pub struct PageParser {
    unfinished: Vec<u8>,
    state: State,
    rows: u64,
}

#[derive(Debug, Default)]
enum State {
    /// A header or the trailer comes next.
    #[default]
    Between,
    /// Rows, or the end of the block, come next.
    InBlock(BlockKind),
    /// The trailer has been read.
    Ended(Trailer),
}

impl PageParser {
    /// A parser at the start of a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk of the body.
    pub fn push<S: PageSink>(&mut self, chunk: &[u8], sink: &mut S) -> Result<(), PageError<S::Error>> {
        let mut rest = chunk;
        while let Some(newline) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(newline);
            rest = after.get(1..).unwrap_or_default();
            if self.unfinished.is_empty() {
                self.line(line, sink)?;
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole, sink)?;
                whole.clear();
                self.unfinished = whole;
            }
        }
        let length = self.unfinished.len() + rest.len();
        match self.state {
            State::InBlock(_) => check_length(length, LINE_BYTES_MAX)?,
            State::Between => check_length(length, JSON_LINE_BYTES_MAX)?,
            State::Ended(_) if length > 0 => return Err(follows_the_trailer()),
            State::Ended(_) => {}
        }
        self.unfinished.extend_from_slice(rest);
        Ok(())
    }

    /// The trailer, at the end of the body.
    pub fn finish<E>(self) -> Result<Trailer, PageError<E>> {
        match self.state {
            State::Ended(trailer) => Ok(trailer),
            State::Between | State::InBlock(_) => Err(PageError::Incomplete),
        }
    }

    fn line<S: PageSink>(&mut self, line: &[u8], sink: &mut S) -> Result<(), PageError<S::Error>> {
        match &self.state {
            State::InBlock(_) if line == END_OF_BLOCK => {
                self.state = State::Between;
                Ok(())
            }
            State::InBlock(BlockKind::Reset) => Err(PageError::Malformed("a reset has rows".to_owned())),
            State::InBlock(BlockKind::Within) => Err(PageError::Malformed("a within has rows".to_owned())),
            State::InBlock(_) => {
                self.rows += 1;
                sink.row(line).map_err(PageError::Sink)
            }
            State::Between => self.json_line(line, sink),
            State::Ended(_) => Err(follows_the_trailer()),
        }
    }

    fn json_line<S: PageSink>(&mut self, line: &[u8], sink: &mut S) -> Result<(), PageError<S::Error>> {
        let malformed = |error: serde_json::Error| PageError::Malformed(error.to_string());
        check_length(line.len(), JSON_LINE_BYTES_MAX)?;
        let value: serde_json::Value = serde_json::from_slice(line).map_err(malformed)?;
        if value.get("next").is_some() {
            let trailer: Trailer = serde_json::from_value(value).map_err(malformed)?;
            if trailer.rows != self.rows {
                return Err(PageError::Malformed(format!(
                    "the trailer counts {} rows, {} arrived",
                    trailer.rows, self.rows
                )));
            }
            self.state = State::Ended(trailer);
            return Ok(());
        }
        if let Some(version) = value.get("version").and_then(serde_json::Value::as_u64)
            && version != u64::from(BLOCK_VERSION)
        {
            return Err(PageError::Version(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        let header: BlockHeader = serde_json::from_value(value).map_err(malformed)?;
        self.state = State::InBlock(header.kind);
        sink.block(header).map_err(PageError::Sink)
    }
}

fn check_length<E>(bytes: usize, bytes_max: usize) -> Result<(), PageError<E>> {
    if bytes > bytes_max {
        return Err(PageError::Malformed(format!(
            "a line is longer than {bytes_max} bytes"
        )));
    }
    Ok(())
}

fn follows_the_trailer<E>() -> PageError<E> {
    PageError::Malformed("text follows the trailer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const PAGE: &str = concat!(
        r#"{"version":1,"entity":"a","kind":"reset","columns":[],"fingerprint":"f"}"#,
        "\n\\.\n",
        r#"{"version":1,"entity":"a","kind":"upsert","columns":[],"fingerprint":"f"}"#,
        "\n1\tx\n2\t\\\\.\n\\.\n",
        r#"{"next":"c","more":false,"lastSyncDate":"1970-01-01T00:00:00Z","rows":2,"entities":["a"]}"#,
        "\n"
    );

    #[derive(Default)]
    struct Seen(Vec<String>);

    impl PageSink for Seen {
        type Error = Infallible;
        fn block(&mut self, header: BlockHeader) -> Result<(), Infallible> {
            self.0.push(format!("{:?}", header.kind));
            Ok(())
        }
        fn row(&mut self, line: &[u8]) -> Result<(), Infallible> {
            self.0.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        }
    }

    fn parse(chunks: &[&[u8]]) -> Result<(Seen, Trailer), PageError<Infallible>> {
        let mut parser = PageParser::new();
        let mut seen = Seen::default();
        for chunk in chunks {
            parser.push(chunk, &mut seen)?;
        }
        Ok((seen, parser.finish()?))
    }

    #[test]
    fn what_has_no_rows_may_have_none() {
        for kind in ["reset", "within"] {
            let head =
                format!(r#"{{"version":1,"entity":"a","kind":"{kind}","columns":[],"fingerprint":"f"}}"#);
            let page = format!("{head}\n1\n\\.\n");
            let pushed = PageParser::new().push(page.as_bytes(), &mut Seen::default());
            assert!(matches!(pushed, Err(PageError::Malformed(_))), "{kind}");
        }
    }

    #[test]
    fn a_page_is_read_whole() {
        let (seen, trailer) = parse(&[PAGE.as_bytes()]).expect("a page");
        assert_eq!(seen.0, ["Reset", "Upsert", "1\tx", "2\t\\\\."]);
        assert_eq!(trailer.next, "c");
    }

    #[test]
    fn a_page_cut_anywhere_is_incomplete() {
        for cut in 0..PAGE.len() {
            let result = parse(&[&PAGE.as_bytes()[..cut]]);
            assert!(matches!(result, Err(PageError::Incomplete)), "cut at {cut}");
        }
    }

    #[test]
    fn a_trailer_that_counts_otherwise_is_refused() {
        let short = PAGE.replace("2\t\\\\.\n", "");
        assert!(matches!(parse(&[short.as_bytes()]), Err(PageError::Malformed(_))));
    }

    #[test]
    fn a_later_version_is_named() {
        let later = PAGE.replace("\"version\":1", "\"version\":2");
        assert!(matches!(parse(&[later.as_bytes()]), Err(PageError::Version(2))));
    }

    /// An array of nothing but arrays takes ten times its text, and more.
    #[test]
    fn a_header_or_trailer_beyond_the_bound_is_refused() {
        for chunk_bytes in [JSON_LINE_BYTES_MAX / 16, JSON_LINE_BYTES_MAX + 1] {
            let mut parser = PageParser::new();
            let text = vec![b'['; JSON_LINE_BYTES_MAX + 1];
            let mut chunks = text.chunks(chunk_bytes);
            let refused = chunks.try_for_each(|chunk| parser.push(chunk, &mut Seen::default()));
            assert!(matches!(refused, Err(PageError::Malformed(what)) if what.contains("longer")));
        }
        let whole = [vec![b' '; JSON_LINE_BYTES_MAX + 1], b"\n".to_vec()].concat();
        let refused = PageParser::new().push(&whole, &mut Seen::default());
        assert!(matches!(refused, Err(PageError::Malformed(what)) if what.contains("longer")));
    }

    #[test]
    fn what_follows_the_trailer_is_refused_at_once() {
        let mut parser = PageParser::new();
        parser
            .push(PAGE.as_bytes(), &mut Seen::default())
            .expect("a page");
        let refused = parser.push(b"x", &mut Seen::default());
        assert!(matches!(refused, Err(PageError::Malformed(_))));
    }

    #[test]
    fn a_line_beyond_the_bound_is_refused() {
        let mut parser = PageParser::new();
        let mut seen = Seen::default();
        let (header, _) = PAGE.split_once("1\tx").expect("a page");
        parser.push(header.as_bytes(), &mut seen).expect("a block");
        let chunk = vec![b'x'; LINE_BYTES_MAX / 64];
        for _ in 0..64 {
            parser.push(&chunk, &mut seen).expect("a line as long as may be");
        }
        let refused = parser.push(b"x", &mut seen);
        assert!(matches!(refused, Err(PageError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(cuts in proptest::collection::vec(0..PAGE.len(), 0..9)) {
            let mut cuts = cuts;
            cuts.extend([0, PAGE.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &PAGE.as_bytes()[w[0]..w[1]]).collect();
            let (seen, _) = parse(&chunks).expect("a page");
            prop_assert_eq!(seen.0, ["Reset", "Upsert", "1\tx", "2\t\\\\."]);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&[&bytes]);
        }
    }
}
