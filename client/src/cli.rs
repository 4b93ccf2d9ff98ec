//! The command line: what there is to say to `highwater`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use highwater_client::{AskedKey, DEVICE_NAME_BYTES_MAX, EntityName, SeedLocation};

const EXAMPLES: &str = "Examples:
  highwater pull --server http://127.0.0.1:8080 --store shop.db
  highwater run --server https://sync.example.org --store shop.db --token-file token
  highwater status --store shop.db
  highwater verify --server https://sync.example.org --store shop.db --token-file token
  sqlite3 shop.db 'select * from product limit 3'";

/// Keeps an offline SQLite copy of Postgres tables current, by moving only what changed.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull once: bring the store up to date and end.
    #[command(after_help = "Examples:
  highwater pull --server http://127.0.0.1:8080 --store shop.db
  highwater pull --store shop.db --entity product --entity price --json   (HIGHWATER_SERVER is set)")]
    Pull(PullOptions),
    /// Keep the store up to date until stopped.
    #[command(after_help = "Examples:
  highwater run --server http://127.0.0.1:8080 --store shop.db                  (live, by long poll)
  highwater run --server http://127.0.0.1:8080 --store shop.db --interval 30s
  highwater run --server https://sync.example.org --store shop.db --device till-7

Under systemd it says when the store is up to date for the first time (Type=notify), and that it lives (WatchdogSec).")]
    Run(RunOptions),
    /// Make a seed of the store: one compressed file that a new store can begin with.
    #[command(after_help = "Examples:
  highwater seed --store shop.db --out /srv/www/shop.seed
  highwater pull --server http://127.0.0.1:8080 --store new.db --seed https://cdn.example.org/shop.seed

A client may write to the store meanwhile. The seed holds rows and cursors, nothing else of this device.")]
    Seed(SeedOptions),
    /// Show how each entity of the store stands, also while `run` keeps it up to date.
    #[command(after_help = "Examples:
  highwater status --store shop.db
  highwater status --store shop.db --watch 5s
  highwater status --store shop.db --json

It reads and never writes. Colours show on a terminal only, and not where NO_COLOR is set.")]
    Status(StatusOptions),
    /// Compare the store with the source, row by row, while both are in use.
    #[command(after_help = "Examples:
  highwater verify --server http://127.0.0.1:8080 --store shop.db
  highwater verify --store shop.db --deep --repair --json       (HIGHWATER_SERVER is set)

It ends with 0 where both are the same, and with 3 where rows differ; with --repair, where some still do after it. \
What has changed at the server since the last pull is no difference. A daemon may write to the store meanwhile, \
unless rows are to be repaired.")]
    Verify(VerifyOptions),
    /// Say why a row is in the store or is not, and what to do.
    #[command(after_help = "Examples:
  highwater why product 7 --server http://127.0.0.1:8080 --store shop.db
  highwater why product id=7 --store shop.db                    (HIGHWATER_SERVER is set)
  highwater why stock shop=3,product=7 --store shop.db --json

It looks into the store, asks the server with the store's cursor, and tells what is the case. A daemon may write to \
the store meanwhile. It ends with 0 where that was answered, whatever the answer is, and with 1 where the server \
was not to be had: then it says what the store alone can say.")]
    Why(WhyOptions),
    /// Remove the rows of entities, so that the next pull is a full one. Tables and indexes stay.
    /// A damaged store is moved aside, and an empty one takes its place.
    #[command(after_help = "Examples:
  highwater reset --store shop.db
  highwater reset --store shop.db --entity product")]
    Reset(ResetOptions),
    /// Write completions for a shell to standard output.
    #[command(after_help = "Examples:
  highwater completions bash > /usr/share/bash-completion/completions/highwater
  highwater completions zsh > /usr/share/zsh/site-functions/_highwater
  highwater completions fish > ~/.config/fish/completions/highwater.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual, a page for each command, into a folder such as /usr/share/man/man1. For packagers.
    #[command(hide = true)]
    Man {
        /// The folder, made when it is missing.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StoreOption {
    /// The store: an SQLite file. A pull makes it when it is missing.
    #[arg(long, env = "HIGHWATER_STORE", value_name = "FILE")]
    pub(crate) store: PathBuf,
}

/// What every command that reaches the server takes.
#[derive(Debug, Args)]
pub(crate) struct ConnectionOptions {
    /// The server, such as <http://127.0.0.1:8080>.
    #[arg(long, env = "HIGHWATER_SERVER", value_name = "URL")]
    pub(crate) server: String,
    /// A file with the token to send, read again when the server refuses it; without it, the token
    /// is taken from `HIGHWATER_TOKEN`.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Send the token over plain HTTP to another machine, too. Anyone on the way can read it there.
    #[arg(long)]
    pub(crate) token_over_http: bool,
    /// A PEM file with the certificates of the authorities that may sign the server's, in place of
    /// those that the system knows.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// What this device is called: the server's operator sees by it which devices are behind. The host name
    /// when absent; with an empty one nothing is told.
    #[arg(long, env = "HIGHWATER_DEVICE", value_name = "NAME", value_parser = device)]
    pub(crate) device: Option<String>,
}

/// What every command takes that reaches the server for many rows.
#[derive(Debug, Args)]
pub(crate) struct ServerOptions {
    #[command(flatten)]
    pub(crate) connection: ConnectionOptions,
    /// An entity; may be given again, or several with commas. All when absent: of a pull those that the server offers.
    #[arg(long = "entity", value_name = "NAME", value_delimiter = ',', value_parser = entity)]
    pub(crate) entities: Vec<EntityName>,
    /// Say nothing but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What every command that pulls takes besides.
#[derive(Debug, Args)]
pub(crate) struct PagesOptions {
    /// A seed to begin a new store with: a file or an address. A store that is there is left as it is.
    #[arg(long, value_name = "FILE or URL")]
    pub(crate) seed: Option<SeedLocation>,
    /// The most rows in a page.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Keep deleted rows, with 1 in a column `deleted`.
    #[arg(long)]
    pub(crate) keep_deleted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) pages: PagesOptions,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) pages: PagesOptions,
    /// Pull at this interval, such as 30s or 500ms. Without it, changes arrive as they are committed.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(crate) interval: Option<Duration>,
    /// When the server can no longer serve the store's cursor, wait for a random part of this time first, so
    /// that a fleet does not arrive at once. The old rows stay readable meanwhile; 0s is no wait.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) resync_spread: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct SeedOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    /// The seed to write; one that is there is replaced when the new one is complete.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Say nothing but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Look again at this interval, 2s when none is given, and draw it anew in its place, until Ctrl-C.
    /// Where the output is no terminal, each look is printed below the last.
    #[arg(long, value_name = "INTERVAL", value_parser = interval, num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Replace the rows that differ, and nothing else. No other client may write to the store meanwhile.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Compare all values, not only keys and dates: what was edited in the store shows too.
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WhyOptions {
    /// The entity.
    #[arg(value_name = "ENTITY", value_parser = entity)]
    pub(crate) entity: EntityName,
    /// The key of the row: 7, id=7, a=1,b=x, or a JSON object.
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: AskedKey,
    #[command(flatten)]
    pub(crate) store: StoreOption,
    #[command(flatten)]
    pub(crate) connection: ConnectionOptions,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResetOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    /// An entity to reset; may be given again, or several with commas. All when absent.
    #[arg(long = "entity", value_name = "NAME", value_delimiter = ',', value_parser = entity)]
    pub(crate) entities: Vec<EntityName>,
    /// Say nothing but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

fn entity(text: &str) -> Result<EntityName, String> {
    if text.is_empty() {
        return Err("an entity's name is not empty".to_owned());
    }
    Ok(EntityName::new(text))
}

fn device(text: &str) -> Result<String, String> {
    if text.len() > DEVICE_NAME_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!(
            "a device's name has at most {DEVICE_NAME_BYTES_MAX} bytes, and no control characters"
        ));
    }
    Ok(text.to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("write a duration above zero, such as 30s".to_owned()),
        read => read,
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a duration such as 30s, 500ms or 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_status_is_watched_at_an_interval_of_ones_own_or_at_that_of_the_program() {
        let watch = |more: &[&str]| {
            let words = ["highwater", "status", "--store", "shop.db"];
            match Cli::try_parse_from(words.iter().chain(more)).unwrap().command {
                Command::Status(options) => options.watch,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(watch(&[]), None);
        assert_eq!(watch(&["--watch"]), Some(Duration::from_secs(2)));
        assert_eq!(watch(&["--watch", "--json"]), Some(Duration::from_secs(2)));
        assert_eq!(watch(&["--watch", "500ms"]), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_device_is_called_what_can_be_sent() {
        assert_eq!(device("Käse 7"), Ok("Käse 7".to_owned()));
        assert_eq!(device(""), Ok(String::new()));
        assert!(device("a\nb").is_err());
        assert!(device(&"x".repeat(DEVICE_NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("12h"), Ok(Duration::from_hours(12)));
        for bad in ["", "0s", "30", "soon", "-1s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("30").is_err());
    }
}
