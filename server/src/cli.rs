//! The command line.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are read on a terminal, not as Markdown"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use highwater_server::ServeOptions;
use highwater_server::admin::PurgeOptions;
use highwater_server::auth::Authenticator;
use highwater_server::page::Since;
use highwater_server::why::AskedKey;

use crate::callers::{Callers, KeyCommand, scope};
use crate::limits::Limits;
use crate::transport::Transport;

const TICK_MIN: Duration = Duration::from_millis(10);

const TICK_MAX: Duration = Duration::from_secs(10);

/// A thousand years: Postgres' dates reach back further.
const AGE_MAX: Duration = Duration::from_hours(24 * 365_250);

const LOCK_TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Serves what changed in Postgres tables since a cursor, exactly.
#[derive(Debug, Parser)]
#[command(
    name = "highwater-server",
    version,
    after_help = "Examples:
  export DATABASE_URL=postgres://postgres@localhost/shop
  highwater-server migrate
  highwater-server enable product
  highwater-server serve
  curl 'http://127.0.0.1:8080/changes?limit=3'"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "HIGHWATER_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The database, such as postgres://user:password@host:5432/shop?sslmode=require
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answers GET /changes until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  highwater-server serve
  highwater-server serve --listen 0.0.0.0:8080 --api-keys keys --caller-requests-per-second 20
  highwater-server serve --metrics-listen 127.0.0.1:9090
  highwater-server serve --page-time-max 5m --statement-time-max 8m    for readers on slow lines

What each limit means and what a caller is told beyond it: docs/limits.md. Metrics: docs/metrics.md. For people there is a page at /: docs/page.md.")]
    Serve(Box<Serve>),
    /// Creates or upgrades the schema `highwater`
    Migrate {
        #[command(flatten)]
        database: Database,
    },
    /// Makes a table an entity: adds its columns, triggers and indexes
    #[command(after_help = "Examples:
  highwater-server enable product
  highwater-server enable shop.customer --exclude password_hash,notes
  highwater-server enable '\"Odd Name\"' --name odd
  highwater-server enable orders --deleted-column deleted_at
  highwater-server enable orders --dry-run | less      the SQL, to be read, or run by psql
  highwater-server enable orders --lock-timeout 500ms  for a table where no writer may wait longer

Options that are not given stay as they were; to take one back, disable the table first. Running it again is harmless, and needed after the primary key changed.")]
    Enable(Enable),
    /// Makes an entity a plain table again
    #[command(after_help = "Examples:
  highwater-server disable product
  highwater-server disable product --drop-columns --dry-run")]
    Disable {
        #[command(flatten)]
        database: Database,
        /// The table, as in SQL: product, shop.product, '"Odd Name"'; where it was dropped, the entity
        table: String,
        /// Drop the columns changed_xid, changed_date and deleted too
        #[arg(long)]
        drop_columns: bool,
        /// Print the SQL, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Removes old tombstones and flagged rows
    #[command(after_help = "Examples:
  highwater-server purge --older-than 90d --dry-run
  highwater-server purge --older-than 90d

A client that has not pulled for longer than that is told by the keys that are kept; beyond these it fetches the entity anew. \
Run it from cron; it works in small transactions and can be interrupted.")]
    Purge {
        #[command(flatten)]
        database: Database,
        /// What was deleted longer ago than this is removed: 90d, 12h, 30s
        #[arg(long, value_name = "DURATION", value_parser = age)]
        older_than: Duration,
        /// Keys of what is removed that are kept of each entity: who was away for longer is told of these in place of all
        /// rows anew; 0 keeps none
        #[arg(long, value_name = "N", default_value_t = PurgeOptions::KEYS_MAX)]
        keys_max: u32,
        /// Only count what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes every client fetch an entity anew, after DDL that changed values without writing rows
    Touch {
        #[command(flatten)]
        database: Database,
        /// The table, as in SQL: product, shop.product, '"Odd Name"'
        table: String,
    },
    /// Notes how far the database has come, right before it is dumped
    #[command(after_help = "Examples:
  highwater-server mark && pg_dump -Fc shop > shop.dump

Where that dump is restored, `highwater-server rebase` knows by the mark which clients have nothing that is not in it: they go \
on, and others compare what was written since alone.")]
    Mark {
        #[command(flatten)]
        database: Database,
    },
    /// Makes a restored or copied database one that can be served
    #[command(after_help = "Examples:
  highwater-server rebase            after a restore that takes the place of the original
  highwater-server rebase --new-id   for a copy that goes its own way, such as a staging database

Run it before anybody writes to what was restored: where rows were written before, clients compare the whole entity.")]
    Rebase {
        #[command(flatten)]
        database: Database,
        /// Give it an id of its own, so that stores of the original refuse it
        #[arg(long)]
        new_id: bool,
    },
    /// Prints the SQL that lets a role serve: it can read then, and nothing else
    #[command(after_help = "Examples:
  highwater-server grants                           for the role highwater_server
  highwater-server grants --role reader | psql shop

Print it again after a new table was enabled.")]
    Grants {
        #[command(flatten)]
        database: Database,
        /// The role that `serve` logs in as
        #[arg(long, default_value = "highwater_server", value_name = "ROLE", value_parser = NonEmptyStringValueParser::new())]
        role: String,
    },
    /// Looks for what is wrong, or soon will be, and says what to do
    #[command(after_help = "Examples:
  highwater-server doctor
  highwater-server doctor --role highwater_server   run by the owner, about the role that serves
  highwater-server doctor --json | jq '.findings[] | select(.severity == \"serious\")'

It changes nothing. Exit 0 where nothing serious was found, 1 where something was. The findings: docs/doctor.md.")]
    Doctor {
        #[command(flatten)]
        database: Database,
        /// The role that `serve` logs in as [default: the one of the database's address]
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// A transaction that is open for longer than this is told: 5m, 1h
        #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = humantime::parse_duration)]
        long_transaction: Duration,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Says why a device has a row or lacks it, and what to do
    #[command(after_help = "Examples:
  highwater-server why product 7                        what is known of the row itself
  highwater-server why product 7 --since 2026-11-22T10:00:00Z
  highwater-server why product 7 --since AbfVrODm... --scope tenant_id=7
  highwater-server why shop.stock '{\"shop\": 3, \"product\": 7}' --since AbfVrODm... --json

It asks the database itself and tells all, rows of other scopes too; GET /why tells a caller what is its own. The cursor of a \
device is in its store: sqlite3 shop.db 'select entity, cursor from sync_helper'. Exit 0 where the question was answered, \
whatever the answer is. The answers: docs/why.md.")]
    Why(Why),
    /// Makes keys for callers
    #[command(subcommand)]
    Key(KeyCommand),
    /// Lists the entities
    Entities {
        #[command(flatten)]
        database: Database,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes completions for a shell to standard output
    #[command(after_help = "Examples:
  highwater-server completions bash > /usr/share/bash-completion/completions/highwater-server
  highwater-server completions zsh > /usr/share/zsh/site-functions/_highwater-server")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual, a page for each command, into a folder such as /usr/share/man/man1; for packagers
    #[command(hide = true)]
    Man {
        /// The folder, made when it is missing
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The address to listen on
    #[arg(
        long,
        env = "HIGHWATER_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: SocketAddr,

    /// The most connections to Postgres
    #[arg(long, env = "HIGHWATER_POOL_SIZE", default_value_t = 16, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) pool_size: u32,

    /// How often Postgres is asked for news while callers wait for them, from 10ms to 10s
    #[arg(long, env = "HIGHWATER_TICK", default_value = "50ms", value_name = "DURATION", value_parser = tick)]
    pub(crate) tick: Duration,

    /// Serve GET /metrics on this address, such as 127.0.0.1:9090, and no longer beside /changes. Nobody is asked who they are there
    #[arg(long, env = "HIGHWATER_METRICS_LISTEN", value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) transport: Transport,

    #[command(flatten)]
    pub(crate) callers: Callers,

    #[command(flatten)]
    pub(crate) limits: Limits,
}

impl Serve {
    /// What was chosen, with this to tell who callers are.
    pub(crate) fn chosen(&self, authenticator: Option<Arc<Authenticator>>) -> ServeOptions {
        let options = ServeOptions {
            tick: self.tick,
            authenticator,
            ..ServeOptions::default()
        };
        self.limits.chosen(self.transport.chosen(options))
    }
}

/// Reads an age. Without a unit it may have been meant in days.
fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Err("it has no unit; write it as 90d or 12h".to_owned())
    } else if age > AGE_MAX {
        Err("nothing is older than 1,000 years".to_owned())
    } else {
        Ok(age)
    }
}

/// Reads how long a lock is waited for.
fn lock_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(wait) if wait > LOCK_TIMEOUT_MAX => Err("a day is the most".to_owned()),
        read => read.map_err(|error| error.to_string()),
    }
}

/// Reads a tick. A shorter one keeps Postgres busy; with a longer one waiting is worth little.
fn tick(text: &str) -> Result<Duration, String> {
    let tick = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (TICK_MIN..=TICK_MAX).contains(&tick) {
        Ok(tick)
    } else {
        Err("it is not between 10ms and 10s".to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The entity, or its table as in SQL: product, shop.product, '"Odd Name"'
    pub(crate) entity: String,

    /// The key: 7, or a JSON object of its columns with their values
    #[arg(value_parser = AskedKey::read, allow_hyphen_values = true)]
    pub(crate) key: AskedKey,

    /// What the device has: its cursor, or a date [default: what is known of the row itself]
    #[arg(long, value_name = "CURSOR-OR-DATE", value_parser = Since::read, allow_hyphen_values = true)]
    pub(crate) since: Option<Since>,

    /// The rows that the device's caller sees of entities with this scope column; repeatable [default: all rows]
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = scope)]
    pub(crate) scope: Vec<(String, String)>,

    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The table, as in SQL: product, shop.product, '"Odd Name"'
    pub(crate) table: String,

    /// The public name of the entity [default: the table's]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// The column whose value limits who may see a row
    #[arg(long, value_name = "COLUMN")]
    pub(crate) scope: Option<String>,

    /// Publish these columns only; the key must be among them
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub(crate) columns: Option<Vec<String>>,

    /// Publish all columns but these
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COLUMNS",
        conflicts_with = "columns"
    )]
    pub(crate) exclude: Option<Vec<String>>,

    /// A column of your own that the deleted flag follows: deleted when it is set (or true), back when it is cleared
    #[arg(long, value_name = "COLUMN")]
    pub(crate) deleted_column: Option<String>,

    /// How long one attempt waits for the lock on the table; writers may wait behind it for that long. There are 30 attempts
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = lock_timeout)]
    pub(crate) lock_timeout: Duration,

    /// Print the SQL, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn serve(more: &[&str]) -> Result<Serve, clap::Error> {
        let words = ["highwater-server", "serve", "--database-url", "postgres://h/d"];
        let cli = Cli::try_parse_from(words.iter().chain(more))?;
        match cli.command {
            Command::Serve(serve) => Ok(*serve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_options_the_program_serves_as_the_library_does() {
        let (serve, library) = (serve(&[]).unwrap(), ServeOptions::default());
        assert_eq!(format!("{:?}", serve.chosen(None)), format!("{library:?}"));
        assert!(library.connections_max > library.requests_max + library.waiting_max);
    }

    #[test]
    fn an_age_has_a_unit() {
        assert_eq!(age("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        for bad in ["0", "90", "", "old", "999999999d"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lock_is_waited_for_a_day_at_most() {
        assert_eq!(lock_timeout("24h"), Ok(LOCK_TIMEOUT_MAX));
        assert!(lock_timeout("25h").is_err());
    }

    #[test]
    fn a_tick_is_neither_too_short_nor_too_long() {
        for tick in ["10ms", "50ms", "1s", "10s"] {
            let expected = humantime::parse_duration(tick).unwrap();
            assert_eq!(serve(&["--tick", tick]).unwrap().tick, expected);
        }
        for tick in ["9ms", "0s", "10001ms", "soon", "50"] {
            assert!(serve(&["--tick", tick]).is_err(), "{tick}");
        }
    }
}
