//! An answer to a question for digests, taken while it arrives: parts and keys of bounded number in
//! memory, and the keys that are left out, which may be any number, in a file of SQLite's own.

use std::collections::{BTreeMap, HashMap};

use highwater_shared::{BlockHeader, BlockKind, EntityName, PageSink, copy_text};
use rusqlite::{Connection, params};

use super::parts::{Digest, Parts};
use crate::error::Error;
use crate::sync_helper::Cursor;

/// What came of one entity.
#[derive(Debug, Default)]
pub(super) struct OfEntity {
    pub(super) fingerprint: Option<String>,
    /// Whether the cursor has the entity begin anew.
    pub(super) begins_anew: bool,
    pub(super) parts: Parts,
    /// Digests by key, a line of `COPY` text.
    pub(super) keys: HashMap<Vec<u8>, u64>,
}

/// What came of all.
pub(super) struct Received {
    entities: BTreeMap<EntityName, OfEntity>,
    /// Where the keys are that are left out; temporary, and on disk where they are many.
    left_out: Connection,
    block: Option<(EntityName, BlockKind)>,
    keys_max: usize,
    /// The cursor that the answer is as of.
    pub(super) next: Option<Cursor>,
}

impl Received {
    /// Nothing yet. More than `keys_max` keys are refused.
    pub(super) fn new(keys_max: usize) -> Result<Self, Error> {
        let left_out = Connection::open("")?;
        left_out.execute_batch(
            "pragma journal_mode = off; pragma synchronous = off;
             create table left_out (entity text not null, key blob not null, primary key (entity, key)) without rowid;
             begin",
        )?;
        Ok(Self {
            entities: BTreeMap::new(),
            left_out,
            block: None,
            keys_max,
            next: None,
        })
    }

    /// What came of an entity.
    pub(super) fn of(&mut self, entity: &EntityName) -> OfEntity {
        self.entities.remove(entity).unwrap_or_default()
    }

    /// Hands on the keys of an entity that are left out, each once.
    pub(super) fn with_left_out<T>(
        &self,
        entity: &EntityName,
        work: impl FnOnce(&mut dyn Iterator<Item = Result<Vec<u8>, Error>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut statement = self
            .left_out
            .prepare("select key from left_out where entity = ?1")?;
        let keys = statement.query_map([entity.as_str()], |row| row.get::<_, Vec<u8>>(0))?;
        work(&mut keys.map(|key| key.map_err(Error::from)))
    }
}

impl PageSink for Received {
    type Error = Error;

    fn block(&mut self, header: BlockHeader) -> Result<(), Error> {
        let of = self.entities.entry(header.entity.clone()).or_default();
        of.fingerprint = Some(header.fingerprint);
        match header.kind {
            BlockKind::Reset => of.begins_anew = true,
            BlockKind::Changed | BlockKind::Part | BlockKind::Key => {}
            BlockKind::Delete | BlockKind::Upsert | BlockKind::Within => {
                return Err(Error::Malformed(
                    "it holds rows where digests were due".to_owned(),
                ));
            }
        }
        self.block = Some((header.entity, header.kind));
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Error> {
        let Some((entity, kind)) = &self.block else {
            return Err(Error::Malformed("a row stands outside of a block".to_owned()));
        };
        let of = self.entities.entry(entity.clone()).or_default();
        match kind {
            BlockKind::Changed => {
                self.left_out
                    .prepare_cached("insert or ignore into left_out values (?1, ?2)")?
                    .execute(params![entity.as_str(), same_form(line)])?;
            }
            BlockKind::Part => {
                let (part, digest) = read_part(line).ok_or_else(|| malformed("a part"))?;
                if !of.parts.set(part, digest) {
                    return Err(malformed("more parts than there are"));
                }
            }
            _ => {
                let at = line
                    .iter()
                    .rposition(|byte| *byte == b'\t')
                    .ok_or_else(|| malformed("a key"))?;
                let (key, digest) = line.split_at(at);
                let digest = number(digest.get(1..)).ok_or_else(|| malformed("a key"))?;
                if of.keys.len() >= self.keys_max {
                    return Err(malformed("more keys than there are"));
                }
                of.keys.insert(same_form(key), digest.cast_unsigned());
            }
        }
        Ok(())
    }
}

/// A line with its fields escaped as they are here, so that equal keys are equal bytes.
fn same_form(line: &[u8]) -> Vec<u8> {
    if !line.contains(&b'\\') {
        return line.to_vec();
    }
    let mut same = Vec::with_capacity(line.len());
    for (place, field) in copy_text::fields(line).enumerate() {
        if place > 0 {
            same.push(b'\t');
        }
        copy_text::escape_into(&copy_text::unescape(field.unwrap_or_default()), &mut same);
    }
    same
}

fn read_part(line: &[u8]) -> Option<(u64, Digest)> {
    let mut fields = copy_text::fields(line);
    let mut next = || number(fields.next()?);
    let (part, rows, sum) = (next()?, next()?, next()?);
    let digest = Digest {
        rows: rows.try_into().ok()?,
        sum: sum.cast_unsigned(),
    };
    Some((part.try_into().ok()?, digest))
}

fn number(field: Option<&[u8]>) -> Option<i64> {
    std::str::from_utf8(field?).ok()?.parse().ok()
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("it holds {what} that cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_its_number_its_rows_and_their_digest() {
        let digest = Digest {
            rows: 3,
            sum: u64::MAX,
        };
        assert_eq!(read_part(b"5\t3\t-1"), Some((5, digest)));
        for none in ["", "5\t3", "5\t-3\t1", "-5\t3\t1", "5\t3\tx", "\\N\t3\t1"] {
            assert_eq!(read_part(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn equal_keys_are_equal_bytes() {
        assert_eq!(same_form(b"plain\t7"), b"plain\t7");
        assert_eq!(same_form(br"\x41\101"), b"AA");
        assert_eq!(same_form(br"a\tb"), br"a\tb", "what has to be escaped is");
    }
}
