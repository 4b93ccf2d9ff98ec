//! A store in memory that keeps the contract of the real one, written a second time and simply.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_shared::{
    BlockHeader, BlockKind, EntityName, PageError, PageParser, PageSink, Trailer, copy_text,
};

use super::Observed;
use super::shortcut::Differences;
use super::source::Rows;
use crate::applied::{EntityApplied, PageApplied};
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Order, PageBody, Replica};
use crate::store::PastCursor;
use crate::sync_helper::{Cursor, SourceId, State, SyncHelper};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    helpers: BTreeMap<EntityName, SyncHelper>,
    tables: BTreeMap<EntityName, Table>,
    hidden: BTreeMap<EntityName, Table>,
}

#[derive(Clone, Debug)]
struct Table {
    header: BlockHeader,
    rows: BTreeMap<i64, Vec<String>>,
}

struct Sink {
    inner: Inner,
    order: Order,
    sequence: i64,
    header: Option<BlockHeader>,
    touched: Vec<EntityName>,
    rows: u64,
    deleted: u64,
}

impl MemoryStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what differs, and puts the entities at a cursor.
    pub(super) fn move_now(
        &self,
        cursor: &Cursor,
        source: &SourceId,
        entities: &[EntityName],
        differences: BTreeMap<EntityName, Differences>,
    ) {
        let mut inner = self.inner();
        let newest = inner.helpers.values().map(|helper| helper.sequence).max();
        let sequence = newest.unwrap_or(0) + 1;
        for (entity, differences) in differences {
            let table = inner.tables.get_mut(&entity).expect("a table");
            for (key, line) in differences {
                match line {
                    Some(line) => drop(
                        table
                            .rows
                            .insert(key, line.split('\t').map(str::to_owned).collect()),
                    ),
                    None => drop(table.rows.remove(&key)),
                }
            }
        }
        for entity in entities {
            let helper = inner.helpers.get_mut(entity).expect("a helper");
            helper.cursor = Some(cursor.clone());
            helper.covers = entities.into();
            helper.state = State::Pulling;
            (helper.sequence, helper.began) = (sequence, sequence);
            helper.source = Some(source.clone());
        }
    }
}

impl Observed for MemoryStore {
    fn schema_now(&self, entity: &EntityName) -> Option<u64> {
        let inner = self.inner();
        let fingerprint = &inner.tables.get(entity)?.header.fingerprint;
        fingerprint.strip_prefix("schema-")?.parse().ok()
    }

    fn past_now(&self) -> Vec<PastCursor> {
        Vec::new()
    }

    fn helpers_now(&self) -> Vec<SyncHelper> {
        self.inner().helpers.values().cloned().collect()
    }

    fn rows_now(&self, entity: &EntityName) -> Option<Rows> {
        let inner = self.inner();
        let table = inner.tables.get(entity)?;
        let place = table
            .header
            .columns
            .iter()
            .position(|column| column.name == "value")?;
        Some(
            table
                .rows
                .iter()
                .map(|(key, values)| (*key, values[place].clone()))
                .collect(),
        )
    }

    fn reset_now(&self, entity: &EntityName) {
        let mut inner = self.inner();
        inner.helpers.remove(entity);
        inner.hidden.remove(entity);
        if let Some(table) = inner.tables.get_mut(entity) {
            table.rows.clear();
        }
    }
}

impl Replica for MemoryStore {
    async fn helpers(&self) -> Result<Vec<SyncHelper>, Error> {
        Ok(self.helpers_now())
    }

    async fn apply<B: PageBody + Send>(
        &self,
        order: Order,
        mut body: B,
        _: &Meter,
    ) -> Result<PageApplied, Error> {
        let mut parser = PageParser::new();
        let inner = self.inner().clone();
        let mut sink = Sink::new(inner, order);
        while let Some(chunk) = body.chunk().await? {
            parser.push(&chunk, &mut sink).map_err(from_page)?;
        }
        let trailer = parser.finish().map_err(from_page)?;
        let (inner, page) = sink.finish(&trailer)?;
        *self.inner() = inner;
        Ok(page)
    }

    async fn begin_anew(&self, entity: &EntityName) -> Result<(), Error> {
        if let Some(helper) = self.inner().helpers.get_mut(entity) {
            helper.cursor = None;
            helper.state = State::Waiting;
        }
        Ok(())
    }

    fn other_source(&self, kept: &SourceId, offered: &SourceId) -> Error {
        Error::OtherSource {
            store: PathBuf::from("memory"),
            kept: kept.as_str().to_owned(),
            offered: offered.as_str().to_owned(),
        }
    }
}

impl Sink {
    fn new(mut inner: Inner, order: Order) -> Self {
        let newest = inner.helpers.values().map(|helper| helper.sequence).max();
        let sequence = newest.unwrap_or(0) + 1;
        let base: Option<SyncHelper> = inner
            .helpers
            .values()
            .find(|helper| order.ask.since.is_some() && helper.cursor == order.ask.since)
            .cloned();
        for (name, helper) in &mut inner.helpers {
            let is_asked = order
                .ask
                .entities
                .as_ref()
                .is_none_or(|asked| asked.contains(name));
            let is_covered = base.as_ref().is_some_and(|base| base.covers.contains(name));
            if is_asked && !is_covered {
                helper.state = State::Waiting;
                helper.began = sequence;
            }
        }
        Self {
            inner,
            order,
            sequence,
            header: None,
            touched: Vec::new(),
            rows: 0,
            deleted: 0,
        }
    }

    fn helper(&mut self, entity: &EntityName) -> &mut SyncHelper {
        let sequence = self.sequence;
        self.inner.helpers.entry(entity.clone()).or_insert_with(|| {
            let mut helper = SyncHelper::missing(entity.clone());
            helper.began = sequence;
            helper
        })
    }

    /// The table that a page writes to.
    fn table(&mut self, entity: &EntityName) -> &mut Table {
        let state = self.inner.helpers.get(entity).map(|helper| helper.state);
        let tables = match state {
            Some(State::Renewing) => &mut self.inner.hidden,
            Some(State::Pulling | State::Current) => &mut self.inner.tables,
            _ => panic!("rows of {entity} without a reset: {state:?}"),
        };
        tables.get_mut(entity).expect("a table")
    }

    fn within(&mut self, header: &BlockHeader) {
        let table = self.table(&header.entity);
        let columns = &table.header.columns;
        let place = columns.iter().position(|column| *column == header.columns[0]);
        let place = place.expect("the scope's column");
        table.rows.retain(|_, row| header.values.contains(&row[place]));
    }

    fn finish(mut self, trailer: &Trailer) -> Result<(Inner, PageApplied), Error> {
        let next = Cursor::new(trailer.next.as_str());
        if trailer.more && self.order.ask.since.as_ref() == Some(&next) {
            return Err(Error::Stalled);
        }
        let source = self.order.source.clone();
        let sequence = self.sequence;
        for entity in &trailer.entities {
            let helper = self.helper(entity);
            helper.cursor = Some(next.clone());
            helper.covers = trailer.entities.as_slice().into();
            helper.sequence = sequence;
            helper.source = Some(source.clone());
            if trailer.more {
                if helper.state == State::Current {
                    helper.state = State::Pulling;
                }
                continue;
            }
            assert_ne!(helper.state, State::Waiting, "the model sends every reset");
            helper.state = State::Current;
            helper.complete = true;
            helper.last_sync_date = helper.last_sync_date.max(trailer.last_sync_date);
            if let Some(table) = self.inner.hidden.remove(entity) {
                self.inner.tables.insert(entity.clone(), table);
            }
        }
        if self.order.ask.entities.is_none() {
            for (name, helper) in &mut self.inner.helpers {
                if !trailer.entities.contains(name) {
                    if self.order.scope_changed
                        && let Some(table) = self.inner.tables.get_mut(name)
                    {
                        table.rows.clear();
                    }
                    helper.state = State::Withdrawn;
                    helper.cursor = None;
                    self.inner.hidden.remove(name);
                }
            }
        }
        let page = PageApplied {
            cursor: next,
            more: trailer.more,
            last_sync_date: trailer.last_sync_date,
            rows: self.rows,
            deleted: self.deleted,
            entities: self.touched.into_iter().map(EntityApplied::new).collect(),
            withdrawn: Vec::new(),
        };
        Ok((self.inner, page))
    }
}

impl PageSink for Sink {
    type Error = Error;

    fn block(&mut self, header: BlockHeader) -> Result<(), Error> {
        let entity = header.entity.clone();
        self.touched.push(entity.clone());
        if header.kind == BlockKind::Reset {
            let since = self.order.ask.since.clone();
            let sequence = self.sequence;
            let helper = self.helper(&entity);
            if helper.cursor != since {
                helper.began = sequence;
            }
            let table = Table {
                header: header.clone(),
                rows: BTreeMap::new(),
            };
            let is_complete = helper.complete;
            if let (Some(rows_max), Some(rows)) = (self.order.anew_rows_max, self.inner.tables.get(&entity))
                && is_complete
                && rows.header.fingerprint == table.header.fingerprint
                && rows.rows.len() as u64 >= rows_max
            {
                return Err(Error::BeginsAnew { entity });
            }
            let helper = self.helper(&entity);
            if is_complete {
                helper.state = State::Renewing;
                self.inner.hidden.insert(entity, table);
            } else {
                helper.state = State::Pulling;
                self.inner.tables.insert(entity, table);
            }
        } else if self.table(&entity).header.fingerprint != header.fingerprint {
            return Err(Error::SchemaChanged { entity });
        } else if header.kind == BlockKind::Within {
            self.within(&header);
        }
        self.header = Some(header);
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Error> {
        let header = self.header.take().expect("a block");
        let values: Vec<String> = copy_text::fields(line)
            .map(|field| String::from_utf8(field.expect("not null").to_vec()).expect("text"))
            .collect();
        assert_eq!(values.len(), header.columns.len());
        let key: i64 = values[0].parse().expect("a key");
        let rows = &mut self.table(&header.entity).rows;
        if header.kind == BlockKind::Delete {
            rows.remove(&key);
            self.deleted += 1;
        } else {
            rows.insert(key, values);
            self.rows += 1;
        }
        self.header = Some(header);
        Ok(())
    }
}

fn from_page(error: PageError<Error>) -> Error {
    match error {
        PageError::Incomplete => Error::Incomplete,
        PageError::Sink(error) => error,
        other => panic!("the model sends pages: {other}"),
    }
}
