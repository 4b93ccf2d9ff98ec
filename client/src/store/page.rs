//! Applies one page: rows, SyncHelper rows and tables, in one transaction that ends with the trailer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_shared::{BlockHeader, BlockKind, EntityName, PageSink, Trailer};
use rusqlite::{Connection, Transaction};

use super::block::BlockWriter;
use super::checkpoint;
use super::past::Written;
use super::renew;
use super::staged::Staged;
use super::sync_helpers;
use super::table::{Purpose, Table};
use super::trailer;
use crate::applied::{EntityApplied, PageApplied};
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Order, Writing};
use crate::sync_helper::{Cursor, Sequence, State, SyncHelper};

/// Takes a page while it arrives. Dropped before [`PageWriter::finish`], it leaves nothing behind.
pub(super) struct PageWriter<'c, 'o> {
    // Before the transaction, so that statements end before it does.
    block: Option<BlockWriter<'c>>,
    transaction: Option<Transaction<'c>>,
    connection: &'c Connection,
    order: &'o Order,
    meter: &'o Meter,
    helpers: BTreeMap<EntityName, SyncHelper>,
    sequence: Sequence,
    staged: Vec<Staged>,
    counts: BTreeMap<EntityName, EntityApplied>,
    /// Keys that came, of rows that are gone.
    deleted: u64,
    /// Rows that readers have seen and that did not come again.
    vanished: u64,
    withdrawn: Vec<EntityName>,
    written: Written,
}

impl PageSink for PageWriter<'_, '_> {
    type Error = Error;

    fn block(&mut self, header: BlockHeader) -> Result<(), Error> {
        self.block = None;
        self.begin()?;
        if let Some(asked) = &self.order.ask.entities
            && !asked.contains(&header.entity)
        {
            return Err(Error::Malformed(format!(
                "it holds {}, which was not asked for",
                header.entity
            )));
        }
        self.counts
            .entry(header.entity.clone())
            .or_insert_with_key(|entity| EntityApplied::new(entity.clone()));
        trailer::check_entities(self.counts.len())?;
        match header.kind {
            BlockKind::Reset => self.reset(&header),
            BlockKind::Within => self.within(&header),
            BlockKind::Delete | BlockKind::Upsert => {
                self.block = Some(self.open_block(header)?);
                Ok(())
            }
            BlockKind::Changed | BlockKind::Part | BlockKind::Key => Err(Error::Malformed(
                "it holds digests where rows were due".to_owned(),
            )),
        }
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Error> {
        let Some(block) = &mut self.block else {
            return Err(Error::Malformed("a row stands outside of a block".to_owned()));
        };
        let changed = block.row(line)? as u64;
        self.written.row(block, line);
        self.meter.row();
        let is_delete = block.kind() == BlockKind::Delete;
        self.deleted += u64::from(is_delete);
        let is_visible = self
            .helpers
            .get(&block.entity)
            .is_some_and(|helper| helper.state != State::Renewing);
        if is_visible && let Some(counts) = self.counts.get_mut(&block.entity) {
            if is_delete {
                counts.deletes += changed;
            } else {
                counts.upserts += changed;
            }
        }
        Ok(())
    }
}

impl<'c, 'o> PageWriter<'c, 'o> {
    pub(super) fn new(connection: &'c Connection, order: &'o Order, meter: &'o Meter) -> Self {
        Self {
            block: None,
            transaction: None,
            connection,
            order,
            meter,
            helpers: BTreeMap::new(),
            sequence: 0,
            staged: Vec::new(),
            counts: BTreeMap::new(),
            deleted: 0,
            vanished: 0,
            withdrawn: Vec::new(),
            written: Written::default(),
        }
    }

    /// Moves the SyncHelper rows to the trailer's cursor and commits.
    pub(super) fn finish(mut self, trailer: &Trailer) -> Result<PageApplied, Error> {
        self.block = None;
        self.begin()?;
        trailer::check(trailer, &self.order.ask, self.counts.keys())?;
        for staged in std::mem::take(&mut self.staged) {
            staged.apply(self.connection)?;
        }
        let next = Cursor::new(trailer.next.as_str());
        let covers = Arc::from(trailer.entities.as_slice());
        for entity in &trailer.entities {
            self.advance(entity, &next, &covers, trailer)?;
        }
        if self.order.ask.entities.is_none() {
            self.withdraw(trailer)?;
        }
        let stands_at = self.stands_at(&next).then_some((&next, &*covers));
        std::mem::take(&mut self.written).end(self.connection, stands_at)?;
        if let Some(transaction) = self.transaction.take() {
            let checkpoint_pages = if trailer.more {
                checkpoint::PAGES_BULK
            } else {
                checkpoint::PAGES
            };
            // Not a part of the transaction; the commit looks at it.
            self.connection
                .pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
            transaction.commit()?;
        }
        Ok(PageApplied {
            cursor: next,
            more: trailer.more,
            last_sync_date: trailer.last_sync_date,
            rows: trailer.rows.saturating_sub(self.deleted),
            deleted: self.deleted + self.vanished,
            entities: self.counts.into_values().collect(),
            withdrawn: self.withdrawn,
        })
    }

    /// Begins the transaction with the first thing that is written, not while the server thinks.
    fn begin(&mut self) -> Result<(), Error> {
        if self.transaction.is_some() {
            return Ok(());
        }
        self.transaction = Some(self.connection.unchecked_transaction()?);
        self.helpers = sync_helpers::load(self.connection)?;
        let newest = self.helpers.values().map(|helper| helper.sequence).max();
        self.sequence = newest.unwrap_or(0).saturating_add(1);
        self.expect_resets();
        self.written = Written::begin(self.connection)?;
        Ok(())
    }

    /// Whether the whole store stands at a cursor, and can be brought back to it by its rows. Those that are kept
    /// although they were deleted are at no cursor.
    fn stands_at(&self, cursor: &Cursor) -> bool {
        let mut standing = self
            .helpers
            .values()
            .filter(|helper| helper.state != State::Withdrawn);
        !self.order.keep_deleted
            && standing.all(|helper| helper.state == State::Current && helper.cursor.as_ref() == Some(cursor))
    }

    /// Marks the entities that the server must begin anew, since the cursor does not cover them.
    fn expect_resets(&mut self) {
        let ask = &self.order.ask;
        let since = ask.since.as_ref();
        let covered: BTreeSet<EntityName> = self
            .helpers
            .values()
            .filter(|helper| since.is_some() && helper.cursor.as_ref() == since)
            .flat_map(|helper| helper.covers.iter().cloned())
            .collect();
        for helper in self.helpers.values_mut() {
            let is_asked = ask
                .entities
                .as_ref()
                .is_none_or(|asked| asked.contains(&helper.entity));
            if is_asked && !covered.contains(&helper.entity) {
                helper.state = State::Waiting;
                helper.began = self.sequence;
            }
        }
    }

    /// The entity begins anew: out of sight where readers rely on its rows, in place otherwise.
    fn reset(&mut self, header: &BlockHeader) -> Result<(), Error> {
        let connection = self.connection;
        let sequence = self.sequence;
        self.written.is_lost();
        let helper = self
            .helpers
            .entry(header.entity.clone())
            .or_insert_with(|| SyncHelper {
                began: sequence,
                ..SyncHelper::missing(header.entity.clone())
            });
        if helper.cursor != self.order.ask.since {
            helper.began = sequence;
        }
        if let Some(renewal) = Table::find(connection, &header.entity, Purpose::Renewal)? {
            renewal.remove(connection)?;
        }
        for staged in self.staged.iter().filter(|staged| staged.entity == header.entity) {
            staged.clear(connection)?;
        }
        let keep_deleted = self.order.keep_deleted;
        let rows = Table::find(connection, &header.entity, Purpose::Rows)?;
        if let (Some(table), Some(rows_max)) = (&rows, self.order.anew_rows_max)
            && helper.complete
            && table.fits(header)
            && table.has_rows(connection, rows_max)?
        {
            return Err(Error::BeginsAnew {
                entity: header.entity.clone(),
            });
        }
        match rows {
            Some(_) if helper.complete => {
                Table::create(connection, header, Purpose::Renewal, keep_deleted)?;
                helper.state = State::Renewing;
            }
            Some(rows) => {
                if rows.fits(header) {
                    rows.clear(connection)?;
                } else {
                    let renewal = Table::create(connection, header, Purpose::Renewal, keep_deleted)?;
                    rows.clear(connection)?;
                    let renewed = renew::replace(connection, &header.entity, &rows, &renewal)?;
                    if let Some(counts) = self.counts.get_mut(&header.entity) {
                        counts.dropped.extend(renewed.dropped);
                        counts.broken.extend(renewed.broken);
                    }
                }
                helper.state = State::Pulling;
            }
            None => {
                Table::create(connection, header, Purpose::Rows, keep_deleted)?;
                helper.state = State::Pulling;
                helper.complete = false;
            }
        }
        Ok(())
    }

    /// Of the entity's rows those are left whose scope is one of these.
    fn within(&mut self, header: &BlockHeader) -> Result<(), Error> {
        let table = match self.purpose(&header.entity) {
            Some(purpose) => Table::find(self.connection, &header.entity, purpose)?,
            None => None,
        };
        let ([column], Some(table)) = (header.columns.as_slice(), table) else {
            return Err(Error::Malformed(format!(
                "it tells which rows of {} are left, and there are none to tell of",
                header.entity
            )));
        };
        if !table.fits(header) {
            return Err(Error::SchemaChanged {
                entity: header.entity.clone(),
            });
        }
        self.written.is_lost();
        let gone = table.keep_within(self.connection, column, &header.values)?;
        self.vanished += gone;
        if let Some(counts) = self.counts.get_mut(&header.entity) {
            counts.deletes += gone;
        }
        Ok(())
    }

    /// The table that the cursor tells of; `None` where it tells of none.
    fn purpose(&self, entity: &EntityName) -> Option<Purpose> {
        match self.helpers.get(entity).map(|helper| helper.state) {
            Some(State::Renewing) => Some(Purpose::Renewal),
            Some(State::Pulling | State::Current) => Some(Purpose::Rows),
            Some(State::Waiting | State::Withdrawn) | None => None,
        }
    }

    fn open_block(&mut self, header: BlockHeader) -> Result<BlockWriter<'c>, Error> {
        let connection = self.connection;
        let purpose = self.purpose(&header.entity).ok_or_else(|| {
            Error::Malformed(format!(
                "rows of {} come without the reset that has to come before them",
                header.entity
            ))
        })?;
        let mut table =
            Table::find(connection, &header.entity, purpose)?.ok_or_else(|| Error::TableMissing {
                entity: header.entity.clone(),
            })?;
        if !table.fits(&header) {
            return Err(Error::SchemaChanged {
                entity: header.entity,
            });
        }
        let keep = self.order.keep_deleted && purpose == Purpose::Rows;
        if keep && !table.keeps_deleted {
            table.keep_deleted(connection, &header.entity)?;
        }
        if header.kind == BlockKind::Delete {
            return BlockWriter::deletes(connection, header, &table, keep);
        }
        let target = match self.order.writing {
            Writing::DeletesFirst if purpose == Purpose::Rows => Some(Staged::target_of(
                &mut self.staged,
                connection,
                &header.entity,
                &table,
            )?),
            Writing::DeletesFirst | Writing::InPlace => None,
        };
        BlockWriter::upserts(connection, header, &table, target)
    }

    /// Moves an entity to the new cursor, which covers these, and ends its renewal with the pull.
    fn advance(
        &mut self,
        entity: &EntityName,
        next: &Cursor,
        covers: &Arc<[EntityName]>,
        trailer: &Trailer,
    ) -> Result<(), Error> {
        let sequence = self.sequence;
        let helper = self.helpers.entry(entity.clone()).or_insert_with(|| SyncHelper {
            began: sequence,
            ..SyncHelper::missing(entity.clone())
        });
        helper.cursor = Some(next.clone());
        helper.covers = Arc::clone(covers);
        helper.sequence = sequence;
        helper.source = Some(self.order.source.clone());
        helper.forgets |= self.order.scope_changed;
        if trailer.more {
            if helper.state == State::Current {
                helper.state = State::Pulling;
            }
            return sync_helpers::save(self.connection, helper);
        }
        let find = |purpose| {
            Table::find(self.connection, entity, purpose)?.ok_or_else(|| Error::TableMissing {
                entity: entity.clone(),
            })
        };
        match helper.state {
            // One that somebody dropped is missed even where no row comes.
            State::Current | State::Pulling => drop(find(Purpose::Rows)?),
            State::Renewing => {
                let (mut rows, renewal) = (find(Purpose::Rows)?, find(Purpose::Renewal)?);
                if self.order.keep_deleted && !rows.keeps_deleted {
                    rows.keep_deleted(self.connection, entity)?;
                }
                let keep = self.order.keep_deleted && !helper.forgets;
                let renewed = renew::finish(self.connection, entity, &rows, &renewal, keep)?;
                let counts = self
                    .counts
                    .entry(entity.clone())
                    .or_insert_with(|| EntityApplied::new(entity.clone()));
                counts.upserts += renewed.upserts;
                counts.deletes += renewed.deletes;
                self.vanished += renewed.deletes;
                counts.dropped.extend(renewed.dropped);
                counts.broken.extend(renewed.broken);
            }
            State::Waiting | State::Withdrawn => {
                return Err(Error::Malformed(format!(
                    "the pull ends without {entity}, which had to begin anew"
                )));
            }
        }
        helper.state = State::Current;
        helper.complete = true;
        helper.forgets = false;
        helper.pulled_at = Some(self.order.now);
        helper.last_sync_date = helper.last_sync_date.max(trailer.last_sync_date);
        sync_helpers::save(self.connection, helper)
    }

    /// Marks what the server no longer has for this caller. Its rows stay as they are.
    ///
    /// Not only at the end of the pull: at its old cursor it would hold the others back there.
    fn withdraw(&mut self, trailer: &Trailer) -> Result<(), Error> {
        for helper in self.helpers.values_mut() {
            if trailer.entities.contains(&helper.entity) {
                continue;
            }
            // Kept where an entity was only disabled; not where its rows are none of the caller's business.
            if (self.order.scope_changed || helper.forgets)
                && let Some(rows) = Table::find(self.connection, &helper.entity, Purpose::Rows)?
            {
                rows.clear(self.connection)?;
            }
            if helper.state == State::Withdrawn {
                continue;
            }
            if helper.cursor.is_some() {
                self.withdrawn.push(helper.entity.clone());
            }
            if let Some(renewal) = Table::find(self.connection, &helper.entity, Purpose::Renewal)? {
                renewal.remove(self.connection)?;
            }
            helper.state = State::Withdrawn;
            helper.cursor = None;
            sync_helpers::save(self.connection, helper)?;
        }
        Ok(())
    }
}
