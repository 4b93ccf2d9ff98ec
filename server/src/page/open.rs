//! Begins a page: the locks, then the snapshot, then the decision what is to be sent.

use std::collections::HashMap;

use highwater_shared::EntityName;
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::plan::{self, Plan};
use super::sql::{self, Range};
use super::{PageRequest, ReadError, Since};
use crate::cursor::Seen;
use crate::database::{Connection, Moment};
use crate::entity::{self, Entity, Table};
use crate::snapshot::Xid;

/// How often a page is begun again because tables changed between the lock and the snapshot.
const ATTEMPTS_MAX: usize = 4;

/// The scope of callers while there are none.
pub(super) const NO_SCOPE: u64 = 0;

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
    let names: Vec<&str> = wanted.iter().map(|table| table.table.as_str()).collect();
    if let Err(error) = connection.begin(&names).await {
        return if is_missing_table(&error) {
            Ok(None)
        } else {
            Err(error.into())
        };
    }
    let Some(moment) = connection.moment().await? else {
        return Err(ReadError::Unavailable(
            "this Postgres is a standby, which is not served yet".to_owned(),
        ));
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
    let numbers: Vec<i32> = wanted.iter().map(|table| table.number).collect();
    let mut entities = entity::read(connection.get()?, &numbers, &seen).await?;
    let same = entities.iter().map(|entity| entity.table.as_str()).eq(names);
    if !same {
        return Ok(None);
    }
    let faulty = entities.iter().find_map(|entity| entity.fault.clone());
    if let Some(fault) = faulty {
        if request.entities.is_some() {
            return Err(ReadError::Unavailable(fault));
        }
        tracing::warn!(fault, "an entity is left out");
        entities.retain(|entity| entity.fault.is_none());
    }
    let plan = plan::plan(&request.since, &entities, &moment.snapshot);
    let delta = probe(connection, &entities, &plan).await?;
    Ok(Some((moment, entities, plan, delta)))
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

/// Asks which ranges of the plan's deltas hold anything.
async fn probe(
    connection: &mut Connection,
    entities: &[Entity],
    plan: &Plan,
) -> Result<HashMap<i32, Delta>, ReadError> {
    let Seen::Snapshot(seen) = &plan.seen else {
        return Ok(HashMap::new());
    };
    let changed: Vec<&Entity> = plan
        .parts
        .iter()
        .filter(|part| !part.anew)
        .filter_map(|part| entities.get(part.entity))
        .collect();
    if changed.is_empty() {
        return Ok(HashMap::new());
    }
    let in_flight: Vec<String> = seen.in_flight().iter().map(ToString::to_string).collect();
    let found = sqlx::query(AssertSqlSafe(sql::probe(&changed)))
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
            // What the target has not seen belongs to the next round.
            xids.retain(|xid| plan.fresh || plan.target.sees(*xid));
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
