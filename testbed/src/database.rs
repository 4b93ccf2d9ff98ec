//! A fresh database for one test, dropped at its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;

use crate::Result;
use crate::server::{Server, shared_server};

const POOL_CONNECTIONS_MAX: u32 = 10;

/// The templates of this process by name: each cell holds the name of its database once that is ready.
static TEMPLATES: Mutex<Option<HashMap<String, Arc<OnceCell<String>>>>> = Mutex::new(None);

/// A database of one's own on the [`shared_server`], dropped together with the connections to it when
/// this is dropped.
#[derive(Debug)]
pub struct Database {
    name: String,
    server: &'static Server,
}

impl Database {
    /// Makes an empty database. The label, such as the test's name, is for the eyes of people only.
    pub async fn create(label: &str) -> Result<Self> {
        // Nobody is ever connected to template0, so it can always be copied.
        Self::copy(shared_server()?, label, "template0").await
    }

    /// Makes an empty database in another encoding than UTF-8, such as `LATIN1`.
    pub async fn create_encoded(label: &str, encoding: &str) -> Result<Self> {
        let server = shared_server()?;
        let name = server.create(label, "template0", Some(encoding)).await?;
        Ok(Self { name, server })
    }

    /// Makes a database as a copy of one that `prepare` has filled once in this process.
    ///
    /// `prepare` is given the URL of an empty database. Connections that it leaves open are cut.
    ///
    /// ```no_run
    /// # async fn example() -> highwater_testbed::Result<()> {
    /// use highwater_testbed::{Database, flights};
    ///
    /// let database = Database::from_template("flights", |url| async move {
    ///     let pool = sqlx::PgPool::connect(&url).await?;
    ///     flights::load(&pool, flights::Months::January).await?;
    ///     Ok(())
    /// });
    /// let pool = database.await?.pool().await?;
    /// # Ok(()) }
    /// ```
    pub async fn from_template<F, Prepared>(template: &str, prepare: F) -> Result<Self>
    where
        F: FnOnce(String) -> Prepared,
        Prepared: Future<Output = Result<()>>,
    {
        let server = shared_server()?;
        let cell = {
            let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(
                templates
                    .get_or_insert_default()
                    .entry(template.to_owned())
                    .or_default(),
            )
        };
        let name = cell.get_or_try_init(|| async {
            let filled = Self::copy(server, &format!("template_{template}"), "template0").await?;
            prepare(filled.url())
                .await
                .with_context(|| format!("cannot prepare the template {template}"))?;
            server.seal(filled.name()).await?;
            anyhow::Ok(filled.keep())
        });
        Self::copy(server, template, name.await?).await
    }

    /// The URL to give to programs.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new pool of connections.
    pub async fn pool(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        pool.connect(&self.url())
            .await
            .with_context(|| format!("cannot connect to {}", self.name))
    }

    /// A single new connection.
    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url())
            .await
            .with_context(|| format!("cannot connect to {}", self.name))
    }

    async fn copy(server: &'static Server, label: &str, template: &str) -> Result<Self> {
        let name = server.create(label, template, None).await?;
        Ok(Self { name, server })
    }

    /// Leaves the database on the server and returns its name.
    fn keep(mut self) -> String {
        std::mem::take(&mut self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.server.drop_database(&self.name);
        }
    }
}
