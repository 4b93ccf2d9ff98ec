//! What is tried with pages that no server would send, up to the rows of a store: by the programs in `fuzz/`,
//! which make them up, and by the tests below, with what was kept in `fuzz/corpus`.
//!
//! Compiled for these two only. Each function takes any bytes, and panics where a promise is broken.

#![allow(clippy::missing_panics_doc, reason = "it is what they are for")]

use arbitrary::{Arbitrary, Unstructured};

use crate::store::fuzzing::{Course, pull};

/// Between the pages of a pull.
const APART: &[u8] = b"\n%%\n";

/// Pages as they stand, after a byte that says how they are taken: whatever they hold, the store is whole.
///
/// Tells how many of them were taken.
pub fn page(bytes: &[u8]) -> usize {
    let Some((course, mut rest)) = bytes.split_first() else {
        return 0;
    };
    let mut pages = Vec::new();
    while let Some(place) = rest.windows(APART.len()).position(|window| window == APART) {
        let (page, after) = rest.split_at(place + 1);
        pages.push(page.to_vec());
        rest = after.get(APART.len() - 1..).unwrap_or_default();
    }
    pages.push(rest.to_vec());
    pull(&Course::from(*course), &pages)
}

/// Pages that are right in most things, made of the bytes: whatever they say, the store is whole.
///
/// Tells how many of them were taken.
pub fn pages(bytes: &[u8]) -> usize {
    let mut source = Unstructured::new(bytes);
    let Ok(Pull { course, pages }) = Pull::arbitrary(&mut source) else {
        return 0;
    };
    let pages: Vec<Vec<u8>> = pages.iter().map(Page::text).collect();
    pull(&Course::from(course), &pages)
}

#[derive(Arbitrary, Debug)]
struct Pull {
    course: u8,
    pages: Vec<Page>,
}

#[derive(Arbitrary, Debug)]
struct Page {
    blocks: Vec<Block>,
    next: u8,
    more: bool,
    /// Which entities the trailer names besides those of the blocks, and whether it leaves these out.
    others: u8,
    leaves_out: bool,
    /// How many rows it counts beside those that there are.
    miscounts: u8,
    date: Odd,
    /// How much is missing at the end.
    cut: u8,
}

#[derive(Arbitrary, Debug)]
struct Block {
    entity: u8,
    kind: Kind,
    columns: u8,
    fingerprint: bool,
    rows: Vec<[Odd; 3]>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Kind {
    Reset,
    Delete,
    Upsert,
}

/// A field of a row.
#[derive(Arbitrary, Debug)]
enum Odd {
    Null,
    Number(u8),
    Date(u8),
    Known(u8),
    Bytes(Vec<u8>),
}

/// Names that a table may have, or must not.
const ENTITIES: [&str; 8] = [
    "product",
    "tax",
    "mine",
    "sync_helper",
    "Odd \\\"name\\\"",
    "sqlite_x",
    "highwater_renew_1",
    "names",
];

/// Columns, some of which no server announces.
const COLUMNS: [&str; 7] = [
    r#"{"name":"id","type":"bigint","role":"key"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}"#,
    r#"{"name":"id","type":"bigint","role":"key"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"},{"name":"reason","type":"text","role":"reason"}"#,
    r#"{"name":"id","type":"uuid","role":"key","place":1},{"name":"x\"y","type":"bytea","role":"key","place":2},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}"#,
    r#"{"name":"id","type":"real","role":"key"},{"name":"deleted","type":"boolean"},{"name":"changed_date","type":"text","role":"changed_date"}"#,
    r#"{"name":"id","type":"bigint"},{"name":"ID","type":"bigint","role":"key"},{"name":"changed_date","type":"bigint","role":"changed_date"}"#,
    r#"{"name":"","type":"integer","role":"key"},{"name":"rowid","type":"integer"},{"name":"changed_date","type":"timestamp without time zone","role":"changed_date"}"#,
    "",
];

/// Values that are hard to read or write.
const KNOWN: [&str; 12] = [
    "",
    "t",
    "\\\\x00ff",
    "\\\\x0",
    "NaN",
    "-Infinity",
    "9223372036854775808",
    "-9223372036854775808",
    "infinity",
    "0044-03-15 00:00:00+00 BC",
    "out_of_scope",
    "\\",
];

impl Page {
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut rows = u64::from(self.miscounts / 128);
        let mut entities: Vec<&str> = Vec::new();
        for block in &self.blocks {
            let name = pick(&ENTITIES, block.entity);
            let (kind, columns) = (block.kind.name(), pick(&COLUMNS, block.columns));
            let fingerprint = u8::from(block.fingerprint);
            let header = format!(
                "{{\"version\":1,\"entity\":\"{name}\",\"kind\":\"{kind}\",\"columns\":[{columns}],\"fingerprint\":\"{fingerprint}\"}}\n"
            );
            text.extend_from_slice(header.as_bytes());
            if !matches!(block.kind, Kind::Reset) {
                for row in &block.rows {
                    let fields: Vec<Vec<u8>> = row.iter().map(Odd::text).collect();
                    text.extend(fields.join(&b'\t'));
                    text.push(b'\n');
                    rows += 1;
                }
            }
            text.extend_from_slice(b"\\.\n");
            if !self.leaves_out && !entities.contains(&name) {
                entities.push(name);
            }
        }
        for (place, name) in ENTITIES.iter().enumerate() {
            if self.others >> place & 1 == 1 && !entities.contains(name) {
                entities.push(name);
            }
        }
        let (next, more, date) = (
            self.next,
            self.more,
            String::from_utf8_lossy(&self.date.text()).into_owned(),
        );
        let date = match date.split_once(' ') {
            Some((day, time)) => format!("{day}T{}", time.replace("+00", "Z")),
            None => "2026-11-22T10:00:00Z".to_owned(),
        };
        let trailer = format!(
            "{{\"next\":\"c{next}\",\"more\":{more},\"lastSyncDate\":\"{date}\",\"rows\":{rows},\"entities\":[\"{}\"]}}\n",
            entities.join("\",\"")
        );
        text.extend_from_slice(trailer.as_bytes());
        text.truncate(
            text.len()
                .saturating_sub(usize::from(self.cut.saturating_sub(200))),
        );
        text
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Delete => "delete",
            Self::Upsert => "upsert",
        }
    }
}

impl Odd {
    fn text(&self) -> Vec<u8> {
        match self {
            Self::Null => b"\\N".to_vec(),
            Self::Number(number) => number.to_string().into_bytes(),
            Self::Date(day) => format!("{:04}-11-22 10:00:00+00", u16::from(*day) * 40).into_bytes(),
            Self::Known(place) => pick(&KNOWN, *place).as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn pick<'a>(all: &[&'a str], place: u8) -> &'a str {
    all.get(usize::from(place) % all.len())
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    /// Tries what is kept of a target, of which some is in order.
    fn corpus(target: &str, tried: impl Fn(&[u8]) -> usize) {
        let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let (mut count, mut taken) = (0, 0);
        for file in std::fs::read_dir(&folder).expect(&folder) {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            taken += tried(&std::fs::read(&path).expect("a file"));
            count += 1;
        }
        assert!(count >= 10, "the corpus of {target} is not there");
        assert!(taken > 0, "no page of {target} was taken");
    }

    #[test]
    fn the_corpus_of_pages_leaves_the_store_whole() {
        corpus("page", super::page);
    }

    #[test]
    fn the_corpus_of_made_up_pages_leaves_the_store_whole() {
        corpus("pages", super::pages);
    }
}
