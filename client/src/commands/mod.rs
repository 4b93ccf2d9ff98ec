//! The commands, and what those share that reach the server.

pub(crate) mod package;
pub(crate) mod pull;
pub(crate) mod reset;
pub(crate) mod run;
pub(crate) mod seed;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod why;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use highwater_client::{Client, ClientBuilder, PageApplied, Seeding, Token};
use tokio_util::sync::CancellationToken;

use crate::cli::{ConnectionOptions, PagesOptions, ServerOptions};

/// The environment variable that holds a token.
const TOKEN_VARIABLE: &str = "HIGHWATER_TOKEN";

/// What a page meant besides its rows, line by line: for indexes, triggers and views of the user's, and which entities
/// will have no other.
pub(crate) fn aside(page: &PageApplied) -> Vec<String> {
    let mut lines = Vec::new();
    for entity in &page.entities {
        let misfit = format!("does not fit the new columns of {}", entity.entity);
        for dropped in &entity.dropped {
            lines.push(format!("{dropped} {misfit}, and was dropped"));
        }
        for broken in &entity.broken {
            lines.push(format!(
                "{broken} {misfit}; it was kept, and cannot be read until it is mended"
            ));
        }
    }
    for entity in &page.withdrawn {
        lines.push(format!(
            "the server no longer offers {entity}; its table is kept up no more"
        ));
    }
    lines
}

/// A client as the options describe it.
fn client(options: &ServerOptions) -> ClientBuilder {
    connected(&options.connection).entities(options.entities.iter().cloned())
}

/// A client that reaches the server as the options describe it.
fn connected(options: &ConnectionOptions) -> ClientBuilder {
    let mut builder = Client::builder(&options.server)
        .token_over_http(options.token_over_http)
        .device(&device(options));
    if let Some(token) = token(options) {
        builder = builder.token(token);
    }
    if let Some(file) = &options.ca_cert {
        builder = builder.ca_cert(file);
    }
    builder
}

/// A client that pulls, as the options describe it.
fn pulling(options: &ServerOptions, pages: &PagesOptions) -> ClientBuilder {
    let builder = client(options).keep_deleted(pages.keep_deleted);
    match pages.limit {
        Some(limit) => builder.limit(limit),
        None => builder,
    }
}

/// Opens the store of a command, with its seed where one is named.
async fn open(
    builder: ClientBuilder,
    store: &Path,
    options: &PagesOptions,
    stop: &CancellationToken,
) -> Result<(Client, Seeding), highwater_client::Error> {
    match &options.seed {
        Some(seed) => builder.open_with_seed(store, seed, stop).await,
        None => Ok((builder.open(store)?, Seeding::NotNeeded)),
    }
}

/// What became of the seed, where there is something to say.
fn about_seed(seeding: &Seeding) -> Option<String> {
    match seeding {
        Seeding::Began { seed, .. } => {
            let as_of = seed
                .pulled_at
                .map_or(String::new(), |date| format!(" as of {date}"));
            Some(format!("began with {} rows{as_of} from the seed", seed.rows()))
        }
        Seeding::Refused(error) => Some(format!("{error}; doing without it")),
        _ => None,
    }
}

/// The name that was given, or else that of the host.
fn device(options: &ConnectionOptions) -> String {
    let host = || gethostname::gethostname().to_string_lossy().into_owned();
    options.device.clone().unwrap_or_else(host)
}

/// The file that is named, or else the token of the environment.
fn token(options: &ConnectionOptions) -> Option<Token> {
    let variable = || {
        std::env::var(TOKEN_VARIABLE)
            .ok()
            .filter(|token| !token.is_empty())
    };
    let file = options.token_file.clone().map(Token::File);
    file.or_else(|| variable().map(Token::Text))
}

/// Writes lines to standard output. Whoever closed it early has seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Sends the library's log lines to standard error.
fn log(level: tracing::Level) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
