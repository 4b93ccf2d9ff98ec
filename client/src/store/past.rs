//! What a store remembers of its past: cursors that it stood at, and the keys of the rows that pages have written
//! since.
//!
//! A source that was promoted or restored may have lost its latest commits, and with them the store's cursor is worth
//! nothing. An earlier cursor may lie before that point. Then no rows can differ from what that one has seen but
//! those of the keys since. The replicator of `CouchDB` looks for a common past in the same way, in checkpoints that
//! both sides keep; here the source has its own in the history of its log, and keeps none for anybody.

use std::collections::{BTreeMap, BTreeSet};

use highwater_shared::{EntityName, copy_text};
use rusqlite::{Connection, params};

use super::block::BlockWriter;
use super::{Store, sync_helpers};
use crate::error::Error;
use crate::sync_helper::Cursor;

/// The most cursors that are kept. The older ones lie further and further apart.
const CURSORS_MAX: usize = 16;

/// The most bytes of keys that are kept; with more, what is oldest is forgotten.
const KEYS_BYTES_MAX: u32 = 256 * 1024;

/// Keys of rows by entity, as lines of `COPY` text.
pub(crate) type KeysOf = BTreeMap<EntityName, BTreeSet<String>>;

/// A cursor that the whole store stood at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastCursor {
    pub(crate) cursor: Cursor,
    /// The entities that it covers.
    pub(crate) covers: Vec<EntityName>,
    /// What pages have written after it, up to the next one.
    pub(crate) keys: KeysOf,
}

impl Store {
    /// The cursors that it stood at, the latest first.
    pub(crate) fn past(&self) -> Result<Vec<PastCursor>, Error> {
        self.with(|open| {
            let mut statement = open
                .connection
                .prepare_cached("select cursor, covers, keys from highwater_past order by id desc")?;
            let past = statement.query_map([], |row| {
                let (cursor, keys): (String, String) = (row.get(0)?, row.get(2)?);
                Ok(PastCursor {
                    cursor: Cursor::new(cursor),
                    covers: sync_helpers::covers(row, 1)?,
                    keys: by_entity(&keys),
                })
            })?;
            Ok(past.collect::<rusqlite::Result<_>>()?)
        })
    }
}

/// What a page writes, as it is to be remembered.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// A line for each row: the entity, and the key. `None` where there is nothing that it could be added to.
    keys: Option<Vec<u8>>,
}

impl Written {
    /// Begins with a page.
    pub(super) fn begin(connection: &Connection) -> Result<Self, Error> {
        let remembers = connection
            .prepare_cached("select exists (select 1 from highwater_past)")?
            .query_row([], |row| row.get(0))?;
        let keys = if remembers { Some(Vec::new()) } else { None };
        Ok(Self { keys })
    }

    /// A row of a block was written or taken away.
    pub(super) fn row(&mut self, block: &BlockWriter<'_>, line: &[u8]) {
        let Some(keys) = &mut self.keys else { return };
        if keys.len() as u64 > u64::from(KEYS_BYTES_MAX) {
            self.keys = None;
            return;
        }
        copy_text::escape_into(block.entity.as_str().as_bytes(), keys);
        keys.push(b'\t');
        block.key_into(line, keys);
        keys.push(b'\n');
    }

    /// An entity begins anew, and which of its rows are written over is not known.
    pub(super) fn is_lost(&mut self) {
        self.keys = None;
    }

    /// Ends with the page. `stands_at` is the cursor, with what it covers, where the whole store stands at it.
    pub(super) fn end(
        self,
        connection: &Connection,
        stands_at: Option<(&Cursor, &[EntityName])>,
    ) -> Result<(), Error> {
        match self.keys.map(String::from_utf8) {
            Some(Ok(keys)) if keys.is_empty() => {}
            Some(Ok(keys)) => {
                connection
                    .prepare_cached(
                        "update highwater_past set keys = keys || ?1
                         where id = (select max(id) from highwater_past)",
                    )?
                    .execute([keys])?;
            }
            // What is no text is the key of no row either.
            None | Some(Err(_)) => forget(connection)?,
        }
        if let Some((cursor, covers)) = stands_at {
            // Where nothing was written, the earlier cursor is worth more.
            connection
                .prepare_cached(
                    "insert into highwater_past (cursor, covers) select ?1, ?2 where not exists
                     (select 1 from highwater_past where keys = '' and id = (select max(id) from highwater_past))",
                )?
                .execute(params![cursor.as_str(), sync_helpers::list_of(covers)])?;
            thin_out(connection)?;
        }
        // Also after a page that leaves the store apart: it may stay so for any number of pulls.
        forget_beyond_bounds(connection)
    }
}

/// Forgets all of it: the store no longer follows from what it was.
pub(super) fn forget(connection: &Connection) -> Result<(), Error> {
    connection
        .prepare_cached("delete from highwater_past")?
        .execute([])?;
    Ok(())
}

/// Goes back to a cursor: what was written after later ones was written after it.
pub(super) fn go_back(connection: &Connection, cursor: &Cursor) -> Result<(), Error> {
    let ids = ids(connection)?;
    let place: Option<i64> = connection
        .prepare_cached("select max(id) from highwater_past where cursor = ?1")?
        .query_row([cursor.as_str()], |row| row.get(0))?;
    let Some(place) = place else {
        return forget(connection);
    };
    for later in ids.into_iter().filter(|id| *id > place) {
        join(connection, place, later)?;
    }
    Ok(())
}

/// Keeps no more cursors than are to be kept.
fn thin_out(connection: &Connection) -> Result<(), Error> {
    let mut ids = ids(connection)?;
    while ids.len() > CURSORS_MAX
        && let Some(place) = superfluous(&ids)
    {
        let [earlier, joined] = [place - 1, place].map(|place| ids.get(place).copied().unwrap_or_default());
        join(connection, earlier, joined)?;
        ids.remove(place);
    }
    Ok(())
}

/// Forgets what is oldest, where there are more bytes of keys than are to be kept.
fn forget_beyond_bounds(connection: &Connection) -> Result<(), Error> {
    connection
        .prepare_cached(
            "delete from highwater_past where id in (
               select id from (select id, sum(length(cast(keys as blob))) over (order by id desc) as bytes
                               from highwater_past)
               where bytes > ?1)",
        )?
        .execute([KEYS_BYTES_MAX])?;
    Ok(())
}

/// The place of that cursor, of those which have both neighbours, which leaves the smallest gap for its age.
fn superfluous(ids: &[i64]) -> Option<usize> {
    let newest = ids.last()?;
    let gaps = ids.windows(3).zip(1..).filter_map(|(window, place)| {
        let [before, id, after] = window else { return None };
        // As a fraction in thousands.
        Some((1_000 * (after - before) / (newest + 1 - id), place))
    });
    gaps.min().map(|(_, place)| place)
}

/// Takes a cursor away: what was written after it was written after the earlier one.
fn join(connection: &Connection, earlier: i64, joined: i64) -> Result<(), Error> {
    let mut lines: BTreeSet<String> = BTreeSet::new();
    let mut statement = connection.prepare_cached("select keys from highwater_past where id in (?1, ?2)")?;
    let texts = statement.query_map([earlier, joined], |row| row.get::<_, String>(0))?;
    for text in texts {
        lines.extend(text?.split_inclusive('\n').map(str::to_owned));
    }
    let keys: String = lines.into_iter().collect();
    connection
        .prepare_cached("update highwater_past set keys = ?2 where id = ?1")?
        .execute(params![earlier, keys])?;
    connection
        .prepare_cached("delete from highwater_past where id = ?1")?
        .execute([joined])?;
    Ok(())
}

fn ids(connection: &Connection) -> Result<Vec<i64>, Error> {
    let mut statement = connection.prepare_cached("select id from highwater_past order by id")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn by_entity(text: &str) -> KeysOf {
    let mut keys = KeysOf::new();
    for (entity, key) in text.lines().filter_map(|line| line.split_once('\t')) {
        let entity = copy_text::unescape(entity.as_bytes());
        let entity = EntityName::new(String::from_utf8_lossy(&entity).into_owned());
        keys.entry(entity).or_default().insert(key.to_owned());
    }
    keys
}
