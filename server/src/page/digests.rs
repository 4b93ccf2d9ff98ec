//! Digests of the rows that a caller should have: parts, keys in some of them, or whole rows.
//!
//! They are those that are live in the page's own transaction and that the caller's cursor has seen.
//! All keys that it has not seen the last of are named besides, so that the caller can leave them
//! out on its side too: what is left is the same on both sides, whoever writes meanwhile.

use std::collections::BTreeMap;

use highwater_shared::{BlockKind, DigestsOf, EntityName, ResyncReason, Trailer, Want, copy_text};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;

use super::conditions::RowKey;
use super::delta::Delta;
use super::digests_sql::{self as sql, Digested, Encoding};
use super::open::{LAGS, OpenPage, Opened, refused};
use super::rows::Budget;
use super::send;
use super::{Asked, Format, Output, PageRequest, ReadError, Since, Takes};
use crate::caller::Caller;
use crate::cursor::{Cursor, Seen, Step};
use crate::database::{LogEnd, is_no_value};
use crate::entity::Entity;
use crate::limit::PageBounds;
use crate::lineage::Kept;
use crate::node::Node;
use crate::quoting::NulInText;
use crate::samples::Samples;
use crate::unprepared;

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct DigestsAsked {
    /// A cursor that is settled, or nothing.
    pub since: Since,
    /// Whether all values count, or the keys and dates alone.
    pub deep: bool,
    /// What is asked of each entity.
    pub entities: Vec<DigestsOf>,
    /// Who asks.
    pub caller: Caller,
    /// How long it may last: it scans tables, and a caller who reads slowly gets nothing shorter, but nothing.
    pub bounds: PageBounds,
}

/// Digests whose transaction stands, and of which nothing has been sent.
#[derive(Debug)]
pub struct OpenDigests {
    page: OpenPage,
    asked: DigestsAsked,
    /// The keys that were named, by entity.
    keys: BTreeMap<EntityName, Vec<RowKey>>,
    encoding: Encoding,
}

/// Begins: locks, snapshot and checks are those of a page.
pub async fn open_digests(node: &Node, mut asked: DigestsAsked) -> Result<OpenDigests, ReadError> {
    let names: Vec<EntityName> = asked.entities.iter().map(|of| of.entity.clone()).collect();
    let lags = || ReadError::Unavailable(LAGS.to_owned());
    let since = match &asked.since {
        Since::Cursor(cursor) => Since::Cursor(Box::new(Cursor {
            pull: None,
            ..(**cursor).clone()
        })),
        since => since.clone(),
    };
    let request = PageRequest {
        since,
        held: Vec::new(),
        takes: Takes::default(),
        entities: Asked::These(names),
        caller: asked.caller.clone(),
        limit: 0,
        bounds: asked.bounds,
        format: Format::Copy,
    };
    let mut page = match super::open(node, request).await? {
        Opened::Page(page) => *page,
        Opened::Behind(_) => return Err(lags()),
    };
    let lineage = &page.described.lineage;
    asked.since = lineage.adopted(&asked.since).into_owned();
    let refusal = match &asked.since {
        // What was seen in the middle of a pull may be missing in a dump that has all from before it.
        Since::Cursor(cursor) if lineage.kept_of_another(cursor) == Some(Kept::NotAll) => {
            Some(ReadError::Resync {
                reason: ResyncReason::SourceChanged,
                earlier: true,
            })
        }
        Since::Cursor(cursor) if !page.moment.has(cursor) => Some(lags()),
        _ => None,
    };
    if let Some(refusal) = refusal {
        page.let_go().await?;
        return Err(refusal);
    }
    let probe = unprepared::query(AssertSqlSafe(sql::probe()))
        .fetch_one(page.connection.get()?)
        .await?;
    let encoding: String = probe.try_get("encoding")?;
    let refusal = match Encoding::new(&encoding) {
        Some(encoding) if sql::is_known(probe.try_get("hash")?) => {
            match keys_of(&mut page, &asked.entities).await {
                Ok(keys) => {
                    return Ok(OpenDigests {
                        page,
                        asked,
                        keys,
                        encoding,
                    });
                }
                Err(error) => error,
            }
        }
        Some(_) => ReadError::Unavailable(
            "this Postgres computes other hashes than a store does; it cannot be compared with one"
                .to_owned(),
        ),
        None => ReadError::Unavailable(format!(
            "a database in {encoding} cannot be compared with a store; one in UTF8 can"
        )),
    };
    Err(refused(page.connection, refusal).await)
}

/// Reads the keys that are named. What is no key must be refused before anything is sent.
async fn keys_of(
    page: &mut OpenPage,
    asked: &[DigestsOf],
) -> Result<BTreeMap<EntityName, Vec<RowKey>>, ReadError> {
    let mut keys = BTreeMap::new();
    for entity in &page.entities {
        let of = asked.iter().find(|of| of.entity == entity.name);
        let Some(lines) = of.and_then(|of| of.keys.as_ref()) else {
            continue;
        };
        let none = || ReadError::NoKeys(entity.name.clone());
        let of_entity: Option<Vec<RowKey>> = lines.iter().map(|line| key(line, entity)).collect();
        let of_entity = of_entity.ok_or_else(none)?;
        if let Some(check) = sql::check_keys(entity, &of_entity).map_err(|NulInText| none())? {
            let check = unprepared::query(AssertSqlSafe(check));
            match check.fetch_one(page.connection.get()?).await {
                Err(error) if is_no_value(&error) => return Err(none()),
                checked => checked?,
            };
        }
        keys.insert(entity.name.clone(), of_entity);
    }
    Ok(keys)
}

/// The key that a line holds; `None` where it has not one value for each column.
fn key(line: &str, entity: &Entity) -> Option<RowKey> {
    let values = copy_text::fields(line.as_bytes()).map(|field| {
        let value = copy_text::unescape(field?).into_owned();
        String::from_utf8(value).ok()
    });
    let values: Vec<String> = values.collect::<Option<_>>()?;
    (values.len() == entity.key.len()).then_some(RowKey(values))
}

impl OpenDigests {
    /// Sends them to the end, or to where it fails: then the reader sees them cut off.
    pub async fn send(mut self, node: &Node, samples: &Samples, mut out: Output) {
        let gone = out.gone();
        let sent = tokio::select! {
            sent = self.send_blocks(&mut out) => sent,
            // A scan would go on for nobody.
            () = gone => return,
        };
        let sent = match sent {
            Ok(rows) => self
                .page
                .close(node, None)
                .await
                .map(|()| self.trailer(rows, samples)),
            Err(error) => Err(error),
        };
        match sent {
            Ok(trailer) => out.finish(&trailer).await,
            Err(error) => out.fail(error),
        }
    }

    /// Sends all blocks, and tells how many lines they have.
    async fn send_blocks(&mut self, out: &mut Output) -> Result<u64, ReadError> {
        let until = Instant::now() + self.asked.bounds.time_max;
        let mut rows = 0;
        for part in &self.page.plan.parts {
            let Some(entity) = self.page.entities.get(part.entity) else {
                continue;
            };
            let is_fresh = matches!(self.asked.since, Since::Nothing);
            if part.anew && !is_fresh {
                // What it has of the entity is no state that could be told from here.
                out.reset(entity).await?;
                continue;
            }
            let seen = match &self.page.plan.seen {
                Seen::Snapshot(seen) if !is_fresh => seen,
                _ => &self.page.moment.snapshot,
            };
            let digested = Digested {
                entity,
                scopes: self.page.limits.of(entity.covered.number),
                seen,
                next_xid: self.page.moment.next_xid,
                deep: self.asked.deep,
                encoding: &self.encoding,
                within: None,
                keys: None,
            };
            let mut lines = Vec::new();
            if self.may_hold_unseen(entity) {
                lines.extend(
                    digested
                        .changed()
                        .map_err(|_| ReadError::BadPosition)?
                        .into_iter()
                        .map(|statement| (BlockKind::Changed, statement)),
                );
            }
            for of in self.asked.entities.iter().filter(|of| of.entity == entity.name) {
                let digested = Digested {
                    within: of.within.as_ref(),
                    keys: self.keys.get(&entity.name).map(Vec::as_slice),
                    ..digested
                };
                let (kind, statement) = match of.want {
                    Want::Parts => (BlockKind::Part, digested.parts(of.bits)),
                    Want::Keys => (BlockKind::Key, digested.keys()),
                    Want::Rows => (BlockKind::Upsert, digested.whole()),
                };
                lines.push((kind, statement.map_err(|_| ReadError::BadPosition)?));
            }
            let connection = self.page.connection.get()?;
            for (kind, statement) in lines {
                if kind != BlockKind::Changed {
                    let left = until.saturating_duration_since(Instant::now()).as_millis().max(1);
                    sqlx::raw_sql(AssertSqlSafe(sql::settings(left)))
                        .execute(&mut *connection)
                        .await?;
                }
                out.begin_block(entity, kind)?;
                let step = if kind == BlockKind::Changed {
                    Step::Tombstones
                } else {
                    Step::Rows
                };
                rows += super::rows::pass_all(connection, &statement, until, out)
                    .await
                    .map_err(|error| send::blame(error, entity, step, None))?;
                out.end_block().await?;
            }
        }
        Ok(rows)
    }

    /// Whether there is anything that the cursor has not seen. A fresh snapshot has seen all that is
    /// visible, but on a standby it claims less.
    fn may_hold_unseen(&self, entity: &Entity) -> bool {
        let delta = self.page.delta.get(&entity.covered.number);
        match self.asked.since {
            Since::Nothing => matches!(self.page.moment.log, LogEnd::Standby { .. }),
            _ => delta.is_some_and(Delta::holds_any),
        }
    }

    /// The cursor goes on from the one that was sent, to what has been seen here; for a fresh snapshot it
    /// is that snapshot's.
    fn trailer(&self, rows: u64, samples: &Samples) -> Trailer {
        let budget = Budget {
            rows_left: 0,
            rows,
            until: self.page.moment.taken,
            bytes_max: 0,
            newest: Vec::new(),
        };
        let trailer = self.page.trailer(None, &budget, samples);
        let moment = &self.page.moment;
        match &self.asked.since {
            Since::Cursor(cursor) => Trailer {
                next: cursor
                    .leading_to(moment.source, &moment.snapshot, moment.stands_on())
                    .encode(),
                last_sync_date: cursor.last_sync_date,
                more: true,
                ..trailer
            },
            Since::Nothing | Since::Date(_) => trailer,
        }
    }
}
