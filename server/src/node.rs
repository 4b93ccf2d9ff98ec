//! The Postgres that this server reads from, a primary or a standby, and what is remembered of it.

use std::sync::{Mutex, PoisonError};

use sqlx::PgPool;

use crate::catalog::Catalog;
use crate::database::Connection;
use crate::standby::Claim;

/// A Postgres to read from.
#[derive(Debug)]
pub struct Node {
    pool: PgPool,
    /// The entities, as they were described last.
    pub(crate) catalog: Catalog,
    /// What a standby could claim last; `None` as long as only a primary has been met.
    claim: Mutex<Option<Claim>>,
}

impl Node {
    /// The Postgres that the pool leads to.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            catalog: Catalog::default(),
            claim: Mutex::default(),
        }
    }

    /// Takes a connection.
    pub async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Connection::acquire(&self.pool).await
    }

    /// Whether it was a standby when it was met last.
    pub(crate) fn is_standby(&self) -> bool {
        self.last_claim().is_some()
    }

    /// What a standby could claim last.
    pub(crate) fn last_claim(&self) -> Option<Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what a standby can claim, so that the next claim need not ask for every id again, or
    /// that it is none.
    pub(crate) fn remember(&self, claim: Option<Claim>) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }
}
