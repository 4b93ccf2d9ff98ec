//! Begins a page: the locks, then the snapshot, then the decision what is to be sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use highwater_shared::{EntityName, Trailer};
use sqlx::AssertSqlSafe;

use super::delta::{self, Delta};
use super::plan::{self, Evidence, Plan, Sight, Standing};
use super::probe::{self, Probed};
use super::{Asked, PageRequest, ReadError, Since, Takes};
use crate::caller::Caller;
use crate::catalog::Described;
use crate::cursor::{Cursor, Seen};
use crate::database::{Connection, LogEnd, Moment, sqlstate};
use crate::entity::{Entity, PurgedAs};
use crate::lineage::Lineage;
use crate::node::Node;
use crate::samples;
use crate::scope::{Limits, RescopedAs};
use crate::snapshot::{Snapshot, Xid};
use crate::{timeline, unprepared};

/// How often a page is begun because tables were altered meanwhile.
const ATTEMPTS_MAX: usize = 4;

/// Postgres' code for what a role may not do.
const NO_RIGHT: &str = "42501";

/// What is said where a cursor has seen more than this Postgres has, and nothing can be answered for that.
pub(super) const LAGS: &str = "this Postgres lags behind what the cursor has seen; try again";

/// A page whose transaction stands, and of which nothing has been sent.
#[derive(Debug)]
pub struct OpenPage {
    pub(super) connection: Connection,
    pub(super) request: PageRequest,
    pub(super) moment: Moment,
    pub(super) entities: Vec<Entity>,
    pub(super) plan: Plan,
    /// By the entity's number.
    pub(super) delta: HashMap<i32, Delta>,
    /// What the caller may see.
    pub(super) limits: Limits,
    /// What `entities` were selected from.
    pub(super) described: Arc<Described>,
}

/// A page, where there is one.
#[derive(Debug)]
pub enum Opened {
    /// It can be sent.
    Page(Box<OpenPage>),
    /// This Postgres lags behind the caller, whose cursor comes back as it was.
    Behind(Trailer),
}

impl OpenPage {
    /// Whether it would hold no changes. Of a pull under way this is not known.
    pub fn is_empty(&self) -> bool {
        let holds_any = |part: &plan::Part| {
            let entity = self.entities.get(part.entity);
            let delta = entity.and_then(|entity| self.delta.get(&entity.covered.number));
            part.tells_more() || delta.is_some_and(Delta::holds_any)
        };
        self.plan.fresh && !self.plan.parts.iter().any(holds_any)
    }

    /// What its caller may see.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it has seen.
    pub fn snapshot(&self) -> &Snapshot {
        &self.moment.snapshot
    }

    /// Ends it without sending anything.
    pub async fn let_go(self) -> Result<(), ReadError> {
        Ok(self.connection.let_go().await?)
    }
}

/// Begins a page: locks, snapshot, checks, plan.
pub async fn open(node: &Node, mut request: PageRequest) -> Result<Opened, ReadError> {
    let mut connection = node.connect().await?;
    match begin(&mut connection, node, &mut request).await {
        Ok(Ok((look, plan))) => Ok(Opened::Page(Box::new(OpenPage {
            connection,
            request,
            moment: look.moment,
            entities: look.entities,
            plan,
            delta: look.delta,
            limits: look.limits,
            described: look.described,
        }))),
        Ok(Err(trailer)) => {
            connection.let_go().await?;
            Ok(Opened::Behind(trailer))
        }
        Err(error) => Err(refused(connection, error).await),
    }
}

/// Lets go of the connection of what is refused. Where Postgres failed it may be in the middle of something, and is
/// closed.
pub(super) async fn refused(connection: Connection, error: ReadError) -> ReadError {
    match error {
        ReadError::Postgres(_) => error,
        refused => connection.let_go().await.err().map_or(refused, ReadError::from),
    }
}

/// What is to be sent, or what a caller is answered who is ahead of this Postgres.
async fn begin(
    connection: &mut Connection,
    node: &Node,
    request: &mut PageRequest,
) -> Result<Result<(Look, Plan), Trailer>, ReadError> {
    let (since, asked) = (&request.since, &request.entities);
    let (mut look, standing) = stand(connection, node, since, asked, &request.caller, request.takes).await?;
    let mut standing = standing?;
    for held in &request.held {
        let evidence = evidence(connection, held, &look).await?;
        let sight = Sight {
            is_asked: &|number| look.has(number),
            limits: &look.limits,
            rescoped: RescopedAs::Resync,
        };
        let held = plan::check_cursor(held, &look.moment, &evidence, sight)?;
        if held == Standing::Behind {
            standing = Standing::Behind;
        }
    }
    if standing == Standing::Behind {
        if !request.held.is_empty() {
            // There is no one cursor that it could be told to stay at.
            return Err(ReadError::Unavailable(LAGS.to_owned()));
        }
        return behind(since, &look.entities).map(Err);
    }
    if let Some(fault) = look.entities.iter().find_map(|entity| entity.fault.as_ref()) {
        if !request.entities.needed().is_empty() {
            return Err(ReadError::Unavailable(fault.to_string()));
        }
        tracing::warn!(%fault, "an entity is left out");
        look.entities.retain(|entity| entity.fault.is_none());
    }
    request.since = look.adopted(&request.since).into_owned();
    let plan = look.plan(&request.since, request.takes.purged);
    Ok(Ok((look, plan)))
}

/// Begins the transaction, and tells what there is and how this Postgres stands to what the caller has.
pub(super) async fn stand(
    connection: &mut Connection,
    node: &Node,
    since: &Since,
    asked: &Asked,
    caller: &Caller,
    takes: Takes,
) -> Result<(Look, Result<Standing, ReadError>), ReadError> {
    let (seen, _) = plan::seen(since);
    let goes_on = |entity: &Entity, lineage: &Lineage| {
        let since = lineage.adopted(since);
        let (_, covered) = plan::seen(&since);
        !entity.begins_anew(&seen, covered, takes.purged)
    };
    let look = look_at(connection, node, asked, &seen, Some(caller), goes_on).await?;
    let evidence = match since {
        Since::Cursor(cursor) => evidence(connection, cursor, &look).await?,
        Since::Nothing | Since::Date(_) => Evidence::default(),
    };
    let can_tell = |entity: &Entity| entity.scope.as_ref().is_none_or(|scope| scope.is_told);
    let rescoped = match takes.rescoped {
        RescopedAs::Rows if look.entities.iter().all(can_tell) => RescopedAs::Rows,
        RescopedAs::Rows | RescopedAs::Resync => RescopedAs::Resync,
    };
    let sight = Sight {
        is_asked: &|number| look.has(number),
        limits: &look.limits,
        rescoped,
    };
    let standing = plan::check(since, &look.moment, &evidence, sight);
    Ok((look, standing))
}

/// What a transaction finds: what was asked for, and what has changed in it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) moment: Moment,
    /// By number.
    pub(crate) entities: Vec<Entity>,
    pub(super) delta: HashMap<i32, Delta>,
    pub(super) limits: Limits,
    /// What `entities` were selected from.
    described: Arc<Described>,
}

impl Look {
    /// What a caller has, in terms of this database, where it was restored from the dump of another.
    pub(super) fn adopted<'s>(&self, since: &'s Since) -> Cow<'s, Since> {
        self.described.lineage.adopted(since)
    }

    /// Whether it has the entity with this number.
    fn has(&self, number: i32) -> bool {
        let place = self
            .entities
            .binary_search_by_key(&number, |entity| entity.covered.number);
        place.is_ok()
    }

    /// Plans what a page sends of it, and leaves out of the delta what that page does not.
    pub(super) fn plan(&mut self, since: &Since, purged: PurgedAs) -> Plan {
        let own = &self.moment.snapshot;
        let plan = plan::plan(since, &self.entities, own, &self.limits, purged, |number| {
            self.is_truncated(number)
        });
        // What the target has not seen belongs to the next round.
        let belongs = |xid: Xid| plan.fresh || plan.target.sees(xid);
        for delta in self.delta.values_mut() {
            for delta in delta.scopes.values_mut() {
                delta.retain(belongs);
            }
        }
        plan
    }

    /// Looks at the same moment again, for a caller that has seen this. The transaction still stands.
    pub(super) async fn again(
        &mut self,
        connection: &mut Connection,
        seen: &Seen,
    ) -> Result<(), sqlx::Error> {
        let probed: Vec<(&Entity, Probed<'_>)> = self
            .entities
            .iter()
            .map(|entity| (entity, Probed::Within(self.limits.of(entity.covered.number))))
            .collect();
        let probe = probe::probe(&probed, seen);
        let mut query = unprepared::query(AssertSqlSafe(probe.text))
            .bind(probe.xids)
            .bind(probe.bound);
        for scopes in probe.scopes {
            query = query.bind(scopes);
        }
        let rows = query.fetch_all(connection.get()?).await?;
        self.delta = delta::read(&rows, seen)?;
        Ok(())
    }

    /// Whether the table of an entity was truncated, unseen by the caller.
    pub(super) fn is_truncated(&self, number: i32) -> bool {
        self.delta.get(&number).is_some_and(|delta| delta.truncated)
    }

    /// Whether an entity has changes that were not seen.
    pub(crate) fn is_changed(&self, number: i32) -> bool {
        self.delta.get(&number).is_some_and(Delta::holds_any)
    }

    /// The scopes of an entity that have changes which were not seen; `None` where it may be any.
    pub(crate) fn changed_scopes(&self, number: i32) -> Option<&[String]> {
        let delta = self.delta.get(&number).filter(|delta| !delta.truncated);
        delta.and_then(|delta| delta.changed.as_deref())
    }
}

/// Looks at all entities: what they are, and which have changes which `seen` has not seen. The
/// transaction is to be ended in either case.
pub(crate) async fn look(
    connection: &mut Connection,
    node: &Node,
    seen: &Snapshot,
) -> Result<Look, ReadError> {
    let seen = Seen::Snapshot(seen.clone());
    look_at(connection, node, &Asked::All, &seen, None, |_, _| true).await
}

/// Begins a transaction, and looks for changes in those of the entities for which that is `wanted`,
/// as far as the caller may see them; without a caller, also for the scopes that they lie in. What was remembered of the catalog may hold no longer, and then all is done again.
async fn look_at(
    connection: &mut Connection,
    node: &Node,
    asked: &Asked,
    seen: &Seen,
    caller: Option<&Caller>,
    wanted: impl Fn(&Entity, &Lineage) -> bool,
) -> Result<Look, ReadError> {
    let mut remembered = node.catalog.known();
    for _ in 0..ATTEMPTS_MAX {
        let was_remembered = remembered.is_some();
        let known = match remembered.take() {
            Some(known) => known,
            None => node.catalog.read(connection).await?,
        };
        let entities = match select(&known.entities, asked) {
            Err(_) if was_remembered => continue,
            selected => selected?,
        };
        let limits = match caller {
            Some(caller) => {
                node.limits(&known.entities, caller, Some(&mut *connection))
                    .await?
            }
            None => Limits::default(),
        };
        // What cannot be served may not even be readable.
        let served = || entities.iter().filter(|entity| entity.fault.is_none());
        let probed: Vec<(&Entity, Probed<'_>)> = served()
            .filter(|entity| wanted(entity, &known.lineage))
            .map(|entity| match caller {
                Some(_) => (entity, Probed::Within(limits.of(entity.covered.number))),
                None => (entity, Probed::WithScopes),
            })
            .collect();
        let probe = probe::probe(&probed, seen);
        let tables: Vec<&str> = served().map(|entity| entity.table.as_str()).collect();
        let opened = async {
            let claim = connection.begin_on(node, &tables).await?;
            connection.open(claim, &probe).await
        };
        match opened.await {
            Ok((moment, signature, rows)) if signature == known.signature => {
                node.meets(moment.source.own_id);
                return Ok(Look {
                    moment,
                    entities,
                    delta: delta::read(&rows, seen)?,
                    limits,
                    described: known,
                });
            }
            // Tables were altered since, or between the lock and the snapshot.
            Ok(_) => {}
            Err(error) if is_outdated(&error) => {}
            // A right was taken away since, which a new description tells.
            Err(error) if was_remembered && sqlstate(&error).as_deref() == Some(NO_RIGHT) => {}
            Err(error) => return Err(error.into()),
        }
        connection.end().await?;
    }
    Err(ReadError::Unavailable(
        "the tables are being altered; try again".to_owned(),
    ))
}

/// What the source alone does not tell of a cursor, where that is in question.
async fn evidence(
    connection: &mut Connection,
    cursor: &Cursor,
    look: &Look,
) -> Result<Evidence, sqlx::Error> {
    let moment = &look.moment;
    let mut evidence = Evidence::default();
    let lineage = &look.described.lineage;
    if lineage.is_foreign(cursor) {
        evidence.kept = lineage.kept(cursor);
        return Ok(evidence);
    }
    let (then, now) = (cursor.source.timeline, moment.source.timeline);
    if then < now {
        evidence.timeline_end = timeline::end_of(connection.get()?, now, then).await?;
        if evidence.timeline_end.is_none() {
            // A mark changes no description.
            evidence.kept = Lineage::read(connection.get()?).await?.kept(cursor);
        }
    }
    if matches!(moment.log, LogEnd::Primary { .. }) && !moment.has(cursor) {
        evidence.ids_end = Some(samples::ids_end(connection.get()?, &moment.snapshot).await?);
    }
    Ok(evidence)
}

/// The answer to a caller that is ahead of this Postgres: its own cursor, where that stands for just what
/// was asked for.
fn behind(since: &Since, entities: &[Entity]) -> Result<Trailer, ReadError> {
    let later = || ReadError::Unavailable(LAGS.to_owned());
    let Since::Cursor(cursor) = since else {
        return Err(later());
    };
    let asked = entities.iter().map(|entity| entity.covered.number);
    let covered = cursor.covered.iter().map(|covered| covered.number);
    if cursor.pull.is_some() || !asked.eq(covered) {
        return Err(later());
    }
    Ok(Trailer {
        next: cursor.encode(),
        more: false,
        last_sync_date: cursor.last_sync_date,
        rows: 0,
        entities: entities.iter().map(|entity| entity.name.clone()).collect(),
    })
}

/// The entities asked for, by number.
fn select(all: &[Entity], asked: &Asked) -> Result<Vec<Entity>, ReadError> {
    let is_unknown = |name: &&EntityName| all.iter().all(|entity| entity.name != **name);
    if let Some(unknown) = asked.needed().iter().find(is_unknown) {
        return Err(ReadError::UnknownEntity(unknown.clone()));
    }
    let is_asked = |entity: &&Entity| asked.holds(&entity.name);
    Ok(all.iter().filter(is_asked).cloned().collect())
}

/// A table or a column that was dropped or renamed since it was described.
fn is_outdated(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("42P01" | "3F000" | "42703"))
}
