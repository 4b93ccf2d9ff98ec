//! What the pages to come would send of one row, by the very statements that they are made of.
//!
//! Nothing is decided here that pages decide: the transaction begins as that of a page does, the plan is that of
//! a page, and each of its statements is run for the one key.

use futures_util::TryStreamExt as _;
use highwater_shared::{AnewReason, EntityName, NextPull, ResyncReason};

use super::conditions::RowKey;
use super::open::{self, LAGS, Look};
use super::plan::{self, Part, Plan, Standing};
use super::send::{self, Entry};
use super::sql;
use super::{Asked, Format, ReadError, Since, Takes};
use crate::caller::Caller;
use crate::cursor::{Cursor, Seen, Step};
use crate::database::{Connection, Moment};
use crate::entity::{Entity, PurgedAs};
use crate::node::Node;
use crate::scope::RescopedAs;

/// What devices take in place of all rows anew. That their scopes have changed is worth saying.
const TAKES: Takes = Takes {
    purged: PurgedAs::Keys,
    rescoped: RescopedAs::Resync,
};

/// One entity for one caller, whose transaction stands.
#[derive(Debug)]
pub(crate) struct Single {
    connection: Connection,
    look: Look,
    since: Since,
    resync: Option<ResyncReason>,
}

/// What the rest of a pull under way sends of a row, or the next that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// Why the entity begins anew in it, and has not yet begun.
    pub(crate) anew: Option<AnewReason>,
    pub(crate) brings: NextPull,
}

/// Begins: locks, snapshot and checks are those of a page.
pub(crate) async fn open_single(
    node: &Node,
    mut since: Since,
    caller: &Caller,
    entity: EntityName,
) -> Result<Single, ReadError> {
    let mut connection = node.connect().await?;
    match begin(&mut connection, node, &mut since, caller, entity).await {
        Ok((look, resync)) => Ok(Single {
            connection,
            look,
            since,
            resync,
        }),
        Err(error) => Err(open::refused(connection, error).await),
    }
}

async fn begin(
    connection: &mut Connection,
    node: &Node,
    since: &mut Since,
    caller: &Caller,
    entity: EntityName,
) -> Result<(Look, Option<ResyncReason>), ReadError> {
    let asked = Asked::These(vec![entity]);
    let (look, standing) = open::stand(connection, node, since, &asked, caller, TAKES).await?;
    let resync = match standing {
        Ok(Standing::Level) => None,
        Ok(Standing::Behind) => return Err(ReadError::Unavailable(LAGS.to_owned())),
        Err(ReadError::Resync { reason, .. }) => Some(reason),
        Err(error) => return Err(error),
    };
    if let Some(fault) = look.entities.iter().find_map(|entity| entity.fault.as_ref()) {
        return Err(ReadError::Unavailable(fault.to_string()));
    }
    *since = look.adopted(since).into_owned();
    Ok((look, resync))
}

impl Single {
    /// The entity.
    pub(crate) fn entity(&self) -> Result<&Entity, ReadError> {
        // It was asked for by its name, and would have been refused.
        let first = self.look.entities.first();
        first.ok_or(ReadError::Postgres(sqlx::Error::RowNotFound))
    }

    /// The scopes of it that the caller may see; `None` for all.
    pub(crate) fn scopes(&self) -> Option<&[String]> {
        let entity = self.look.entities.first()?;
        self.look.limits.of(entity.covered.number)
    }

    /// Why the cursor cannot be served.
    pub(crate) fn resync(&self) -> Option<ResyncReason> {
        self.resync
    }

    /// Where the transaction stands in the history of its source.
    pub(crate) fn moment(&self) -> &Moment {
        &self.look.moment
    }

    /// The connection, in the transaction.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What comes of a row: with what is left of a pull under way, where there is one, and with the
    /// round that follows. After a 410 that is one without `since`.
    pub(crate) async fn rounds(&mut self, key: &RowKey) -> Result<Vec<Round>, ReadError> {
        let since = match self.resync {
            Some(_) => Since::Nothing,
            None => self.since.clone(),
        };
        let plan = self.look.plan(&since, TAKES.purged);
        let mut rounds = vec![self.round(&plan, &since, key).await?];
        if let (false, Since::Cursor(cursor)) = (plan.fresh, &since) {
            let seen = Seen::Snapshot(plan.seen_at_end());
            self.look.again(&mut self.connection, &seen).await?;
            let next = Since::Cursor(Box::new(Cursor {
                seen,
                covered: plan.pulled,
                pull: None,
                ..(**cursor).clone()
            }));
            let plan = self.look.plan(&next, TAKES.purged);
            rounds.push(self.round(&plan, &next, key).await?);
        }
        Ok(rounds)
    }

    /// Ends the transaction.
    pub(crate) async fn end(self) -> Result<(), ReadError> {
        Ok(self.connection.let_go().await?)
    }

    async fn round(&mut self, plan: &Plan, since: &Since, key: &RowKey) -> Result<Round, ReadError> {
        let mut round = Round {
            anew: None,
            brings: NextPull::Nothing,
        };
        let (seen, covered) = plan::seen(since);
        for part in &plan.parts {
            if part.anew && part.from.is_none() {
                let entity = self.entity()?;
                let reason = entity.anew_reason(&seen, covered, TAKES.purged);
                round.anew = reason.or(Some(AnewReason::Truncated));
            }
            // What comes later holds.
            if let Some(step) = self.last_sent(plan, part, key).await? {
                round.brings = match step {
                    Step::Anew | Step::Rows => NextPull::Row,
                    Step::Tombstones | Step::Flagged | Step::Purged => NextPull::Deletion,
                };
            }
        }
        Ok(round)
    }

    /// The last step in which a part sends the row or its deletion.
    async fn last_sent(&mut self, plan: &Plan, part: &Part, key: &RowKey) -> Result<Option<Step>, ReadError> {
        let Self { connection, look, .. } = self;
        let Some(entity) = look.entities.get(part.entity) else {
            return Ok(None);
        };
        let all = look.limits.of(entity.covered.number);
        let mut sent = None;
        for (step, scopes) in send::steps(part, look.delta.get(&entity.covered.number), all) {
            for (place, ranges) in scopes {
                let Entry::Open(at) = send::resumed(part, step, place) else {
                    continue;
                };
                for range in &ranges {
                    let Entry::Open(after) = send::entry(range, at) else {
                        continue;
                    };
                    let part = sql::Part {
                        entity,
                        step,
                        scope: send::in_scope(all, place),
                        range,
                        after,
                        target: plan.bound(),
                        next_xid: look.moment.next_xid,
                        only: Some(key),
                    };
                    // A cursor with a NUL was not made here, nor is there a key with one.
                    let statement =
                        sql::statement(part, Format::Copy, 1).map_err(|_| ReadError::BadPosition)?;
                    if has_lines(connection, &statement.text)
                        .await
                        .map_err(|error| send::blame(error, entity, step, after))?
                    {
                        sent = Some(step);
                    }
                }
            }
        }
        Ok(sent)
    }
}

/// Whether a `copy` to standard output sends anything.
async fn has_lines(connection: &mut Connection, statement: &str) -> Result<bool, ReadError> {
    let mut lines = connection.get()?.copy_out_raw(statement).await?;
    let mut any = false;
    // The end must be read.
    while lines.try_next().await?.is_some() {
        any = true;
    }
    Ok(any)
}
