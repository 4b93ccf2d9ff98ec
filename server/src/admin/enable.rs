//! `enable` and `disable`, and what they would run.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use super::indexes::{self, IndexStatement};
use super::locks::{LOCK_WAIT, patiently};
use super::{AdminError, INDEXES, answer};
use crate::quoting::{NulInText, literal};
use crate::unprepared;

/// How a table is to become an entity. What is absent stays as it was, at first: all columns,
/// no scope, the table's own name.
#[derive(Clone, Debug, Default)]
pub struct EnableOptions {
    /// The public name.
    pub name: Option<String>,
    /// The scope column.
    pub scope: Option<String>,
    /// The columns to publish.
    pub columns: Option<Vec<String>>,
    /// The columns to hide.
    pub exclude: Option<Vec<String>>,
    /// The application's column that the deleted flag follows.
    pub deleted_column: Option<String>,
    /// How long one attempt waits for the lock on the table; [`LOCK_WAIT`] where it is absent.
    pub lock_wait: Option<Duration>,
}

impl EnableOptions {
    /// The call that makes a table an entity.
    fn call(&self, table: &str) -> Result<String, NulInText> {
        let text = |value: &Option<String>| value.as_deref().map_or(Ok("null".to_owned()), literal);
        let list = |values: &Option<Vec<String>>| {
            values.as_ref().map_or(Ok("null".to_owned()), |values| {
                let values = values.iter().map(|value| literal(value));
                let values: Vec<String> = values.collect::<Result<_, NulInText>>()?;
                Ok(format!("array[{}]::text[]", values.join(", ")))
            })
        };
        Ok(format!(
            "select highwater.enable({}::regclass, name => {}, scope => {}, columns => {}, exclude => {}, \
             deleted_column => {}, whole => false)",
            literal(table)?,
            text(&self.name)?,
            text(&self.scope)?,
            list(&self.columns)?,
            list(&self.exclude)?,
            text(&self.deleted_column)?
        ))
    }
}

/// Makes a table an entity, and builds its indexes without holding up its writers.
pub async fn enable(
    connection: &mut PgConnection,
    table: &str,
    options: &EnableOptions,
) -> Result<(), AdminError> {
    let row = patiently(connection, table, options.lock_wait, options.call(table)?).await?;
    let number: i32 = answer(row)?;
    // A statement of its own, so that the table is not locked meanwhile.
    sqlx::raw_sql(AssertSqlSafe(flag_deleted(table)?))
        .execute(&mut *connection)
        .await?;
    for kind in INDEXES {
        indexes::build(connection, table, number, kind, options.lock_wait).await?;
    }
    sqlx::raw_sql(AssertSqlSafe(note_indexed(number)))
        .execute(connection)
        .await?;
    Ok(())
}

fn note_indexed(number: i32) -> String {
    format!("select highwater.note_indexed({number})")
}

/// The SQL that [`enable`] would run now, for `psql`, with what its functions do as comments. It reads the
/// catalog, locks nothing of the application's, and changes nothing.
pub async fn plan_enable(
    connection: &mut PgConnection,
    table: &str,
    options: &EnableOptions,
) -> Result<String, AdminError> {
    let mut transaction = connection.begin().await?;
    begin_plan(&mut transaction).await?;
    let call = options.call(table)?;
    let number: i32 = unprepared::query_scalar(AssertSqlSafe(call.clone()))
        .fetch_one(&mut *transaction)
        .await?;
    let plan = noted_plan(&mut transaction).await?;
    let follows: bool =
        unprepared::query_scalar("select deleted_column is not null from highwater.entity where number = $1")
            .bind(number)
            .fetch_one(&mut *transaction)
            .await?;
    let mut statements = Vec::new();
    for kind in INDEXES {
        statements.extend(indexes::statements(&mut transaction, table, number, kind).await?);
    }
    transaction.rollback().await?;

    let wait_ms = options.lock_wait.unwrap_or(LOCK_WAIT).as_millis().max(1);
    let number_check = format!(
        "do $$ begin\n    if (select e.number from highwater.entity e where e.relation = {}::regclass) <> {number} then\n        \
         raise exception 'other tables became entities since this was printed; print it anew';\n    end if;\nend $$;",
        literal(table)?
    );
    let mut script = format!(
        "-- What `highwater-server enable` runs. Where the lock is not had in time, it runs the transaction again.\n\
         \\set ON_ERROR_STOP on\n\
         begin;\n\
         set local lock_timeout = {wait_ms};\n\
         {call};\n\
         -- That function runs, beside writing down what the entity is:\n{}\
         {number_check}\n\
         commit;\n",
        commented(&plan)
    );
    if follows {
        let _ = write!(
            script,
            "\n-- Flags the rows that the application's own column calls deleted.\n{};\n",
            flag_deleted(table)?
        );
    }
    if !statements.is_empty() {
        script.push_str("\n-- The indexes. Writers go on meanwhile.\n");
    }
    for statement in statements {
        match statement {
            IndexStatement::Concurrent(sql) => {
                let _ = writeln!(script, "{sql};");
            }
            IndexStatement::Locking(sql) => {
                let _ = writeln!(
                    script,
                    "begin; set local lock_timeout = {wait_ms}; {sql}; commit;"
                );
            }
        }
    }
    let _ = write!(
        script,
        "\n-- From now on it is served.\n{};\n",
        note_indexed(number)
    );
    Ok(script)
}

/// Undoes [`enable`]. False where the table was no entity. An entity whose table was dropped goes by its own name.
pub async fn disable(
    connection: &mut PgConnection,
    table: &str,
    drop_columns: bool,
) -> Result<bool, AdminError> {
    let call = disable_call(connection, table, drop_columns).await?;
    answer(patiently(connection, table, None, call).await?)
}

/// The SQL that [`disable`] would run now, as [`plan_enable`] does.
pub async fn plan_disable(
    connection: &mut PgConnection,
    table: &str,
    drop_columns: bool,
) -> Result<String, AdminError> {
    let call = disable_call(connection, table, drop_columns).await?;
    let mut transaction = connection.begin().await?;
    begin_plan(&mut transaction).await?;
    unprepared::query(AssertSqlSafe(call.clone()))
        .execute(&mut *transaction)
        .await?;
    let plan = noted_plan(&mut transaction).await?;
    transaction.rollback().await?;
    Ok(format!(
        "-- What `highwater-server disable` runs. Where the lock is not had in time, it runs the transaction again.\n\
         \\set ON_ERROR_STOP on\n\
         begin;\n\
         set local lock_timeout = {};\n\
         {call};\n\
         -- That function runs, beside forgetting the entity and its tombstones:\n{}\
         commit;\n",
        LOCK_WAIT.as_millis(),
        commented(&plan)
    ))
}

async fn disable_call(
    connection: &mut PgConnection,
    table: &str,
    drop_columns: bool,
) -> Result<String, AdminError> {
    let table = literal(table)?;
    let mut transaction = connection.begin().await?;
    let is_dropped: bool = sqlx::raw_sql(AssertSqlSafe(format!(
        "select highwater.dropped({table}) is not null
             and not exists (select from highwater.entity e join pg_class c on c.oid = e.relation where c.oid::regclass::text = {table})"
    )))
    .fetch_one(&mut *transaction)
    .await?
    .try_get(0)?;
    transaction.rollback().await?;
    Ok(if is_dropped {
        format!("select highwater.forget({table})")
    } else {
        format!("select highwater.disable({table}::regclass, drop_columns => {drop_columns})")
    })
}

fn flag_deleted(table: &str) -> Result<String, NulInText> {
    Ok(format!(
        "select highwater.flag_deleted({}::regclass)",
        literal(table)?
    ))
}

/// From here to the end of the transaction, statements on the application's tables are noted, not run.
async fn begin_plan(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("set local highwater.plan = E'\\n'")
        .execute(transaction)
        .await?;
    Ok(())
}

/// What was noted.
async fn noted_plan(transaction: &mut PgConnection) -> Result<String, sqlx::Error> {
    let row = sqlx::raw_sql("select current_setting('highwater.plan') as plan")
        .fetch_one(transaction)
        .await?;
    row.try_get("plan")
}

/// The text as comments of SQL.
fn commented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.flat_map(|line| ["--   ", line, "\n"]).collect()
}
