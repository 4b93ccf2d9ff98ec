//! The statements that compute digests, and those that read the rows in question.
//!
//! A row's digest is made of texts that a store can make of its values as well: what `COPY` prints of
//! them, floats aside. Each statement is one scan of the table, but where keys are named: then it looks these up.

use highwater_shared::digests::mask;
use highwater_shared::hash::hash;
use highwater_shared::{Column, ColumnRole, ValueKind, Within};

use crate::entity::Entity;
use crate::quoting::{NulInText, identifier, literal};
use crate::snapshot::{Snapshot, Xid};

use super::conditions::{RowKey, in_scopes, tombstones_of, values_of};
use super::sql::seen_or_foreign;

/// A text whose hash tells whether this Postgres computes it as the others do. A machine that writes
/// numbers the other way round does not.
const PROBE: &str = "the hash of a text of more than twelve bytes";

/// Encodings whose every byte is a character: whatever bytes there are make a text.
const SINGLE_BYTE: [&str; 4] = ["LATIN", "WIN", "ISO_8859", "KOI8"];

/// Asks for the hash of the probe, and for the encoding of the database.
pub(super) fn probe() -> String {
    format!(
        "select hashtextextended('{PROBE}' collate \"C\", 1) as hash, getdatabaseencoding()::text as encoding"
    )
}

/// Whether the hash of the probe is the one that a store computes.
pub(super) fn is_known(found: i64) -> bool {
    hash(PROBE.as_bytes(), 1) == found.cast_unsigned()
}

/// Scans are meant here, not the walks along an index that pages are made of; all groups fit into this
/// much memory; and a scan that nobody waits for any more is given up.
pub(super) fn settings(time_ms_max: u128) -> String {
    format!(
        "set local enable_seqscan = on; set local enable_bitmapscan = on; set local enable_sort = off;
         set local work_mem = '32MB'; set local statement_timeout = {time_ms_max};
         set local client_connection_check_interval = '1s';"
    )
}

/// How texts are hashed in a database of some encoding, whose name this is as a literal; none where they are
/// in UTF-8 as they stand.
#[derive(Clone, Debug)]
pub(super) struct Encoding(Option<String>);

impl Encoding {
    /// `None` where its texts cannot be hashed in UTF-8.
    pub(super) fn new(name: &str) -> Option<Self> {
        match name {
            "UTF8" | "SQL_ASCII" => Some(Self(None)),
            name if SINGLE_BYTE.iter().any(|known| name.starts_with(known)) => {
                Some(Self(Some(literal(name).ok()?)))
            }
            _ => None,
        }
    }

    /// An expression of a text in UTF-8, whatever the encoding of the database is.
    fn in_utf8(&self, text: String) -> String {
        match &self.0 {
            None => text,
            // The bytes that it has in UTF-8, taken for a text.
            Some(name) => format!("convert_from(convert_to({text}, 'UTF8'), {name})"),
        }
    }
}

/// What is read of an entity, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digested<'a> {
    pub(super) entity: &'a Entity,
    /// The scopes that the caller may see; all where there are none.
    pub(super) scopes: Option<&'a [String]>,
    /// Rows that this has seen.
    pub(super) seen: &'a Snapshot,
    /// The first id that was not given out yet.
    pub(super) next_xid: Xid,
    pub(super) deep: bool,
    pub(super) encoding: &'a Encoding,
    pub(super) within: Option<&'a Within>,
    /// The rows that have one of these keys; all where there are none.
    pub(super) keys: Option<&'a [RowKey]>,
}

/// A statement that fails where one of these keys is none of the entity's; `None` where there are no keys.
pub(super) fn check_keys(entity: &Entity, keys: &[RowKey]) -> Result<Option<String>, NulInText> {
    let values = values_of(entity, keys)?;
    Ok(values.map(|values| format!("select count(k.*) from ({values}) k")))
}

impl Digested<'_> {
    /// The number of rows and the digest of each part.
    pub(super) fn parts(&self, bits: u32) -> Result<String, NulInText> {
        // Behind the fence of `offset` the hash of a key is computed once for each row.
        let mut inner = vec![
            format!("{} as h", self.key_hash()),
            format!("{} as d", self.changed_date()),
        ];
        let mut digest = "hashtextextended(r.d, r.h)".to_owned();
        for (place, text) in self.values() {
            inner.push(format!("{text} as c{place}"));
            digest.push_str(&value_digest(&format!("r.c{place}"), "r.h", place));
        }
        Ok(format!(
            "copy (select r.h & {}, count(*), bit_xor({digest}) from (select {} from {} offset 0) r{} group by 1) to stdout",
            mask(bits),
            inner.join(", "),
            self.rows()?,
            self.within.map_or(String::new(), |within| format!(
                " where {}",
                belongs("r.h", within)
            )),
        ))
    }

    /// The key and the digest of each row.
    pub(super) fn keys(&self) -> Result<String, NulInText> {
        let hash = self.key_hash();
        let mut digest = format!("hashtextextended({}, {hash})", self.changed_date());
        for (place, text) in self.values() {
            digest.push_str(&value_digest(&text, &hash, place));
        }
        let mut fields = self.key();
        fields.push(digest);
        self.copy(&fields)
    }

    /// Whole rows, in the columns of an `upsert`.
    pub(super) fn whole(&self) -> Result<String, NulInText> {
        let mut fields: Vec<String> = self
            .entity
            .columns
            .iter()
            .map(|column| format!("t.{}", identifier(&column.name)))
            .collect();
        fields.push("t.changed_date".to_owned());
        self.copy(&fields)
    }

    /// The keys of all that the snapshot has not seen, removed, flagged or live: statements that walk
    /// the index over ids.
    pub(super) fn changed(&self) -> Result<Vec<String>, NulInText> {
        let tombstone_key = self.entity.key.iter().enumerate();
        let tombstone_key: Vec<String> = tombstone_key
            .map(|(place, column)| format!("(t.key[{}])::{}", place + 1, column.cast))
            .collect();
        let tombstones = tombstones_of(self.entity, self.scopes)?;
        let rows = format!("{} t where {}", self.entity.table, self.in_scope()?);
        let mut statements = Vec::new();
        for unseen in unseen_by(self.seen, self.next_xid) {
            for (key, from) in [(self.key(), &rows), (tombstone_key.clone(), &tombstones)] {
                statements.push(format!(
                    "copy (select {} from {from} and {unseen}) to stdout",
                    key.join(", ")
                ));
            }
        }
        Ok(statements)
    }

    fn copy(&self, fields: &[String]) -> Result<String, NulInText> {
        let belongs = self.within.map_or(String::new(), |within| {
            format!(" and {}", belongs(&self.key_hash(), within))
        });
        Ok(format!(
            "copy (select {} from {}{belongs}) to stdout",
            fields.join(", "),
            self.rows()?
        ))
    }

    /// The live rows that the caller may see and the snapshot has seen.
    fn rows(&self) -> Result<String, NulInText> {
        let mut text = format!(
            "{} t where not t.deleted and {}",
            self.entity.table,
            self.in_scope()?
        );
        seen_or_foreign(&mut text, self.seen, self.next_xid);
        if let Some(keys) = self.keys {
            let has_one = match values_of(self.entity, keys)? {
                Some(values) => format!("({}) in ({values})", self.key().join(", ")),
                None => "false".to_owned(),
            };
            text.push_str(" and ");
            text.push_str(&has_one);
        }
        Ok(text)
    }

    fn in_scope(&self) -> Result<String, NulInText> {
        in_scopes(self.entity, self.scopes)
    }

    fn key(&self) -> Vec<String> {
        let columns = self.entity.key.iter();
        columns
            .map(|column| format!("t.{}", identifier(&column.name)))
            .collect()
    }

    /// The hash of the key: each column's with that of the one before as its seed.
    fn key_hash(&self) -> String {
        self.entity.key.iter().fold("0".to_owned(), |seed, column| {
            let kind = ValueKind::of(&column.type_name);
            let value = format!("t.{}", identifier(&column.name));
            let text = self.text(&value, kind, &column.type_name);
            format!("hashtextextended({text}, {seed})")
        })
    }

    fn changed_date(&self) -> String {
        self.text(
            "t.changed_date",
            ValueKind::TimestampWithZone,
            "timestamp with time zone",
        )
    }

    /// The texts of the published columns that are not part of the key, with their places; none where
    /// dates are enough.
    fn values(&self) -> Vec<(usize, String)> {
        let columns = self.entity.columns.iter().zip(1..).filter(|_| self.deep);
        columns
            .filter(|(column, _)| column.role != Some(ColumnRole::Key))
            .map(|(column, place)| (place, self.value(column)))
            .collect()
    }

    fn value(&self, column: &Column) -> String {
        let value = format!("t.{}", identifier(&column.name));
        let is_single = column.type_name == "real";
        match column.value_kind() {
            // The bits of a double: what it prints depends on who prints it. A store has no NaN
            // and no negative zero, and reads a single as it prints.
            ValueKind::Float if is_single => bits(&format!("nullif({value}, 'NaN')::text::float8")),
            ValueKind::Float => bits(&format!("nullif({value}, 'NaN')")),
            kind => self.text(&value, kind, &column.type_name),
        }
    }

    /// The text that `COPY` prints of a value; null for a null.
    fn text(&self, value: &str, kind: ValueKind, type_name: &str) -> String {
        let text = if prints_by_cast(type_name) {
            format!("{value}::text")
        } else if type_name == "boolean" {
            // Spares the call of a function that is right for every type.
            format!("case {value} when true then 't' when false then 'f' end")
        } else {
            // `is null` would say of a composite what is in it.
            format!("case when {value} is distinct from null then concat({value}) end")
        };
        let text = match kind {
            ValueKind::Text => self.encoding.in_utf8(text),
            // Digits and their like are the same in all encodings.
            _ => text,
        };
        format!("({text}) collate \"C\"")
    }
}

fn bits(double: &str) -> String {
    format!("encode(float8send({double} + 0), 'hex') collate \"C\"")
}

fn value_digest(text: &str, key_hash: &str, place: usize) -> String {
    format!(" # coalesce(hashtextextended({text}, {key_hash} # {place}::bigint), 0)")
}

fn belongs(key_hash: &str, within: &Within) -> String {
    let parts: Vec<String> = within.parts.iter().map(ToString::to_string).collect();
    format!(
        "({key_hash} & {}) = any ('{{{}}}'::bigint[])",
        mask(within.bits),
        parts.join(",")
    )
}

/// Whether a cast to text prints a value as `COPY` does; it has a mind of its own for `boolean`, `inet`,
/// `char(n)` and, maybe, for types that extensions bring.
fn prints_by_cast(type_name: &str) -> bool {
    matches!(
        type_name,
        "smallint"
            | "integer"
            | "bigint"
            | "oid"
            | "numeric"
            | "text"
            | "character varying"
            | "uuid"
            | "date"
            | "timestamp with time zone"
            | "timestamp without time zone"
            | "bytea"
            | "jsonb"
            | "json"
    )
}

/// What ids a snapshot has not seen: from its bound on, as far as any were given out, and those in flight.
fn unseen_by(seen: &Snapshot, next_xid: Xid) -> Vec<String> {
    let mut unseen = vec![format!(
        "t.changed_xid >= '{}'::xid8 and t.changed_xid < '{next_xid}'::xid8",
        seen.xmax()
    )];
    if !seen.in_flight().is_empty() {
        let xids: Vec<String> = seen.in_flight().iter().map(ToString::to_string).collect();
        unseen.push(format!("t.changed_xid = any ('{{{}}}'::xid8[])", xids.join(",")));
    }
    unseen
}
