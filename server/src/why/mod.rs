//! "Why does this device not have that row?" Answers the question of everyone who supports devices.
//!
//! `read` finds out what there is of the row, in one transaction that begins as that of a page does, and what
//! the pages to come send of it; `decide` tells which of the outcomes that is; `words` says it.

mod decide;
mod read;
mod words;

use highwater_shared::{EntityName, Why};
use sqlx::{AssertSqlSafe, Row as _};

pub use self::read::{AskedKey, NoKey};
use crate::caller::Caller;
use crate::database::sqlstate;
use crate::node::Node;
use crate::page::{ReadError, Since};
use crate::quoting::literal;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// What the device has: its cursor, or a date. `None` asks about the row itself.
    pub since: Option<Since>,
    /// Whose device it is, and so what it may see.
    pub caller: Caller,
    /// Who hears the answer.
    pub hearer: Hearer,
    /// The entity.
    pub entity: EntityName,
    /// The key of the row.
    pub key: AskedKey,
}

/// Who hears an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearer {
    /// The caller itself, who must not learn of what it may not see: a row of another scope is to it one that
    /// does not exist.
    Caller,
    /// Who runs the server, and may know all.
    Operator,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// 400: this is no key of the entity.
    #[error("{0}")]
    InvalidKey(String),
    /// As with a page that cannot be had.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<sqlx::Error> for WhyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Read(error.into())
    }
}

/// Answers a question.
pub async fn why(node: &Node, question: Question) -> Result<Why, WhyError> {
    let found = read::read(node, &question).await?;
    let decision = decide::decide(&found.facts);
    let (what, remedy) = words::say(&found, &decision, &question);
    Ok(Why {
        entity: question.entity,
        key: found.key_json,
        outcome: decision.outcome,
        next_pull: decision.next_pull,
        reason: decision.reason,
        changed_date: decision.changed_date,
        deleted_by: decision.deleted_by,
        scope: decision.scope,
        writing: decision.writing,
        what,
        remedy,
    })
}

/// The entity of this name, or else that of the table which SQL calls so.
pub async fn entity_of(node: &Node, name_or_table: &str) -> Result<Option<EntityName>, sqlx::Error> {
    let mut connection = node.connect().await?;
    let listed = node.catalog.read(&mut connection).await?;
    let name = EntityName::new(name_or_table);
    if listed.entities.iter().any(|entity| entity.name == name) {
        connection.give_back();
        return Ok(Some(name));
    }
    // In one message and no transaction: a table is found as the role that asks would find it.
    let Ok(quoted) = literal(name_or_table) else {
        connection.give_back();
        return Ok(None);
    };
    let asked = format!("select e.name from highwater.entity e where e.relation = to_regclass({quoted})");
    let found = sqlx::raw_sql(AssertSqlSafe(asked))
        .fetch_optional(connection.get()?)
        .await;
    let name = match found {
        Ok(Some(row)) => Some(EntityName::new(row.try_get::<String, _>(0)?)),
        Ok(None) => None,
        // Not the name of a table either.
        Err(error) if sqlstate(&error).is_some_and(|code| code.starts_with("42")) => None,
        Err(error) => return Err(error),
    };
    connection.give_back();
    Ok(name)
}
