//! Poolers between this program and Postgres, such as PgBouncer, which may lend a connection to Postgres for one
//! transaction only.
//!
//! Then no statement can stay prepared: the next transaction may be on another connection. So pages do
//! everything inside of their transactions or in single messages, and nothing is kept in a session. What
//! is left is whether statements are kept prepared, which is worth much where there is no pooler.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, Row};

/// What the address of a Postgres begins with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// How often two connections are compared. One comparison misses a pooler only if others use it at that moment.
const COMPARISONS: u32 = 8;

/// How to connect to the database at an address. Poolers refuse settings that they do not know, and what
/// has to print exactly is set in every transaction.
///
/// # Errors
///
/// [`sqlx::Error::Configuration`] for what is no address of a Postgres.
pub fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        let what =
            "an address of a database begins with postgres://, such as postgres://postgres@localhost/shop";
        return Err(sqlx::Error::Configuration(what.into()));
    }
    let options: PgConnectOptions = url.parse()?;
    Ok(options.extra_float_digits(None))
}

/// Where the database is, for people.
pub fn place(options: &PgConnectOptions) -> String {
    let port = options.get_port();
    match options.get_socket() {
        Some(folder) => format!("{}, port {port}", folder.display()),
        None => format!("{}:{port}", options.get_host()),
    }
}

/// Whether two connections come to share one process of Postgres while both are open, or one of them changes its
/// own. Without a pooler neither can be.
pub async fn lends_connections(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut one = PgConnection::connect_with(options).await?;
    let mut other = PgConnection::connect_with(options).await?;
    let first = process(&mut one).await?;
    let mut lends = false;
    for _ in 0..COMPARISONS {
        let (same, apart) = (process(&mut one).await?, process(&mut other).await?);
        if same != first || apart == first {
            lends = true;
            break;
        }
    }
    one.close().await?;
    other.close().await?;
    Ok(lends)
}

async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    let process: i32 = row.try_get(0)?;
    Ok(process)
}
