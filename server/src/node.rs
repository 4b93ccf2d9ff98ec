//! The Postgres that this server reads from, a primary or a standby, and what is remembered of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::coalescing::Coalescing;
use crate::database::{Connection, sqlstate};
use crate::entity::{Entity, ScopeColumn};
use crate::limit::TransactionBounds;
use crate::metrics::Metrics;
use crate::scope::Limits;
use crate::standby::Claim;
use crate::unprepared;

/// Values of scopes that are remembered, and how long: an enum may get another value.
const VALUES_MAX: u64 = 100_000;
const VALUE_AGE_MAX: Duration = Duration::from_mins(1);

/// A Postgres to read from.
#[derive(Debug)]
pub struct Node {
    pool: PgPool,
    bounds: TransactionBounds,
    /// Whether a pooler lends connections to Postgres for one transaction each.
    is_pooled: bool,
    /// Knows while many rows pass.
    pub(crate) coalescing: Coalescing,
    /// What is counted of what is read from it, and of the server at large.
    pub(crate) metrics: Metrics,
    /// The entities, as they were described last.
    pub(crate) catalog: Catalog,
    /// The own id of the source that was met last; `None` as long as none was.
    own_id: Mutex<Option<Uuid>>,
    /// What a standby could claim last; `None` as long as only a primary has been met.
    claim: Mutex<Option<Claim>>,
    /// Values of scopes as Postgres prints them, by type; `None` for what is no value of the type.
    values: Cache<(String, String), Option<String>>,
}

impl Node {
    /// The Postgres that the pool leads to.
    pub fn new(pool: PgPool) -> Self {
        Self::bounded(pool, TransactionBounds::default())
    }

    /// The same, with transactions that are bounded so.
    pub fn bounded(pool: PgPool, bounds: TransactionBounds) -> Self {
        Self {
            pool,
            bounds,
            is_pooled: false,
            coalescing: Coalescing::default(),
            metrics: Metrics::default(),
            catalog: Catalog::default(),
            own_id: Mutex::default(),
            claim: Mutex::default(),
            values: Cache::builder()
                .max_capacity(VALUES_MAX)
                .time_to_live(VALUE_AGE_MAX)
                .build(),
        }
    }

    /// The same, behind a pooler that lends connections to Postgres for one transaction each, or not.
    #[must_use]
    pub fn pooled(mut self, is_pooled: bool) -> Self {
        self.is_pooled = is_pooled;
        self
    }

    /// The same, whose long pages tell the threads of the runtime that they may pause.
    #[must_use]
    pub fn coalescing(mut self, coalescing: Coalescing) -> Self {
        self.coalescing = coalescing;
        self
    }

    /// Takes a connection.
    pub async fn connect(&self) -> Result<Connection, sqlx::Error> {
        let connection = Connection::acquire(&self.pool, self.bounds).await?;
        Ok(connection.keeping_statements(!self.is_pooled))
    }

    /// The longest time that a statement may take.
    pub(crate) fn statement_time_max(&self) -> Duration {
        self.bounds.statement_time_max
    }

    /// The own id of the source that was met last: while a server runs, its database may be rebased.
    pub(crate) fn own_id(&self) -> Option<Uuid> {
        *self.own_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the own id of the source that was met.
    pub(crate) fn meets(&self, own_id: Uuid) {
        *self.own_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(own_id);
    }

    /// The pool, to be looked at.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// What a caller may see of these entities. Where Postgres has to be asked, it is on `connection`, which
    /// is in no transaction: a page that held one connection while it waits for another could
    /// wait for ever in a full pool. Whoever holds none takes one.
    pub(crate) async fn limits<'e>(
        &self,
        entities: impl IntoIterator<Item = &'e Entity>,
        caller: &Caller,
        mut connection: Option<&mut Connection>,
    ) -> Result<Limits, sqlx::Error> {
        let mut limits = Limits::default();
        if caller.is_unrestricted() {
            return Ok(limits);
        }
        for entity in entities {
            let number = entity.covered.number;
            if !caller.may_read(&entity.name) {
                limits.forbid(number);
            } else if let Some(scope) = &entity.scope {
                let mut printed = Vec::new();
                for value in caller.values(&scope.column) {
                    let connection = connection.as_deref_mut();
                    printed.extend(self.printed(scope, value, connection).await?);
                }
                limits.limit(number, printed);
            }
        }
        Ok(limits)
    }

    /// A value of a scope as Postgres prints it, since tombstones hold it so: 07 is 7 to an integer. `None` where
    /// it is no value of the type, and no row can have it.
    async fn printed(
        &self,
        scope: &ScopeColumn,
        value: &str,
        connection: Option<&mut Connection>,
    ) -> Result<Option<String>, sqlx::Error> {
        let key = (scope.cast.clone(), value.to_owned());
        if let Some(known) = self.values.get(&key).await {
            return Ok(known);
        }
        let printed = if let Some(connection) = connection {
            print(connection, scope, value).await?
        } else {
            let mut connection = self.connect().await?;
            let printed = print(&mut connection, scope, value).await?;
            connection.give_back();
            printed
        };
        self.values.insert(key, printed.clone()).await;
        Ok(printed)
    }

    /// Whether it was a standby when it was met last.
    pub(crate) fn is_standby(&self) -> bool {
        self.last_claim().is_some()
    }

    /// What a standby could claim last.
    pub(crate) fn last_claim(&self) -> Option<Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what a standby can claim, so that the next claim need not ask for every id again, or
    /// that it is none.
    pub(crate) fn remember(&self, claim: Option<Claim>) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }
}

/// Has Postgres print a value; `None` for a text that is none of the type, or breaks what a domain demands, or that a cast
/// would cut to fit: that is another value, and another scope.
async fn print(
    connection: &mut Connection,
    scope: &ScopeColumn,
    value: &str,
) -> Result<Option<String>, sqlx::Error> {
    let ScopeColumn { cast, whole, .. } = scope;
    // The one type without a length that is cut all the same.
    if cast == "\"char\"" && value.len() > 1 {
        return Ok(None);
    }
    // With the settings of a page, which are those of the triggers.
    connection.begin(&[]).await?;
    let print = format!(
        "select case when $1::text::{cast}::{whole} = $1::text::{whole} then $1::text::{cast}::text end"
    );
    let printed = unprepared::query_scalar(AssertSqlSafe(print))
        .bind(value)
        .fetch_one(connection.get()?)
        .await;
    let printed = match printed {
        Ok(printed) => printed,
        Err(error)
            if sqlstate(&error).is_some_and(|code| code.starts_with("22") || code.starts_with("23")) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    connection.end().await?;
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::admin::{self, EnableOptions};
    use crate::caller::Grant;
    use crate::entity;

    /// Cut to the length of the column, a value would be another scope.
    #[tokio::test]
    async fn a_value_that_does_not_fit_the_column_is_no_scope() {
        let database = highwater_testbed::Database::create("values").await.unwrap();
        let mut connection = database.connect().await.unwrap();
        admin::migrate(&mut connection).await.unwrap();
        let node = Node::new(database.pool().await.unwrap());
        for (type_name, fits, too_long) in [
            ("varchar(3)", "abc", "abcd"),
            ("char(3)", "abc", "abcd"),
            ("bit(4)", "1010", "10101"),
            ("numeric(10,2)", "7.00", "7.001"),
            ("\"char\"", "a", "ab"),
            ("short", "abc", "abcd"),
            ("int", "07", "7.5"),
        ] {
            let table = format!(
                "drop table if exists t; drop domain if exists short; create domain short as varchar(3);
                 create table t (id int primary key, s {type_name})"
            );
            sqlx::raw_sql(AssertSqlSafe(table))
                .execute(&mut connection)
                .await
                .unwrap();
            let options = EnableOptions {
                scope: Some("s".to_owned()),
                ..EnableOptions::default()
            };
            admin::enable(&mut connection, "t", &options).await.unwrap();
            let entities = entity::list(&node).await.unwrap();
            for (value, count) in [(fits, 1), (too_long, 0)] {
                let scopes = BTreeMap::from([("s".to_owned(), BTreeSet::from([value.to_owned()]))]);
                let caller = Caller::with(Grant {
                    scopes,
                    ..Grant::default()
                });
                let limits = node.limits(&entities, &caller, None).await.unwrap();
                let number = entities.first().unwrap().covered.number;
                assert_eq!(
                    limits.of(number).map(<[String]>::len),
                    Some(count),
                    "{type_name} {value}"
                );
            }
        }
    }
}
