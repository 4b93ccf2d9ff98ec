//! Reads what there is of a row: the row itself, its tombstones, and what the pages to come send of it.

use highwater_shared::{ResyncReason, Timestamp, Writing};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Row as _};

use super::{Hearer, Question, WhyError};
use crate::database::{LogEnd, is_no_value};
use crate::entity::{Entity, Purged};
use crate::node::Node;
use crate::page::{
    ReadError, Round, RowKey, Since, Single, in_scopes, open_single, purged_of, tombstones_of,
};
use crate::quoting::{NulInText, identifier};
use crate::unprepared;

/// Who writes to a table, or is about to: a transaction that writes keeps its lock on the table to its end. A
/// prepared one has no process, and is known by the lock on its id; when others began, Postgres shows to some
/// roles only.
const WRITERS: &str = "
select count(*) as writers, (extract(epoch from min(coalesce(a.xact_start, p.prepared))) * 1000000)::bigint as since
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
left join pg_locks i on l.pid is null and i.pid is null and i.locktype = 'transactionid'
    and i.virtualtransaction = l.virtualtransaction
left join pg_prepared_xacts p on p.transaction = i.transactionid
where l.locktype = 'relation' and l.granted
  and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.relation in (select t.relid from pg_partition_tree($1::text::regclass) t union select $1::text::regclass)";

/// How a key is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedKey {
    /// A JSON object of the key's columns with their values, as changes have it.
    Object(String),
    /// The value of a key of one column.
    Value(String),
}

/// The text begins as an object does, and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no JSON object, such as {{\"id\": 7}}")]
pub struct NoKey;

/// What there is of a row, for a device.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) facts: Facts,
    /// The key as changes have it.
    pub(super) key_json: Box<RawValue>,
    /// Up to when deletions were purged, where the hearer may know.
    pub(super) purged: Option<Timestamp>,
    /// The scopes that the device sees; `None` for all.
    pub(super) scopes: Option<Vec<String>>,
    pub(super) is_standby: bool,
}

/// All that an answer is decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the device's caller may not read the entity.
    pub(super) is_forbidden: bool,
    /// Why the cursor cannot be served.
    pub(super) resync: Option<ResyncReason>,
    /// Whether the question said what the device has.
    pub(super) is_since_known: bool,
    /// Whether the device is in the middle of a pull; then the first round is the rest of that.
    pub(super) is_midway: bool,
    pub(super) rounds: Vec<Round>,
    /// The row; with one in a scope that the device does not see, only where the hearer may know.
    pub(super) row: Option<Row>,
    /// The last tombstone in the scopes that the device sees.
    pub(super) tombstone: Option<Tombstone>,
    /// The last tombstone in any scope, where the device does not see all and the hearer may know.
    pub(super) elsewhere: Option<Tombstone>,
    pub(super) writing: Option<Writing>,
}

/// A row that is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) changed_date: Timestamp,
    pub(super) is_flagged: bool,
    /// Whether the device sees its scope.
    pub(super) is_in_scope: bool,
    /// Its scope, where the hearer may know.
    pub(super) scope: Option<String>,
}

/// What is left of a row that was removed, or left a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) changed_date: Timestamp,
    pub(super) left_scope: bool,
    /// The scope that the row was in, where the hearer may know.
    pub(super) scope: Option<String>,
}

impl AskedKey {
    /// Reads a JSON object, or takes the text for a value as it stands.
    pub fn read(text: &str) -> Result<Self, NoKey> {
        if text.trim_start().starts_with('{') {
            // Read whole, so that nothing goes to Postgres that is nested without bound.
            let object = serde_json::from_str::<Map<String, Value>>(text);
            return object.map(|_| Self::Object(text.to_owned())).map_err(|_| NoKey);
        }
        Ok(Self::Value(text.to_owned()))
    }

    /// As an object with the columns of the entity's key, each of them and no other.
    fn object(&self, entity: &Entity) -> Option<String> {
        match (self, entity.key.as_slice()) {
            (Self::Value(value), [column]) => {
                let object = Map::from_iter([(column.name.clone(), Value::from(value.as_str()))]);
                Some(Value::from(object).to_string())
            }
            (Self::Value(_), _) => None,
            (Self::Object(text), columns) => {
                let object: Map<String, Value> = serde_json::from_str(text).ok()?;
                let has_each = columns.iter().all(|column| object.contains_key(&column.name));
                // As it was written: a number may have more digits than a double.
                (has_each && object.len() == columns.len()).then(|| text.clone())
            }
        }
    }
}

/// Reads what the question is about, in one transaction.
pub(super) async fn read(node: &Node, question: &Question) -> Result<Found, WhyError> {
    let since = question.since.clone().unwrap_or(Since::Nothing);
    let is_midway = since.is_midway();
    let mut single = open_single(node, since, &question.caller, question.entity.clone()).await?;
    let found = read_all(&mut single, question, is_midway).await;
    match found {
        Err(WhyError::Read(ReadError::Postgres(error))) => Err(error.into()),
        found => {
            single.end().await?;
            found
        }
    }
}

async fn read_all(single: &mut Single, question: &Question, is_midway: bool) -> Result<Found, WhyError> {
    let entity = single.entity()?.clone();
    let scopes = single.scopes().map(<[String]>::to_vec);
    let is_standby = matches!(single.moment().log, LogEnd::Standby { .. });
    let (key, key_json) = key(single, &entity, &question.key).await?;
    let knows_all = question.hearer == Hearer::Operator;
    // What others do with the table is not for who sees some of its rows.
    let knows_table = knows_all || scopes.is_none();
    let mut facts = Facts {
        is_forbidden: !question.caller.may_read(&entity.name),
        resync: single.resync(),
        is_since_known: question.since.is_some(),
        is_midway: is_midway && single.resync().is_none(),
        row: row(single, &entity, scopes.as_deref(), &key, knows_all).await?,
        tombstone: tombstone(single, &entity, scopes.as_deref(), &key, knows_all).await?,
        ..Facts::default()
    };
    if knows_all && scopes.is_some() {
        facts.elsewhere = tombstone(single, &entity, None, &key, true).await?;
    }
    facts.rounds = single.rounds(&key).await?;
    if facts.row.is_none() && knows_table && !is_standby {
        facts.writing = writing(single, &entity).await?;
    }
    Ok(Found {
        facts,
        key_json,
        purged: entity
            .purged
            .as_ref()
            .map(|purged| purged.date)
            .filter(|_| knows_table),
        scopes,
        is_standby,
    })
}

/// Has Postgres read the key by the types of its columns: as it prints, and as changes have it.
async fn key(
    single: &mut Single,
    entity: &Entity,
    asked: &AskedKey,
) -> Result<(RowKey, Box<RawValue>), WhyError> {
    let object = asked.object(entity).ok_or_else(|| no_key(entity))?;
    let list = |of: fn(&str, &str) -> String| {
        let columns = entity.key.iter();
        let columns = columns.map(|column| of(&identifier(&column.name), &column.cast));
        columns.collect::<Vec<_>>().join(", ")
    };
    let sql = format!(
        "select array[{}] as texts, (select row_to_json(k.*)::text) as json
         from json_to_record($1::text::json) as k ({})",
        list(|name, _| format!("k.{name}::text")),
        list(|name, cast| format!("{name} {cast}")),
    );
    let read = unprepared::query(AssertSqlSafe(sql)).bind(object);
    let row = match read.fetch_one(single.connection().get()?).await {
        Ok(row) => row,
        Err(error) if is_no_value(&error) => return Err(no_key(entity)),
        Err(error) => return Err(error.into()),
    };
    let texts: Vec<Option<String>> = row.try_get("texts")?;
    let texts: Option<Vec<String>> = texts.into_iter().collect();
    let json =
        RawValue::from_string(row.try_get("json")?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok((RowKey(texts.ok_or_else(|| no_key(entity))?), json))
}

/// What a caller is told who asks for a key that is none.
fn no_key(entity: &Entity) -> WhyError {
    let columns = entity.key.iter();
    let columns: Vec<String> = columns
        .map(|column| format!("{} ({})", column.name, column.type_name))
        .collect();
    let plain = match entity.key.as_slice() {
        [_] => ", or the value alone",
        _ => "",
    };
    WhyError::InvalidKey(format!(
        "key: it is none of {:?}; send a JSON object with the values of {}{plain}",
        entity.name.as_str(),
        columns.join(", ")
    ))
}

async fn row(
    single: &mut Single,
    entity: &Entity,
    scopes: Option<&[String]>,
    key: &RowKey,
    knows_all: bool,
) -> Result<Option<Row>, WhyError> {
    let scope = match &entity.scope {
        Some(scope) if knows_all => format!("t.{}::text", identifier(&scope.column)),
        _ => "null::text".to_owned(),
    };
    let in_scope = in_scopes(entity, scopes).map_err(|NulInText| no_key(entity))?;
    let is_it = key.of_row(entity).map_err(|NulInText| no_key(entity))?;
    // What a caller may not see is not read for it at all.
    let readable = if knows_all { "true" } else { &in_scope };
    let sql = format!(
        "select (extract(epoch from t.changed_date) * 1000000)::bigint as changed_date, t.deleted,
             coalesce({in_scope}, false) as in_scope, {scope} as scope
         from {} t where {is_it} and {readable}",
        entity.table
    );
    let row = unprepared::query(AssertSqlSafe(sql))
        .fetch_optional(single.connection().get()?)
        .await?;
    let read = |row: sqlx::postgres::PgRow| {
        Ok(Row {
            changed_date: Timestamp::from_micros(row.try_get("changed_date")?),
            is_flagged: row.try_get("deleted")?,
            is_in_scope: row.try_get("in_scope")?,
            scope: row.try_get("scope")?,
        })
    };
    row.map(read).transpose()
}

/// The last tombstone of a key in these scopes. There is no index for that: to have one would cost every
/// `delete`, and nobody but this asks.
async fn tombstone(
    single: &mut Single,
    entity: &Entity,
    scopes: Option<&[String]>,
    key: &RowKey,
    knows_all: bool,
) -> Result<Option<Tombstone>, WhyError> {
    let is_it = key.of_tombstone().map_err(|NulInText| no_key(entity))?;
    let mut from = vec![tombstones_of(entity, scopes)];
    // What was purged is older than all others.
    if entity.purged.as_ref().is_some_and(Purged::has_keys) {
        from.push(purged_of(entity, scopes));
    }
    let mut row = None;
    for tombstones in from {
        let tombstones = tombstones.map_err(|NulInText| no_key(entity))?;
        let sql = format!(
            "select (extract(epoch from t.changed_date) * 1000000)::bigint as changed_date, t.left_scope, t.scope
             from {tombstones} and {is_it} order by t.changed_xid desc, t.number desc limit 1"
        );
        row = unprepared::query(AssertSqlSafe(sql))
            .fetch_optional(single.connection().get()?)
            .await?;
        if row.is_some() {
            break;
        }
    }
    let read = |row: sqlx::postgres::PgRow| {
        Ok(Tombstone {
            changed_date: Timestamp::from_micros(row.try_get("changed_date")?),
            left_scope: row.try_get("left_scope")?,
            scope: row.try_get::<Option<_>, _>("scope")?.filter(|_| knows_all),
        })
    };
    row.map(read).transpose()
}

/// Who writes to the table and has not committed; `None` where nobody does.
async fn writing(single: &mut Single, entity: &Entity) -> Result<Option<Writing>, WhyError> {
    let row = unprepared::query(AssertSqlSafe(WRITERS))
        .bind(&entity.table)
        .fetch_one(single.connection().get()?)
        .await?;
    let writers: i64 = row.try_get("writers")?;
    let since: Option<i64> = row.try_get("since")?;
    let since = since.map(Timestamp::from_micros);
    Ok((writers > 0).then_some(Writing { since }))
}
