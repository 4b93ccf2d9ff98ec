//! Rows that a comparison found to be wrong: replaced in one transaction, by the code that writes pages.
//! No cursor moves, unless the comparison was with the source as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use highwater_shared::block::BLOCK_VERSION;
use highwater_shared::{BlockHeader, BlockKind, EntityName, PageError, PageParser, PageSink, Trailer};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::block::BlockWriter;
use super::past::{self, PastCursor};
use super::staged::Staged;
use super::table::{Purpose, Table};
use super::{Store, from_page, sync_helpers};
use crate::applied::EntityApplied;
use crate::error::Error;
use crate::pull::Writing;
use crate::sync_helper::{Cursor, SourceId, State};

/// What is to be mended.
#[derive(Debug)]
pub(crate) struct Mending {
    /// By entity: keys to remove, as lines of `COPY` text.
    pub(crate) extra: Vec<(EntityName, Vec<Vec<u8>>)>,
    pub(crate) writing: Writing,
    pub(crate) standing: Standing,
}

/// Which cursor the rows go with.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// That of each entity, and it must still be this one.
    At(Vec<(EntityName, Cursor)>),
    /// Another one, that a pull goes on from; where rows come, the one that comes with the last of them.
    MovesTo {
        cursor: Cursor,
        /// The entities that move.
        entities: Vec<EntityName>,
        source: SourceId,
        from: MovesFrom,
    },
}

/// Where a cursor leads on from, that a store moves to.
#[derive(Clone, Debug)]
pub(crate) enum MovesFrom {
    /// The source as it is now. It covers the entities that move.
    Now,
    /// This cursor of the store's past.
    Past(PastCursor),
}

/// What goes from the network to the task that writes: one answer after the other.
#[derive(Debug)]
pub(crate) enum MendingPiece {
    Chunk(Bytes),
    /// An answer ended. The cursor that came with it is told, or that its end has not come.
    End(oneshot::Sender<Option<Cursor>>),
    /// The answer is asked for once more. What came of it is written over, or heard of with the next pull.
    Again,
    /// All answers have ended. Without this, nothing is kept.
    All,
}

impl Store {
    /// Removes rows, and writes those that arrive over the old ones. Returns what changed, by entity.
    pub(crate) async fn mend(
        &self,
        mending: Mending,
        pieces: mpsc::Receiver<MendingPiece>,
    ) -> Result<Vec<EntityApplied>, Error> {
        self.blocking(move |open| write(&open.connection, &mending, pieces))
            .await
    }
}

fn write(
    connection: &Connection,
    mending: &Mending,
    mut pieces: mpsc::Receiver<MendingPiece>,
) -> Result<Vec<EntityApplied>, Error> {
    let mut pieces = std::iter::from_fn(|| pieces.blocking_recv()).peekable();
    // Others may write to tables of their own while the server thinks.
    let _ = pieces.peek();
    let transaction = connection.unchecked_transaction()?;
    let mut writer = Mender {
        block: None,
        connection,
        staged: Vec::new(),
        counts: BTreeMap::new(),
        writing: mending.writing,
    };
    if let Standing::At(cursors) = &mending.standing {
        let helpers = sync_helpers::load(connection)?;
        for (entity, cursor) in cursors {
            let stands = helpers.get(entity).and_then(|helper| helper.cursor.as_ref());
            if stands != Some(cursor) {
                let reason = format!("{entity} was pulled meanwhile");
                return Err(Error::PullFirst { reason });
            }
        }
    }
    for (entity, keys) in &mending.extra {
        writer.remove(entity, keys)?;
    }
    let mut parser = PageParser::new();
    let mut last = None;
    // With those answers that have ended.
    let mut counts = writer.counts.clone();
    loop {
        match pieces.next() {
            Some(MendingPiece::Chunk(chunk)) => parser.push(&chunk, &mut writer).map_err(from_page)?,
            Some(MendingPiece::End(told)) => {
                let trailer: Trailer = match std::mem::take(&mut parser).finish() {
                    Err(PageError::Incomplete) => {
                        let _ = told.send(None);
                        continue;
                    }
                    ended => ended.map_err(from_page)?,
                };
                writer.block = None;
                counts.clone_from(&writer.counts);
                let next = Cursor::new(trailer.next);
                last = Some(next.clone());
                // Who does not listen any more has failed.
                let _ = told.send(Some(next));
            }
            Some(MendingPiece::Again) => {
                parser = PageParser::new();
                writer.block = None;
                writer.counts.clone_from(&counts);
            }
            Some(MendingPiece::All) => break,
            None => return Err(Error::Incomplete),
        }
    }
    let counts = writer.finish()?;
    if let Standing::MovesTo {
        cursor,
        entities,
        source,
        from,
    } = &mending.standing
    {
        let covers = match from {
            MovesFrom::Now => {
                past::forget(connection)?;
                entities
            }
            MovesFrom::Past(past) => {
                past::go_back(connection, &past.cursor)?;
                &past.covers
            }
        };
        let cursor = last.as_ref().unwrap_or(cursor);
        move_to(connection, cursor, entities, covers, source)?;
    }
    transaction.commit()?;
    Ok(counts)
}

/// Puts the entities at a cursor. Some of what has changed since it was made may be there and some not, so
/// they are in the middle of a pull, which ends with what that cursor has not seen.
fn move_to(
    connection: &Connection,
    cursor: &Cursor,
    entities: &[EntityName],
    covers: &[EntityName],
    source: &SourceId,
) -> Result<(), Error> {
    let covers: Arc<[EntityName]> = Arc::from(covers);
    let mut helpers = sync_helpers::load(connection)?;
    let newest = helpers.values().map(|helper| helper.sequence).max();
    let sequence = newest.unwrap_or(0).saturating_add(1);
    for entity in entities {
        if let Some(helper) = helpers.get_mut(entity) {
            helper.cursor = Some(cursor.clone());
            helper.covers = Arc::clone(&covers);
            helper.state = State::Pulling;
            helper.sequence = sequence;
            helper.began = sequence;
            helper.source = Some(source.clone());
            sync_helpers::save(connection, helper)?;
        }
    }
    Ok(())
}

struct Mender<'c> {
    block: Option<BlockWriter<'c>>,
    connection: &'c Connection,
    staged: Vec<Staged>,
    counts: BTreeMap<EntityName, EntityApplied>,
    writing: Writing,
}

impl<'c> Mender<'c> {
    /// Removes rows that the source does not have; they are not kept as deleted, since they never were.
    fn remove(&mut self, entity: &EntityName, keys: &[Vec<u8>]) -> Result<(), Error> {
        let table = self.table(entity)?;
        let header = BlockHeader {
            version: BLOCK_VERSION,
            entity: entity.clone(),
            kind: BlockKind::Delete,
            columns: table.key().cloned().collect(),
            fingerprint: table.fingerprint.clone(),
            values: Vec::new(),
        };
        let mut block = BlockWriter::deletes(self.connection, header, &table, false)?;
        let mut deletes = 0;
        for key in keys {
            deletes += block.row(key)? as u64;
        }
        self.count(entity).deletes += deletes;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<EntityApplied>, Error> {
        self.block = None;
        for staged in &self.staged {
            staged.apply(self.connection)?;
        }
        let counts = self.counts.into_values();
        Ok(counts
            .filter(|counts| counts.upserts + counts.deletes > 0)
            .collect())
    }

    fn count(&mut self, entity: &EntityName) -> &mut EntityApplied {
        self.counts
            .entry(entity.clone())
            .or_insert_with_key(|entity| EntityApplied::new(entity.clone()))
    }

    fn table(&self, entity: &EntityName) -> Result<Table, Error> {
        Table::find(self.connection, entity, Purpose::Rows)?.ok_or_else(|| Error::TableMissing {
            entity: entity.clone(),
        })
    }

    fn upserts(&mut self, header: BlockHeader) -> Result<BlockWriter<'c>, Error> {
        let table = self.table(&header.entity)?;
        if !table.fits(&header) {
            let reason = format!("the columns of {} have changed", header.entity);
            return Err(Error::PullFirst { reason });
        }
        let target = match self.writing {
            Writing::InPlace => None,
            Writing::DeletesFirst => {
                let rooms = &mut self.staged;
                Some(Staged::target_of(rooms, self.connection, &header.entity, &table)?)
            }
        };
        BlockWriter::upserts(self.connection, header, &table, target)
    }
}

impl PageSink for Mender<'_> {
    type Error = Error;

    fn block(&mut self, header: BlockHeader) -> Result<(), Error> {
        self.block = match header.kind {
            // What changed since comes with the next pull.
            BlockKind::Changed => None,
            BlockKind::Upsert => Some(self.upserts(header)?),
            BlockKind::Reset => {
                let reason = format!("{} is to begin anew", header.entity);
                return Err(Error::PullFirst { reason });
            }
            BlockKind::Delete | BlockKind::Within | BlockKind::Part | BlockKind::Key => {
                return Err(Error::Malformed(
                    "it holds no rows where rows were due".to_owned(),
                ));
            }
        };
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Error> {
        let Some(block) = &mut self.block else {
            return Ok(());
        };
        let upserts = block.row(line)? as u64;
        let entity = block.entity.clone();
        self.count(&entity).upserts += upserts;
        Ok(())
    }
}
