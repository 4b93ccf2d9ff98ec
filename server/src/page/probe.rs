//! The statement that tells which parts of a delta hold anything, so that only those are read.

use crate::cursor::Seen;
use crate::entity::Entity;
use crate::quoting::identifier;

/// The most changes of an entity that are looked through for their scopes; where there are more, all
/// scopes count as changed.
const SCOPES_CHANGED_MAX: usize = 10_000;

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
            (Probed::WithScopes, Some(scope)) => changed_scopes(entity, &scope.column, later),
            _ => "null::text[]".to_owned(),
        };
        format!(
            "select {number} as number, s.place::integer as place,
                 {} as row_xids, exists (select from {rows} and {later}) as later_rows,
                 {} as flagged_xids, exists (select from {flagged} and {later}) as later_flagged,
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
        entities
            .iter()
            .map(&mut one)
            .collect::<Vec<_>>()
            .join(" union all ")
    };
    Probe {
        text,
        xids,
        bound,
        scopes,
    }
}

/// The scopes that changes lie in; null where they are too many to look through.
fn changed_scopes(entity: &Entity, column: &str, later: &str) -> String {
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
        of(&row, &rows, later),
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
