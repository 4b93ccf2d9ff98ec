//! Which rows and tombstones are meant, as conditions of a statement: those of scopes, and those of keys.

use crate::entity::Entity;
use crate::quoting::{NulInText, identifier, literal};

/// More keys than a row of what was purged holds: a purge removes them by thousands.
const PURGED_TOGETHER_MAX: u32 = 1 << 16;

/// The key of a row: its values as Postgres prints them, and tombstones hold them, in the order of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowKey(pub(crate) Vec<String>);

impl RowKey {
    /// That a tombstone `t` is one of this key.
    pub(crate) fn of_tombstone(&self) -> Result<String, NulInText> {
        Ok(format!("t.key = {}", list(&self.0, "text")?))
    }

    /// That a row `t` has this key.
    pub(crate) fn of_row(&self, entity: &Entity) -> Result<String, NulInText> {
        let columns = entity.key.iter().zip(&self.0);
        let equal = columns.map(|(column, value)| {
            let (name, value) = (identifier(&column.name), literal(value)?);
            Ok(format!("t.{name} = {value}::{}", column.cast))
        });
        Ok(equal.collect::<Result<Vec<_>, NulInText>>()?.join(" and "))
    }

    /// The values, each of its column's type.
    fn values(&self, entity: &Entity) -> Result<String, NulInText> {
        let columns = entity.key.iter().zip(&self.0);
        let values = columns.map(|(column, value)| Ok(format!("{}::{}", literal(value)?, column.cast)));
        Ok(values.collect::<Result<Vec<_>, NulInText>>()?.join(", "))
    }
}

/// The rows of a `values` clause, one for each of these keys; `None` where there are none.
pub(crate) fn values_of(entity: &Entity, keys: &[RowKey]) -> Result<Option<String>, NulInText> {
    let rows = keys.iter().map(|key| Ok(format!("({})", key.values(entity)?)));
    let rows = rows.collect::<Result<Vec<_>, NulInText>>()?;
    Ok((!rows.is_empty()).then(|| format!("values {}", rows.join(", "))))
}

/// That a row `t` lies in one of these scopes; all are meant where there are none.
pub(crate) fn in_scopes(entity: &Entity, scopes: Option<&[String]>) -> Result<String, NulInText> {
    Ok(match (scopes, &entity.scope) {
        (Some(scopes), Some(scope)) => {
            let column = identifier(&scope.column);
            format!("t.{column} = any ({})", list(scopes, &scope.cast)?)
        }
        // What may not be read at all is asked for by nobody.
        (Some(_), None) => "false".to_owned(),
        (None, _) => "true".to_owned(),
    })
}

/// The tombstones `t` of an entity in these scopes, with a condition to go on from; all are meant where
/// there are none.
pub(crate) fn tombstones_of(entity: &Entity, scopes: Option<&[String]>) -> Result<String, NulInText> {
    let number = entity.covered.number;
    Ok(match scopes {
        // The cast chooses the index.
        Some(scopes) => format!(
            "highwater.tombstone t where t.entity::bigint = {number} and t.scope = any ({})",
            list(scopes, "text")?
        ),
        None => format!("highwater.tombstone t where t.entity = {number}"),
    })
}

/// What was purged of an entity in these scopes, as tombstones `t`, with a condition to go on from; all is meant
/// where there are none.
pub(crate) fn purged_of(entity: &Entity, scopes: Option<&[String]>) -> Result<String, NulInText> {
    let of_scopes = match scopes {
        Some(scopes) => format!(" and t.scope = any ({})", list(scopes, "text")?),
        None => String::new(),
    };
    Ok(purged(entity.covered.number, &of_scopes))
}

/// The same of the entity with this number: one for each key in those rows for which `and_also` holds.
pub(super) fn purged(number: i32, and_also: &str) -> String {
    format!(
        "(select t.number * {PURGED_TOGETHER_MAX} + k.place as number, k.xid as changed_xid, k.date as changed_date,
              k.key::text[] as key, t.scope, t.left_scope
          from highwater.purged t
          cross join unnest(t.xids, t.dates, t.keys) with ordinality k (xid, date, key, place)
          where t.entity = {number}{and_also}) t where true"
    )
}

fn list(values: &[String], cast: &str) -> Result<String, NulInText> {
    let values: Vec<String> = values
        .iter()
        .map(|value| literal(value))
        .collect::<Result<_, _>>()?;
    Ok(format!("array[{}]::{cast}[]", values.join(", ")))
}
