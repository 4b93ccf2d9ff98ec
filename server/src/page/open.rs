//! Begins a page: the locks, then the snapshot, then the decision what is to be sent.

use std::collections::HashMap;

use highwater_shared::{EntityName, Timestamp};
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::plan::{self, Plan};
use super::sql::{self, Range};
use super::{PageRequest, ReadError, Since};
use crate::cursor::Seen;
use crate::database::{Connection, Moment};
use crate::entity::{self, Entity, Table};
use crate::snapshot::{Snapshot, Xid};

/// How often a page is begun again because tables changed between the lock and the snapshot.
const ATTEMPTS_MAX: usize = 4;

/// The scope of callers while there are none.
pub(crate) const NO_SCOPE: u64 = 0;

/// A page whose transaction stands, and of which nothing has been sent.
#[derive(Debug)]
pub struct OpenPage {
    pub(super) connection: Connection,
    pub(super) request: PageRequest,
    pub(super) moment: Moment,
    pub(super) entities: Vec<Entity>,
    pub(super) plan: Plan,
    /// By the entity's number.
    pub(super) delta: HashMap<i32, Delta>,
}

/// The ranges of an entity that hold changes.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) rows: Vec<Range>,
    pub(super) tombstones: Vec<Range>,
}

impl Delta {
    fn holds_any(&self) -> bool {
        !(self.rows.is_empty() && self.tombstones.is_empty())
    }

    /// Leaves out the single ids that do not belong to a page.
    fn retain(&mut self, belongs: impl Fn(Xid) -> bool) {
        let kept = |range: &Range| !matches!(range, Range::Xid(xid) if !belongs(*xid));
        self.rows.retain(kept);
        self.tombstones.retain(kept);
    }
}

impl OpenPage {
    /// Whether it would hold no changes. Of a pull under way this is not known.
    pub fn is_empty(&self) -> bool {
        let holds_any = |part: &plan::Part| {
            let entity = self.entities.get(part.entity);
            let delta = entity.and_then(|entity| self.delta.get(&entity.covered.number));
            part.anew || delta.is_some_and(Delta::holds_any)
        };
        self.plan.fresh && !self.plan.parts.iter().any(holds_any)
    }

    /// What it has seen.
    pub fn snapshot(&self) -> &Snapshot {
        &self.moment.snapshot
    }

    /// Ends it without sending anything.
    pub async fn let_go(mut self) -> Result<(), ReadError> {
        self.connection.end().await?;
        self.connection.give_back();
        Ok(())
    }
}

/// Begins a page: locks, snapshot, checks, plan.
pub async fn open(pool: &PgPool, request: PageRequest) -> Result<OpenPage, ReadError> {
    for _ in 0..ATTEMPTS_MAX {
        let mut connection = Connection::acquire(pool).await?;
        match begin(&mut connection, &request).await {
            Ok(Some((moment, entities, plan, delta))) => {
                return Ok(OpenPage {
                    connection,
                    request,
                    moment,
                    entities,
                    plan,
                    delta,
                });
            }
            Ok(None) => {
                connection.end().await?;
                connection.give_back();
            }
            Err(ReadError::Postgres(error)) => return Err(ReadError::Postgres(error)),
            Err(refused) => {
                connection.end().await?;
                connection.give_back();
                return Err(refused);
            }
        }
    }
    Err(ReadError::Unavailable(
        "the tables are being altered; try again".to_owned(),
    ))
}

type Begun = (Moment, Vec<Entity>, Plan, HashMap<i32, Delta>);

/// One attempt. `None` where the tables that were locked are not those of the snapshot.
async fn begin(connection: &mut Connection, request: &PageRequest) -> Result<Option<Begun>, ReadError> {
    let all = entity::tables(connection.get()?).await?;
    let wanted = select(&all, request.entities.as_deref())?;
    let Some(moment) = lock(connection, &wanted).await? else {
        return Ok(None);
    };
    let ended = match &request.since {
        Since::Cursor(cursor) if cursor.source.timeline < moment.source.timeline => {
            connection
                .end_of_timeline(moment.source.timeline, cursor.source.timeline)
                .await?
        }
        _ => None,
    };
    plan::check(&request.since, &moment, ended, NO_SCOPE)?;

    let (seen, _) = plan::seen(&request.since);
    let Some(mut entities) = describe(connection, &wanted, &seen).await? else {
        return Ok(None);
    };
    let faulty = entities.iter().find_map(|entity| entity.fault.clone());
    if let Some(fault) = faulty {
        if request.entities.is_some() {
            return Err(ReadError::Unavailable(fault));
        }
        tracing::warn!(fault, "an entity is left out");
        entities.retain(|entity| entity.fault.is_none());
    }
    let plan = plan::plan(&request.since, &entities, &moment.snapshot);
    let changed = plan.parts.iter().filter(|part| !part.anew);
    let changed: Vec<&Entity> = changed.filter_map(|part| entities.get(part.entity)).collect();
    let mut delta = match &plan.seen {
        Seen::Snapshot(seen) => probe(connection, &changed, seen).await?,
        Seen::Date(date) => probe_date(connection, &changed, *date).await?,
    };
    // What the target has not seen belongs to the next round.
    let belongs = |xid: Xid| plan.fresh || plan.target.sees(xid);
    for delta in delta.values_mut() {
        delta.retain(belongs);
    }
    Ok(Some((moment, entities, plan, delta)))
}

/// Looks at all entities: what they are, and the numbers of those that have changes which `seen`
/// has not seen. `None` as in [`begin`]; the transaction is to be ended in either case.
pub(crate) async fn look(
    connection: &mut Connection,
    seen: &Snapshot,
) -> Result<Option<(Moment, Vec<Entity>, Vec<i32>)>, ReadError> {
    let tables = entity::tables(connection.get()?).await?;
    let Some(moment) = lock(connection, &tables).await? else {
        return Ok(None);
    };
    let Some(entities) = describe(connection, &tables, &Seen::Snapshot(seen.clone())).await? else {
        return Ok(None);
    };
    let sound: Vec<&Entity> = entities.iter().filter(|entity| entity.fault.is_none()).collect();
    let delta = probe(connection, &sound, seen).await?;
    let changed = sound
        .iter()
        .filter(|entity| entity.truncated || delta.get(&entity.covered.number).is_some_and(Delta::holds_any))
        .map(|entity| entity.covered.number)
        .collect();
    Ok(Some((moment, entities, changed)))
}

/// Locks the tables, and then takes the snapshot. `None` where one of them is gone.
async fn lock(connection: &mut Connection, tables: &[Table]) -> Result<Option<Moment>, ReadError> {
    let names: Vec<&str> = tables.iter().map(|table| table.table.as_str()).collect();
    if let Err(error) = connection.begin(&names).await {
        return if is_missing_table(&error) {
            Ok(None)
        } else {
            Err(error.into())
        };
    }
    let moment = connection.moment().await?;
    let on_standby =
        || ReadError::Unavailable("this Postgres is a standby, which is not served yet".to_owned());
    moment.map(Some).ok_or_else(on_standby)
}

/// The entities as the snapshot has them. `None` where they are not the tables that were locked.
async fn describe(
    connection: &mut Connection,
    tables: &[Table],
    seen: &Seen,
) -> Result<Option<Vec<Entity>>, ReadError> {
    let numbers: Vec<i32> = tables.iter().map(|table| table.number).collect();
    let entities = entity::read(connection.get()?, &numbers, seen).await?;
    let same = entities
        .iter()
        .map(|entity| &entity.table)
        .eq(tables.iter().map(|table| &table.table));
    Ok(same.then_some(entities))
}

/// The tables of the entities asked for, by number.
fn select(all: &[Table], names: Option<&[EntityName]>) -> Result<Vec<Table>, ReadError> {
    let Some(names) = names else {
        return Ok(all.to_vec());
    };
    if let Some(unknown) = names
        .iter()
        .find(|name| all.iter().all(|table| table.name != **name))
    {
        return Err(ReadError::UnknownEntity(unknown.clone()));
    }
    Ok(all
        .iter()
        .filter(|table| names.contains(&table.name))
        .cloned()
        .collect())
}

/// A table that was dropped or renamed before it could be locked.
fn is_missing_table(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}

/// Asks which ranges hold changes that `seen` has not seen.
async fn probe(
    connection: &mut Connection,
    entities: &[&Entity],
    seen: &Snapshot,
) -> Result<HashMap<i32, Delta>, ReadError> {
    if entities.is_empty() {
        return Ok(HashMap::new());
    }
    let in_flight: Vec<String> = seen.in_flight().iter().map(ToString::to_string).collect();
    let found = sqlx::query(AssertSqlSafe(sql::probe(entities)))
        .bind(in_flight)
        .bind(seen.xmax().to_string())
        .fetch_all(connection.get()?)
        .await?;
    let mut delta = HashMap::new();
    for row in &found {
        let ranges = |xids: &str, later: &str| -> Result<Vec<Range>, sqlx::Error> {
            let mut xids: Vec<Xid> = row
                .try_get::<Vec<String>, _>(xids)?
                .iter()
                .flat_map(|xid| xid.parse())
                .collect();
            xids.sort_unstable();
            let mut ranges: Vec<Range> = xids.into_iter().map(Range::Xid).collect();
            if row.try_get(later)? {
                ranges.push(Range::From(seen.xmax()));
            }
            Ok(ranges)
        };
        let found = Delta {
            rows: ranges("row_xids", "later_rows")?,
            tombstones: ranges("tombstone_xids", "later_tombstones")?,
        };
        delta.insert(row.try_get("number")?, found);
    }
    Ok(delta)
}

/// Asks which entities changed later than `date`.
async fn probe_date(
    connection: &mut Connection,
    entities: &[&Entity],
    date: Timestamp,
) -> Result<HashMap<i32, Delta>, ReadError> {
    if entities.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query(AssertSqlSafe(sql::probe_date(entities)))
        .bind(date.to_string())
        .fetch_all(connection.get()?)
        .await?;
    let mut delta = HashMap::new();
    for row in &found {
        let ranges = |later: &str| -> Result<Vec<Range>, sqlx::Error> {
            let holds_any: bool = row.try_get(later)?;
            Ok(holds_any.then_some(Range::Date(date)).into_iter().collect())
        };
        let found = Delta {
            rows: ranges("rows")?,
            tombstones: ranges("tombstones")?,
        };
        delta.insert(row.try_get("number")?, found);
    }
    Ok(delta)
}
