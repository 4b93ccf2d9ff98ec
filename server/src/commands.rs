//! The commands: each calls the library and says what came of it.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use highwater_server::Coalescing;
use highwater_server::admin::{self, AdminError, EnableOptions, ListedEntity, PurgeOptions, Purged, Rebased};
use highwater_server::caller::{Caller, Grant};
use highwater_server::doctor::DoctorOptions;
use highwater_server::node::Node;
use highwater_server::pooler;
use highwater_server::why::{self, Hearer, Question};
use highwater_shared::EntityName;
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::cli::{Cli, Command, Database, Enable, Why};
use crate::{callers, package, serving};

/// Runs a command, and tells how the program is to end.
pub(crate) async fn run(cli: Cli, coalescing: Coalescing) -> anyhow::Result<ExitCode> {
    let done = match cli.command {
        Command::Serve(serve) => serving::serve(*serve, coalescing).await,
        Command::Migrate { database } => {
            admin::migrate(&mut connect(&database).await?).await?;
            say("the schema highwater is up to date")
        }
        Command::Enable(enable) => self::enable(enable).await,
        Command::Disable {
            database,
            table,
            drop_columns,
            dry_run,
        } => {
            let mut connection = connect(&database).await?;
            if dry_run {
                let plan = admin::plan_disable(&mut connection, &table, drop_columns).await?;
                say(plan.trim_end())
            } else if admin::disable(&mut connection, &table, drop_columns).await? {
                say(&format!("{table} is no longer an entity"))
            } else {
                say(&format!("{table} was no entity"))
            }
        }
        Command::Purge {
            database,
            older_than,
            keys_max,
            dry_run,
            json,
        } => {
            let options = PurgeOptions {
                older_than,
                keys_max,
                dry_run,
            };
            let purged = admin::purge(&mut connect(&database).await?, &options).await?;
            if json {
                say(&serde_json::to_string(&purged)?)?;
            } else {
                let verb = if dry_run { "would be removed" } else { "removed" };
                let lines = purged
                    .iter()
                    .map(|purged| format!("{}: {} {verb}", purged.entity, purged.removed));
                say(&lines.collect::<Vec<_>>().join("\n"))?;
            }
            stopped(&purged)
        }
        Command::Touch { database, table } => {
            if !admin::touch(&mut connect(&database).await?, &table).await? {
                bail!("{table} is no entity; highwater-server entities lists them");
            }
            say(&format!("every client will fetch {table} anew"))
        }
        Command::Mark { database } => {
            admin::mark(&mut connect(&database).await?).await?;
            say("a dump that is taken from now on tells clients what it has")
        }
        Command::Rebase { database, new_id } => {
            let rebased = admin::rebase(&mut connect(&database).await?, new_id).await?;
            say(&told_of_rebase(&rebased, new_id))
        }
        Command::Grants { database, role } => {
            let grants = admin::grants(&mut connect(&database).await?, &role).await?;
            say(grants.trim_end())
        }
        Command::Doctor {
            database,
            role,
            long_transaction,
            json,
        } => {
            let options = DoctorOptions {
                role,
                long_transaction,
                ..DoctorOptions::default()
            };
            return doctor(&database, &options, json).await;
        }
        Command::Why(asked) => why(asked).await,
        Command::Key(command) => callers::key(command),
        Command::Completions { shell } => package::completions(shell),
        Command::Man { folder } => package::man(&folder),
        Command::Entities { database, json } => {
            let entities = admin::entities(&mut connect(&database).await?).await?;
            if json {
                say(&serde_json::to_string(&entities)?)
            } else {
                say(&table(&entities))
            }
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// What a rebase means for the clients.
fn told_of_rebase(rebased: &Rebased, new_id: bool) -> String {
    let clients = if new_id {
        "it is another source now, and stores of the original refuse it"
    } else if rebased.is_marked {
        "clients go on from what they had at the last mark"
    } else {
        "no mark is of use, so that clients compare all rows with theirs; \
         run `highwater-server mark` before the next dump"
    };
    let mut told = format!("the database can be served; {clients}");
    if rebased.is_marked && !rebased.anew.is_empty() {
        let names: Vec<&str> = rebased.anew.iter().map(EntityName::as_str).collect();
        told.push_str("\nwritten to before the rebase, or changed, so that it begins anew: ");
        told.push_str(&names.join(", "));
    }
    told
}

/// Says on standard error what went wrong, with its causes.
pub(crate) fn say_error(error: &anyhow::Error) {
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let refusal = match cause.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Database(refusal)) => Some(refusal.message()),
            _ => None,
        };
        let words = refusal.map_or_else(|| cause.to_string(), str::to_owned);
        // Some libraries end their own words with those of the cause.
        if !said.ends_with(&words) {
            said.push_str(": ");
            said.push_str(&words);
        }
        if refusal.is_some() {
            // What follows are the same words, with the line of Postgres' own source.
            break;
        }
    }
    let _ = writeln!(io::stderr(), "highwater-server: {said}");
}

async fn enable(enable: Enable) -> anyhow::Result<()> {
    let mut connection = connect(&enable.database).await?;
    let options = EnableOptions {
        name: enable.name,
        scope: enable.scope,
        columns: enable.columns,
        exclude: enable.exclude,
        deleted_column: enable.deleted_column,
        lock_wait: Some(enable.lock_timeout),
    };
    if enable.dry_run {
        let plan = admin::plan_enable(&mut connection, &enable.table, &options).await?;
        return say(plan.trim_end());
    }
    admin::enable(&mut connection, &enable.table, &options).await?;
    say(&format!("{} is an entity", enable.table))?;
    for role in admin::without_rights(&mut connection, &enable.table).await? {
        say(&format!(
            "the role {role} may not read it, so a server that logs in as it leaves it out; run: \
             highwater-server grants --role {role} | psql \"$DATABASE_URL\""
        ))?;
    }
    Ok(())
}

/// The error for entities of which not all could be purged.
fn stopped(purged: &[Purged]) -> anyhow::Result<()> {
    let stopped = purged.iter().filter_map(|purged| {
        let reason = purged.stopped.as_ref()?;
        Some(format!("{} was not purged to its end: {reason}", purged.entity))
    });
    let stopped: Vec<String> = stopped.collect();
    if stopped.is_empty() {
        return Ok(());
    }
    bail!("{}", stopped.join("\n"))
}

/// What was found is the answer, and no error; where it is serious, scripts are to notice.
async fn doctor(database: &Database, options: &DoctorOptions, json: bool) -> anyhow::Result<ExitCode> {
    let report = highwater_server::doctor::examine(&mut connect(database).await?, options).await?;
    if json {
        say(&serde_json::to_string(&report)?)?;
    } else {
        say(report.to_string().trim_end())?;
    }
    Ok(if report.is_serious() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Asks the database itself, for an operator.
async fn why(asked: Why) -> anyhow::Result<()> {
    let options = pooler::options(&asked.database.database_url).context("--database-url is not usable")?;
    let place = pooler::place(&options);
    // Nothing is asked twice, so nothing need stay prepared, and a pooler may stand between.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await;
    let node = Node::new(pool.with_context(|| cannot_connect(&place))?).pooled(true);
    let name = why::entity_of(&node, &asked.entity)
        .await
        .map_err(AdminError::from)?;
    let Some(entity) = name else {
        bail!(
            "{} is no entity; highwater-server entities lists them",
            asked.entity
        );
    };
    let caller = if asked.scope.is_empty() {
        Caller::anyone()
    } else {
        Caller::with(Grant {
            scopes: callers::scopes(asked.scope),
            ..Grant::default()
        })
    };
    let question = Question {
        since: asked.since,
        caller,
        hearer: Hearer::Operator,
        entity,
        key: asked.key,
    };
    let why = why::why(&node, question).await?;
    if asked.json {
        say(&serde_json::to_string(&why)?)
    } else {
        say(&format!(
            "{} {}: {}\n-> {}",
            why.entity, why.key, why.what, why.remedy
        ))
    }
}

async fn connect(database: &Database) -> anyhow::Result<PgConnection> {
    // To wait for a lock, or to build an index, is slow and no fault.
    let options = pooler::options(&database.database_url)
        .context("--database-url is not usable")?
        .disable_statement_logging();
    PgConnection::connect_with(&options)
        .await
        .with_context(|| cannot_connect(&pooler::place(&options)))
}

/// What is said where there is no connection; the cause follows.
pub(crate) fn cannot_connect(place: &str) -> String {
    format!("cannot connect to the database at {place}")
}

pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => bail!(error),
        _ => Ok(()),
    }
}

/// The entities as aligned text.
fn table(entities: &[ListedEntity]) -> String {
    if entities.is_empty() {
        return "no entities yet; make one with: highwater-server enable <table>".to_owned();
    }
    let head = ["entity", "table", "key", "rows (estimated)", "scope", "note"].map(str::to_owned);
    let rows = entities.iter().map(|entity| {
        let note = match (&entity.table, entity.indexed) {
            (None, _) => "its table was dropped",
            (_, false) => "indexes missing: run enable again",
            _ => "",
        };
        [
            entity.name.to_string(),
            entity.table.clone().unwrap_or_default(),
            entity.key.join(", "),
            entity
                .estimated_rows
                .map_or("unknown".to_owned(), |rows| rows.to_string()),
            entity.scope.clone().unwrap_or_default(),
            note.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut lines = Vec::new();
    for row in &rows {
        let cell = |(place, text): (usize, &String)| {
            let width = rows
                .iter()
                .filter_map(|row| row.get(place))
                .map(|text| text.chars().count())
                .max();
            format!("{text:width$}", width = width.unwrap_or(0))
        };
        let line: Vec<String> = row.iter().enumerate().map(cell).collect();
        lines.push(line.join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}
