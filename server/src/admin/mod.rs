//! What the commands other than `serve` do to the database.
//!
//! A pooler may give each transaction another connection to Postgres. So whatever has a parameter, or is
//! more than one statement, is in a transaction here.

use highwater_shared::EntityName;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::{Connection as _, Decode, PgConnection, Postgres, Row, Type};

mod enable;
mod grants;
mod indexes;
mod locks;
mod migrate;
mod purge;

pub use enable::{EnableOptions, disable, enable, plan_disable, plan_enable};
pub use grants::{grants, without_rights};
pub use locks::{LOCK_ATTEMPTS_MAX, LOCK_WAIT};
pub use migrate::migrate;
pub(crate) use migrate::{applied, migrator};
pub use purge::{PurgeOptions, Purged, purge};

use crate::entity;
use crate::quoting::{NulInText, literal};
use crate::unprepared;

/// The indexes of an entity: for changes since a snapshot, since a date, for flagged rows, and for
/// changes in a scope.
pub(crate) const INDEXES: [&str; 5] = ["xid", "date", "deleted", "scope_xid", "scope_date"];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The table stayed locked by others.
    #[error(
        "{table} was in use by other transactions for too long{holders}; end those that sit idle, and try again"
    )]
    Locked {
        /// The table, as it was named.
        table: String,
        /// Who held it, in brackets; empty where nobody did any more.
        holders: String,
    },
    /// A function of the schema refused; Postgres' own words, with the hint.
    #[error("{message}")]
    Refused {
        /// What was wrong and what to do.
        message: String,
    },
    /// The schema is not there.
    #[error("the schema highwater is missing; run `highwater-server migrate` on this database first")]
    NotMigrated,
    /// The migrations could not be run.
    #[error("cannot migrate")]
    Migrate(#[from] MigrateError),
    /// A name that nothing in Postgres can have.
    #[error(transparent)]
    Name(#[from] NulInText),
    /// Postgres refused or went away.
    #[error("cannot use the database")]
    Postgres(#[source] sqlx::Error),
}

impl From<sqlx::Error> for AdminError {
    fn from(error: sqlx::Error) -> Self {
        let refusal = error.as_database_error();
        let Some(refusal) = refusal.and_then(|refusal| refusal.try_downcast_ref::<PgDatabaseError>()) else {
            return Self::Postgres(error);
        };
        match refusal.code() {
            // Names without what they are quoted with, which is a matter of the language.
            "3F000" if refusal.message().contains("highwater") => Self::NotMigrated,
            "42P01" if refusal.message().contains("highwater.") => Self::NotMigrated,
            _ => Self::Refused {
                message: format!("{}{}", refusal.message(), advice(refusal)),
            },
        }
    }
}

/// What to do about a refusal of Postgres', where that or Postgres itself says it.
fn advice(refusal: &PgDatabaseError) -> String {
    match (refusal.code(), refusal.hint()) {
        // A view of all columns, say. To drop it by `cascade`, as Postgres hints, nobody was asked.
        ("2BP01", _) => format!(
            ": {}; drop these, try again, and make them anew",
            refusal.detail().unwrap_or("a view, or the like")
        ),
        (_, Some(hint)) => format!("; {hint}"),
        // No such table, or no name of one.
        ("42P01" | "42602", None) => {
            "; write the table as in SQL, such as product, shop.product or '\"Odd Name\"'".to_owned()
        }
        ("42501", None) => "; log in as the role that owns the tables and has run `migrate`".to_owned(),
        (_, None) => String::new(),
    }
}

/// An entity as `highwater-server entities` lists it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedEntity {
    /// The public name.
    pub name: EntityName,
    /// The table, as SQL names it; absent where it was dropped.
    pub table: Option<String>,
    /// The key's columns.
    pub key: Vec<String>,
    /// The published columns, where they were chosen.
    pub columns: Option<Vec<String>>,
    /// The hidden columns.
    pub exclude: Vec<String>,
    /// The scope column.
    pub scope: Option<String>,
    /// The application's column that the deleted flag follows.
    pub deleted_column: Option<String>,
    /// Rows by Postgres' statistics.
    pub estimated_rows: Option<i64>,
    /// Whether all indexes are there and valid.
    pub indexed: bool,
}

/// All entities, by name.
pub async fn entities(connection: &mut PgConnection) -> Result<Vec<ListedEntity>, AdminError> {
    let mut transaction = connection.begin().await?;
    let rows = unprepared::query(
        "select e.name, case when c.oid is not null then e.relation::text end as table_name, e.key_columns,
             e.chosen_columns, coalesce(e.excluded_columns, '{}') as excluded, e.scope_column, e.deleted_column,
             nullif(c.reltuples, -1)::bigint as estimated_rows,
             (select count(*) = (select count(highwater.index_definition(e.number, kind)) from unnest($1::text[]) kind)
              from pg_index i join pg_class ic on ic.oid = i.indexrelid
              where i.indrelid = c.oid and i.indisvalid
                and ic.relname in (select highwater.index_name(e.number, kind) from unnest($1::text[]) kind)) as indexed
         from highwater.entity e left join pg_class c on c.oid = e.relation
         where e.relation is not null
         order by e.name",
    )
    .bind(&INDEXES[..])
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    let listed = |row: &sqlx::postgres::PgRow| {
        Ok(ListedEntity {
            name: EntityName::new(row.try_get::<String, _>("name")?),
            table: row.try_get("table_name")?,
            key: row.try_get("key_columns")?,
            columns: row.try_get("chosen_columns")?,
            exclude: row.try_get("excluded")?,
            scope: row.try_get("scope_column")?,
            deleted_column: row.try_get("deleted_column")?,
            estimated_rows: row.try_get("estimated_rows")?,
            indexed: row.try_get::<Option<bool>, _>("indexed")?.unwrap_or(false),
        })
    };
    rows.iter().map(listed).collect()
}

/// Makes every client fetch an entity anew. False where the table is no entity.
pub async fn touch(connection: &mut PgConnection, table: &str) -> Result<bool, AdminError> {
    let call = format!("select highwater.touch({}::regclass)", literal(table)?);
    answer(locks::patiently(connection, table, None, call).await?)
}

/// Notes how far the database has come, for a dump that is taken next: who restores it can tell then which cursors it
/// has all of.
pub async fn mark(connection: &mut PgConnection) -> Result<(), AdminError> {
    locks::patiently(
        connection,
        "highwater.mark",
        None,
        "select highwater.mark()".to_owned(),
    )
    .await?;
    Ok(())
}

/// What `rebase` has made of a database.
#[derive(Clone, Debug)]
pub struct Rebased {
    /// The entities that begin anew, by name.
    pub anew: Vec<EntityName>,
    /// Whether a mark came with the dump, by which clients go on with the others.
    pub is_marked: bool,
}

/// Makes a restored or copied database a source that can be served. Entities whose rows were not as a dump had brought them
/// are stamped anew, and begin anew. With `new_id` it is another source to all clients.
pub async fn rebase(connection: &mut PgConnection, new_id: bool) -> Result<Rebased, AdminError> {
    let call = format!("select anew, is_marked from highwater.rebase({new_id})");
    let row = locks::patiently(connection, "a table", None, call).await?;
    let row = row.ok_or(AdminError::Postgres(sqlx::Error::RowNotFound))?;
    let anew: Vec<String> = row.try_get("anew")?;
    let rebased = Rebased {
        anew: anew.into_iter().map(EntityName::new).collect(),
        is_marked: row.try_get("is_marked")?,
    };
    let mut transaction = connection.begin().await?;
    let tables = entity::tables(&mut transaction).await?;
    transaction.rollback().await?;
    for table in tables {
        // Those on the column have gone with it; the others are there.
        for kind in INDEXES {
            indexes::build(connection, &table.table, table.number, kind, None).await?;
        }
    }
    Ok(rebased)
}

/// What a function of the schema has answered.
fn answer<T>(row: Option<PgRow>) -> Result<T, AdminError>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    let row = row.ok_or(AdminError::Postgres(sqlx::Error::RowNotFound))?;
    Ok(row.try_get(0)?)
}
