//! Who may call: the options of `serve` that say so, and `key new`.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are read on a terminal, not as Markdown"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use highwater_server::auth::{
    self, AuthOptions, Authenticator, NewKey, TokenAlgorithm, TokenKeys, TokenOptions,
};
use highwater_server::caller::Grant;
use highwater_shared::{EntityName, Timestamp};
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

/// How callers of `serve` say who they are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Callers")]
pub(crate) struct Callers {
    /// The file with the API keys of callers, as `key new` writes it. It is read again when it changes, and on SIGHUP
    #[arg(long, env = "HIGHWATER_API_KEYS", value_name = "FILE")]
    api_keys: Option<PathBuf>,

    /// The keys that sign the tokens of callers (JWT): a JSON Web Key Set, at an https address or in a file
    #[arg(
        long,
        env = "HIGHWATER_JWT_JWKS",
        value_name = "URL-OR-FILE",
        group = "jwt_keys"
    )]
    jwt_jwks: Option<String>,

    /// Secrets shared with the issuer of tokens, one a line, of 32 bytes or more; the algorithm is HS256
    #[arg(
        long,
        env = "HIGHWATER_JWT_SECRET_FILE",
        value_name = "FILE",
        group = "jwt_keys"
    )]
    jwt_secret_file: Option<PathBuf>,

    /// Take tokens by this algorithm only; repeatable [default: RS256, ES256 and EdDSA with a JWKS]
    #[arg(long, value_name = "ALGORITHM", value_enum, requires = "jwt_keys")]
    jwt_algorithm: Vec<Algorithm>,

    /// Take tokens for this audience (aud) only; repeatable
    #[arg(
        long,
        env = "HIGHWATER_JWT_AUDIENCE",
        value_name = "AUDIENCE",
        requires = "jwt_keys"
    )]
    jwt_audience: Vec<String>,

    /// Take tokens of this issuer (iss) only; repeatable
    #[arg(
        long,
        env = "HIGHWATER_JWT_ISSUER",
        value_name = "ISSUER",
        requires = "jwt_keys"
    )]
    jwt_issuer: Vec<String>,

    /// Let whoever reaches the address read everything, where others can reach it and no keys are given
    #[arg(long)]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Algorithm {
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "EdDSA")]
    EdDsa,
    #[value(name = "HS256")]
    Hs256,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Adds a key to the file and prints it, once: the file holds no more than a hash of it
    #[command(after_help = "Examples:
  highwater-server key new --api-keys keys --name till-7
  highwater-server key new --api-keys keys --name till-7 --entity product --scope tenant_id=7 --expires 90d
  highwater-server key new --api-keys keys --name anna --operator

The key goes to standard output, and everything else to standard error. Servers that read the file know the key within a second. To take it back, remove its line.")]
    New(New),
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The file, made where it is missing
    #[arg(long, env = "HIGHWATER_API_KEYS", value_name = "FILE")]
    api_keys: PathBuf,

    /// Whom the key is for; the log names callers so
    #[arg(long)]
    name: String,

    /// An entity that may be read; repeatable, or with commas [default: all]
    #[arg(long, value_name = "ENTITY", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    entity: Vec<String>,

    /// Rows that may be seen of entities with this scope column; repeatable [default: none of them]
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = scope)]
    scope: Vec<(String, String)>,

    /// The page at / and its data are for this key too: how the server, its entities and all devices fare. No row more
    #[arg(long)]
    operator: bool,

    /// When the key expires, from now: 90d, 12h [default: never]
    #[arg(long, value_name = "DURATION", value_parser = validity)]
    expires: Option<Duration>,
}

/// Reads for how long a key is good.
fn validity(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("the key would be good for nothing".to_owned()),
        read => read.map_err(|error| error.to_string()),
    }
}

/// Reads a value of a scope column.
pub(crate) fn scope(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_owned(), value.to_owned())),
        _ => Err("it is not written COLUMN=VALUE"),
    }
}

/// Values by their scope column.
pub(crate) fn scopes(values: Vec<(String, String)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut scopes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (column, value) in values {
        scopes.entry(column).or_default().insert(value);
    }
    scopes
}

impl Callers {
    /// Reads the keys that were chosen. `None` where nobody is to be asked who they are, which is
    /// refused where others can reach the address, unless it was asked for.
    pub(crate) async fn authenticator(
        self,
        listen: SocketAddr,
    ) -> anyhow::Result<Option<Arc<Authenticator>>> {
        let insecure = self.insecure;
        let Some(options) = self.options() else {
            if listen.ip().is_loopback() {
                return Ok(None);
            }
            if !insecure {
                bail!(
                    "{listen} can be reached by others, and nothing says who may call: give --api-keys, --jwt-jwks \
                     or --jwt-secret-file, listen on 127.0.0.1, or say --insecure"
                );
            }
            tracing::warn!(address = %listen, "--insecure: whoever reaches this address reads every entity");
            return Ok(None);
        };
        if insecure {
            tracing::warn!("--insecure does nothing here: callers are asked who they are");
        }
        if let Some(tokens) = &options.tokens
            && tokens.audiences.is_empty()
            && !matches!(tokens.keys, TokenKeys::Secrets(_))
        {
            tracing::warn!(
                "without --jwt-audience, tokens that were issued for other services are taken too"
            );
        }
        let authenticator = Authenticator::open(options)
            .await
            .context("cannot tell who callers are")?;
        Ok(Some(Arc::new(authenticator)))
    }

    fn options(self) -> Option<AuthOptions> {
        let keys = match (self.jwt_jwks, self.jwt_secret_file) {
            (Some(jwks), _) => match Url::parse(&jwks) {
                Ok(url) if url.has_host() => Some(TokenKeys::Url(url)),
                _ => Some(TokenKeys::File(jwks.into())),
            },
            (None, Some(path)) => Some(TokenKeys::Secrets(path)),
            (None, None) => None,
        };
        let tokens = keys.map(|keys| TokenOptions {
            keys,
            algorithms: self.jwt_algorithm.into_iter().map(Algorithm::chosen).collect(),
            audiences: self.jwt_audience,
            issuers: self.jwt_issuer,
        });
        (self.api_keys.is_some() || tokens.is_some()).then_some(AuthOptions {
            api_keys: self.api_keys,
            tokens,
        })
    }
}

impl Algorithm {
    fn chosen(self) -> TokenAlgorithm {
        match self {
            Self::Rs256 => TokenAlgorithm::Rs256,
            Self::Es256 => TokenAlgorithm::Es256,
            Self::EdDsa => TokenAlgorithm::EdDsa,
            Self::Hs256 => TokenAlgorithm::Hs256,
        }
    }
}

/// Has the keys read again on SIGHUP.
pub(crate) fn reload_on_hangup(authenticator: Arc<Authenticator>) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: keys are read again");
            authenticator.reload();
        }
    });
    Ok(())
}

pub(crate) fn key(command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::New(new) = command;
    let scopes = scopes(new.scope);
    let expires = new
        .expires
        .map(|after| {
            let expires = chrono::Duration::from_std(after)
                .ok()
                .and_then(|after| chrono::Utc::now().checked_add_signed(after))
                .and_then(|date| Timestamp::checked_from_micros(date.timestamp_micros()));
            expires.context("--expires lies beyond the year 9999")
        })
        .transpose()?;
    let names: BTreeSet<EntityName> = new.entity.into_iter().map(EntityName::new).collect();
    let key = auth::add_key(
        &new.api_keys,
        &NewKey {
            grant: Grant {
                name: new.name.clone(),
                entities: (!names.is_empty()).then(|| Arc::new(names)),
                scopes,
                is_operator: new.operator,
            },
            expires,
        },
    )
    .context("the key was not made")?;
    writeln!(io::stdout(), "{key}").context("the key cannot be printed; remove its line from the file")?;
    let until = expires.map_or("does not expire".to_owned(), |date| format!("expires at {date}"));
    let file = new.api_keys.display();
    let _ = writeln!(
        io::stderr(),
        "The key of {:?} is in {file} and {until}. It is not shown again.",
        new.name
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn callers(more: &[&str]) -> Result<Callers, clap::Error> {
        let words = ["highwater-server", "serve", "--database-url", "postgres://h/d"];
        match Cli::try_parse_from(words.iter().chain(more))?.command {
            Command::Serve(serve) => Ok(serve.callers),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_and_a_file_of_keys_are_told_apart() {
        let keys = |text: &str| {
            callers(&["--jwt-jwks", text])
                .unwrap()
                .options()
                .unwrap()
                .tokens
                .unwrap()
                .keys
        };
        assert!(matches!(keys("https://issuer.example/keys"), TokenKeys::Url(_)));
        for file in ["keys.json", "/etc/keys.json", "./https:/x", "a:b"] {
            assert!(matches!(keys(file), TokenKeys::File(_)), "{file}");
        }
    }

    #[test]
    fn what_is_said_of_tokens_needs_keys_of_one_kind() {
        for wrong in [
            &["--jwt-audience", "a"][..],
            &["--jwt-algorithm", "RS256"],
            &["--jwt-jwks", "f", "--jwt-algorithm", "none"],
            &["--jwt-jwks", "f", "--jwt-secret-file", "g"],
        ] {
            assert!(callers(wrong).is_err(), "{wrong:?}");
        }
        assert!(callers(&[]).unwrap().options().is_none());
        assert!(callers(&["--api-keys", "f"]).unwrap().options().is_some());
    }
}
