//! What the demo sets up and takes down again: a Postgres, a server, a folder for the store.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use highwater_testbed::process::Signal;
use highwater_testbed::{Cluster, Database, Profile};
use sqlx::{Connection as _, PgConnection, PgPool};
use tempfile::TempDir;

use crate::programs::Serving;

/// The name of the database on a Postgres of our own.
const DATABASE: &str = "flights";
/// How long a server that was asked to stop may take to answer its last requests.
const SERVER_STOP_MAX: Duration = Duration::from_secs(10);

/// All that ends with the demo. The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) serving: Serving,
    pub(crate) postgres: Postgres,
}

impl Stage {
    /// Stops the server in order; what it works on goes after it.
    pub(crate) fn close(mut self) -> Result<()> {
        let server = &mut self.serving.process;
        // At a terminal, Ctrl-C has reached the server as well, and it may have ended.
        if server.try_wait()?.is_none() {
            server
                .signal(Signal::Terminate)
                .context("cannot stop the server")?;
            server.wait_up_to(SERVER_STOP_MAX)?;
        }
        Ok(())
    }
}

/// Where the tables are.
#[derive(Debug)]
pub(crate) enum Postgres {
    /// A Postgres of our own.
    Own(Cluster),
    /// A database of our own on the server that `DATABASE_URL` names.
    Given(Database),
}

impl Postgres {
    /// Whether `DATABASE_URL` names a server to use.
    pub(crate) fn is_given() -> bool {
        std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty())
    }

    pub(crate) async fn start() -> Result<Self> {
        if Self::is_given() {
            return Ok(Self::Given(Database::create("demo").await?));
        }
        // Starting blocks, and Ctrl-C shall be heard meanwhile.
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(Profile::Durable)).await??;
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
        sqlx::raw_sql("create database flights")
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(Self::Own(cluster))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Own(cluster) => cluster.url(DATABASE),
            Self::Given(database) => database.url(),
        }
    }

    pub(crate) async fn pool(&self) -> Result<PgPool> {
        PgPool::connect(&self.url())
            .await
            .context("cannot connect to the database")
    }
}

/// A database's URL for the screen, without its password.
pub(crate) fn shown_url(url: &str) -> String {
    let url = url.split('?').next().unwrap_or(url);
    let masked = || {
        let (scheme, rest) = url.split_once("://")?;
        let (account, place) = rest.rsplit_once('@')?;
        let (user, _) = account.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    masked().unwrap_or_else(|| url.to_owned())
}

/// The folder of the store. It goes when this is dropped, unless it was told to stay.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn create() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("highwater-demo-").tempdir();
        Ok(Self(folder.context("cannot make a folder for the store")?))
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.path().join("flights.db")
    }

    pub(crate) fn stay(&mut self) {
        self.0.disable_cleanup(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("postgres://a:secret@h:1/d", "postgres://a:***@h:1/d"),
            ("postgres://a:s@cret@h/d?password=x", "postgres://a:***@h/d"),
            ("postgres://a@127.0.0.1:1/d", "postgres://a@127.0.0.1:1/d"),
            ("postgres:///d?user=a&password=secret", "postgres:///d"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }
}
