//! The statement that tells which parts of a delta hold anything, so that only those are read.

use crate::cursor::Seen;
use crate::entity::Entity;
use crate::quoting::identifier;

/// The most changes of an entity that are looked through for their scopes; where there are more, all
/// scopes count as changed.
const SCOPES_CHANGED_MAX: usize = 10_000;

/// Rows of another cluster may have ids that this one has not given out, and are no later ones.
const GIVEN_OUT: &str = "t.changed_xid < (select next_xid from given_out)";

/// The first id that was not given out, found once for all entities.
const WITH_GIVEN_OUT: &str = "with given_out as materialized (
    select (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + highwater.era_start())::text::xid8 as next_xid)";

/// Asks which ranges of a delta hold anything, so that only those are read.
#[derive(Debug)]
pub(crate) struct Probe {
    /// One row an entity, or one for each of its scopes that the caller sees. Its parameters are those
    /// that follow.
    pub(crate) text: String,
    /// The ids that were in flight.
    pub(crate) xids: Vec<String>,
    /// The id, or the date, from which on all is new.
    pub(crate) bound: String,
    /// The scopes of each entity that is limited.
    pub(crate) scopes: Vec<Vec<String>>,
}

/// What a probe asks of an entity.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probed<'a> {
    /// What changed in these of its scopes; in all where there are none.
    Within(Option<&'a [String]>),
    /// What changed, and in which scopes.
    WithScopes,
}

/// The probe of these entities: which ids of the list changed rows, set flags, removed keys, whether
/// later ones did, and whether the table was truncated.
pub(super) fn probe(entities: &[(&Entity, Probed<'_>)], seen: &Seen) -> Probe {
    let (xids, bound, later) = match seen {
        Seen::Snapshot(snapshot) => (
            snapshot.in_flight().iter().map(ToString::to_string).collect(),
            snapshot.xmax().to_string(),
            "t.changed_xid >= $2::text::xid8",
        ),
        Seen::Date(date) => (
            Vec::new(),
            date.to_string(),
            "t.changed_date > $2::text::timestamptz",
        ),
    };
    // A flag is looked for in the index of flagged rows, which the planner leaves for the index of ids where it takes a
    // condition for two ends of a range.
    let (later_rows, later_flagged) = match seen {
        Seen::Snapshot(_) => (
            format!("{later} and {GIVEN_OUT}"),
            format!("{later} and case when {GIVEN_OUT} then true end"),
        ),
        Seen::Date(_) => (later.to_owned(), later.to_owned()),
    };
    let mut scopes = Vec::new();
    let mut one = |(entity, probed): &(&Entity, Probed<'_>)| {
        let number = entity.covered.number;
        // The place of a scope among those that the caller sees.
        let of_entity = format!("t.entity = {number}");
        let (each, row, tombstone) = match (probed, &entity.scope) {
            (Probed::Within(Some(values)), Some(scope)) => {
                scopes.push(values.to_vec());
                (
                    format!(
                        "unnest(${}::text[]) with ordinality s (value, place)",
                        2 + scopes.len()
                    ),
                    format!("t.{} = s.value::{}", identifier(&scope.column), scope.cast),
                    format!("t.entity::bigint = {number} and t.scope = s.value"),
                )
            }
            _ => (
                "(values (null, 1)) s (value, place)".to_owned(),
                "true".to_owned(),
                of_entity.clone(),
            ),
        };
        let xids = |from: &str| {
            format!(
                "array(select u.xid::text from unnest($1::text[]::xid8[]) u (xid)
                       where exists (select from {from} and t.changed_xid = u.xid) order by u.xid)"
            )
        };
        let rows = format!("{} t where {row}", entity.table);
        let flagged = format!("{rows} and t.deleted");
        let tombstones = format!("highwater.tombstone t where {tombstone}");
        let truncations = format!("highwater.truncation t where {of_entity}");
        let changed = match (probed, &entity.scope) {
            (Probed::WithScopes, Some(scope)) => changed_scopes(entity, &scope.column, later, &later_rows),
            _ => "null::text[]".to_owned(),
        };
        format!(
            "select {number} as number, s.place::integer as place,
                 {} as row_xids, exists (select from {rows} and {later_rows}) as later_rows,
                 {} as flagged_xids, exists (select from {flagged} and {later_flagged}) as later_flagged,
                 {} as tombstone_xids, exists (select from {tombstones} and {later}) as later_tombstones,
                 exists (select from {truncations} and ({later} or t.changed_xid = any ($1::text[]::xid8[]))) as truncated,
                 {changed} as scopes
             from {each}",
            xids(&rows),
            xids(&flagged),
            xids(&tombstones),
        )
    };
    let text = if entities.is_empty() {
        "select null::integer as number where $1::text[] is null and $2::text is null".to_owned()
    } else {
        let all: Vec<String> = entities.iter().map(&mut one).collect();
        format!("{WITH_GIVEN_OUT} {}", all.join(" union all "))
    };
    Probe {
        text,
        xids,
        bound,
        scopes,
    }
}

/// The scopes that changes lie in; null where they are too many to look through.
fn changed_scopes(entity: &Entity, column: &str, later: &str, later_rows: &str) -> String {
    let of = |scope: &str, from: &str, changed: &str| {
        format!(
            "(select {scope} as scope from {from} {changed} limit {})",
            SCOPES_CHANGED_MAX + 1
        )
    };
    let row = format!("t.{}::text", identifier(column));
    let rows = format!("{} t where", entity.table);
    let tombstones = format!(
        "highwater.tombstone t where t.entity = {} and",
        entity.covered.number
    );
    let listed = "t.changed_xid = any ($1::text[]::xid8[])";
    let each = [
        of(&row, &rows, later_rows),
        of(&row, &rows, listed),
        of("t.scope", &tombstones, later),
        of("t.scope", &tombstones, listed),
    ];
    format!(
        "(select case when count(*) <= {SCOPES_CHANGED_MAX}
              then coalesce(array_agg(distinct c.scope) filter (where c.scope is not null), '{{}}') end
          from ({}) c)",
        each.join(" union all ")
    )
}
