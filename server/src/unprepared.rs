//! Queries that do not stay prepared. Under a name, they would stay behind in whatever connection a pooler had lent,
//! and be in the way of the next. What is asked seldom loses nothing by it.
//!
//! They belong into transactions: Postgres is told of a statement and has it run in two messages.

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{FromRow, SqlSafeStr};

pub(crate) fn query(sql: impl SqlSafeStr) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

pub(crate) fn query_as<O>(sql: impl SqlSafeStr) -> QueryAs<'static, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql).persistent(false)
}

pub(crate) fn query_scalar<O>(sql: impl SqlSafeStr) -> QueryScalar<'static, Postgres, O, PgArguments>
where
    (O,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}
