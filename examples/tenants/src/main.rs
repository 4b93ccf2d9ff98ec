//! Signs a token that lets its bearer have the rows of one tenant: what an application's login does, once
//! it knows who it is talking to. README.md beside it has the rest.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Parser;
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::json;

/// How long a token is good for. A device asks for a new one in time, and a person who has left
/// keeps the old one for no longer than this.
const TOKEN_SECONDS: u64 = 3_600;

/// A shared secret that is shorter can be guessed from any token.
const SECRET_BYTES_MIN: usize = 32;

/// Signs a token for a device of a tenant.
#[derive(Parser)]
#[command(after_help = "Example:
  highwater-example-tenants --secret-file secret --tenant 7 --device till-1 > token")]
struct Options {
    /// The secret that the server knows too (`highwater-server serve --jwt-secret-file`)
    #[arg(long)]
    secret_file: PathBuf,
    /// The tenant
    #[arg(long)]
    tenant: i64,
    /// The device, for the server's log
    #[arg(long)]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let secret = fs::read_to_string(&options.secret_file)
        .with_context(|| format!("cannot read {}", options.secret_file.display()))?;
    let secret = secret.trim();
    ensure!(
        secret.len() >= SECRET_BYTES_MIN,
        "the secret is shorter than {SECRET_BYTES_MIN} bytes"
    );
    // The claim has the name of the scope's column. Who the caller is, the application must know from
    // elsewhere: a tenant that the caller may write here by itself protects nothing.
    let claims = json!({
        "sub": options.device,
        "exp": get_current_timestamp() + TOKEN_SECONDS,
        "tenant_id": options.tenant,
        "entities": ["orders"],
    });
    let token = encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )?;
    writeln!(std::io::stdout(), "{token}")?;
    Ok(())
}
