//! Who a caller is: by an API key from a file (`keys`), or by a JSON Web Token (`jwt`, with the
//! issuer's keys from `jwks`). What is read from files or an address is renewed while the server
//! runs (`watched`, `fetched`). Nothing here knows HTTP as a server, and no secret shows in `Debug`
//! or in the log.

mod fetched;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod jwks;
mod jwt;
mod key_file;
mod keys;
mod watched;

use std::collections::BTreeSet;
use std::path::PathBuf;

use highwater_shared::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::fetched::FetchFault;
pub use self::jwt::{TokenAlgorithm, TokenKeys, TokenOptions};
pub use self::key_file::{NewKey, add_key};
pub use self::watched::FileFault;

use self::jwt::Tokens;
use self::keys::{KEY_PREFIX, Keys};
use self::watched::Watched;
use crate::caller::Caller;

/// The longest key or token that is looked at.
const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

/// The largest file of API keys.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Tells who callers are.
#[derive(Debug)]
pub struct Authenticator {
    keys: Option<Watched<Keys>>,
    tokens: Option<Tokens>,
}

/// How callers may say who they are.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// The file of API keys.
    pub api_keys: Option<PathBuf>,
    /// How tokens are verified.
    pub tokens: Option<TokenOptions>,
}

/// Why callers cannot be told apart: what is wrong with an option, a file or an address.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file cannot be read, or is not what it should be.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: FileFault,
    },
    /// The issuer's keys cannot be fetched.
    #[error("cannot fetch the keys of tokens from {url}")]
    Fetch {
        /// The address.
        url: url::Url,
        /// Why not.
        #[source]
        fault: FetchFault,
    },
    /// An option has a value that cannot be.
    #[error("{0}")]
    Option(String),
}

/// Why a caller is not let in. None says anything of the credential itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It cannot be the key or token of anybody.
    #[error("{0}")]
    Invalid(&'static str),
    /// A key of the file with another secret.
    #[error("the secret is not that of the key {0:?}")]
    WrongSecret(String),
    /// It was good until lately.
    #[error("the key or token of {0:?} has expired")]
    Expired(String),
    /// It is good from a later date on.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The keys that would tell could not be fetched.
    #[error("the issuer's keys could not be fetched, and none of those known signed the token")]
    KeysUnknown,
}

impl Authenticator {
    /// Reads the files and fetches the keys. Options without any way to tell who calls are an error.
    pub async fn open(options: AuthOptions) -> Result<Self, AuthError> {
        if options.api_keys.is_none() && options.tokens.is_none() {
            return Err(AuthError::Option(
                "there is no file of API keys, and no keys for tokens".to_owned(),
            ));
        }
        let keys = match options.api_keys {
            Some(path) => Some(Watched::open(path, KEY_FILE_BYTES_MAX, keys::read).await?),
            None => None,
        };
        let tokens = match options.tokens {
            Some(options) => Some(Tokens::open(options).await?),
            None => None,
        };
        Ok(Self { keys, tokens })
    }

    /// Who presents this key or token at this time.
    pub async fn caller(&self, credential: &str, now: Timestamp) -> Result<Caller, Denied> {
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(Denied::Invalid("it is too long for a key or token"));
        }
        if let Some(key) = credential.strip_prefix(KEY_PREFIX) {
            let Some(keys) = &self.keys else {
                return Err(Denied::Invalid("an API key, and no file of API keys is read"));
            };
            return keys.now().caller(key, now);
        }
        match &self.tokens {
            Some(tokens) => tokens.caller(credential).await,
            None => Err(Denied::Invalid("it is no API key")),
        }
    }

    /// Keeps what was read up to date, until told to stop.
    pub async fn watch(&self, stop: &CancellationToken) {
        let keys = async {
            if let Some(keys) = &self.keys {
                keys.watch(stop).await;
            }
        };
        let tokens = async {
            if let Some(tokens) = &self.tokens {
                tokens.watch(stop).await;
            }
        };
        tokio::join!(keys, tokens);
    }

    /// Has everything read anew at once. What is wrong by now leaves what was known before.
    pub fn reload(&self) {
        if let Some(keys) = &self.keys {
            keys.reload();
        }
        if let Some(tokens) = &self.tokens {
            tokens.reload();
        }
    }
}

/// The values that JSON gives for a scope column, as Postgres prints them: text or a whole number,
/// or an array of those. `None` where it gives something else, such as text with a NUL, which Postgres
/// does not have.
fn scope_values(json: &Value) -> Option<BTreeSet<String>> {
    let one = |json: &Value| match json {
        Value::String(text) => (!text.contains('\0')).then(|| text.clone()),
        // Others can be written in several ways, of which Postgres prints one.
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    };
    match json {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Some([one(value)?].into()),
    }
}
