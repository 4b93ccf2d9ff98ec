//! The statements that read a page.
//!
//! Each walks one index from one bound and stops at its limit: `(changed_xid, key)` for what
//! changed since a snapshot, `(changed_date)` since a date, the primary key for an entity that
//! begins anew. `COPY` takes no parameters, so values go in as literals.

use std::fmt::Write as _;

use highwater_shared::{BlockKind, Column, ColumnRole, Reason, Timestamp};

use super::Format;
use super::conditions::{RowKey, purged};
use crate::cursor::{After, Step};
use crate::entity::Entity;
use crate::quoting::{NulInText, identifier, literal};
use crate::snapshot::{Snapshot, Xid};

/// What a statement walks.
#[derive(Clone, Debug)]
pub(super) enum Range {
    /// The whole table, by key.
    Key,
    /// What one transaction changed that was in flight when the caller last looked.
    Xid(Xid),
    /// What was changed by ids from this one on.
    From(Xid),
    /// All of a scope, in the order of ids.
    Scope,
    /// What changed later than this.
    Date(Timestamp),
}

/// The scope that a statement reads, where a caller may not see all.
#[derive(Clone, Copy, Debug)]
pub(super) struct InScope<'a> {
    /// Its value.
    pub(super) value: &'a str,
    /// All that the caller may see.
    pub(super) all: &'a [String],
}

/// A statement, and how to read its lines.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) layout: Layout,
}

/// Where in a line the server finds what it must know. The rest it passes on as it comes.
#[derive(Debug)]
pub(super) struct Layout {
    /// Fields at the end that are the server's alone, and are cut off.
    pub(super) hidden: usize,
    /// Whether all else is passed on, or the first field only, a JSON text.
    pub(super) format: Format,
    /// `changed_date`, counted from the end of the line, 0 being the last field.
    pub(super) date_from_end: usize,
    /// The fields that make the position's key.
    pub(super) key: Vec<usize>,
    /// What orders lines before their key.
    pub(super) order: Order,
}

/// What orders the lines of a statement before their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing.
    Key,
    /// `changed_xid`, the last field.
    Xid,
    /// `changed_date`.
    Date,
}

/// What a statement is to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) entity: &'a Entity,
    pub(super) step: Step,
    /// The rows of this scope only.
    pub(super) scope: Option<InScope<'a>>,
    pub(super) range: &'a Range,
    /// The rows after this one only.
    pub(super) after: Option<&'a After>,
    /// What bounds it in the middle of a pull, which leads to this snapshot: rows that changed since come in the next
    /// round.
    pub(super) target: Option<&'a Snapshot>,
    /// The first id that was not given out yet.
    pub(super) next_xid: Xid,
    /// The row with this key only.
    pub(super) only: Option<&'a RowKey>,
}

/// The statement that reads `limit` rows of a part.
pub(super) fn statement(part: Part<'_>, format: Format, limit: u64) -> Result<Statement, NulInText> {
    let Part {
        entity,
        step,
        scope,
        range,
        after,
        target,
        next_xid,
        only,
    } = part;
    let tombstones = step.is_buried();
    let key: Vec<String> = if tombstones {
        let column = |(place, column): (usize, &crate::entity::KeyColumn)| {
            format!("(t.key[{}])::{}", place + 1, column.cast)
        };
        entity.key.iter().enumerate().map(column).collect()
    } else {
        entity
            .key
            .iter()
            .map(|column| format!("t.{}", identifier(&column.name)))
            .collect()
    };
    let (mut fields, mut layout) = fields(entity, step, format, &key, scope.is_some())?;
    match range {
        Range::Key => layout.order = Order::Key,
        Range::Date(_) => layout.order = Order::Date,
        Range::Xid(_) | Range::From(_) | Range::Scope => {
            layout.order = Order::Xid;
            layout.hidden += 1;
            layout.date_from_end += 1;
            fields.push("t.changed_xid".to_owned());
        }
    }

    let order_key = if tombstones {
        "t.number".to_owned()
    } else {
        key.join(", ")
    };
    let mut text = format!("copy (select {} from ", fields.join(", "));
    if tombstones {
        let number = entity.covered.number;
        let of_scope = match scope {
            Some(scope) => format!(" and t.scope = {}", literal(scope.value)?),
            None => String::new(),
        };
        let _ = match step {
            Step::Purged => {
                let newest = match range {
                    Range::Xid(xid) | Range::From(xid) => format!(" and t.newest_xid >= '{xid}'::xid8"),
                    Range::Key | Range::Date(_) | Range::Scope => String::new(),
                };
                write!(text, "{}", purged(number, &(of_scope + &newest)))
            }
            // The cast chooses the index.
            _ if scope.is_some() => write!(
                text,
                "highwater.tombstone t where t.entity::bigint = {number}{of_scope}"
            ),
            _ => write!(text, "highwater.tombstone t where t.entity = {number}"),
        };
        let _ = write!(
            text,
            " and not exists (select from {} l where not l.deleted",
            entity.table
        );
        for (column, value) in entity.key.iter().zip(&key) {
            let _ = write!(text, " and l.{} = {value}", identifier(&column.name));
        }
        if let (Some(seen), Some(scope)) = (scope, &entity.scope) {
            // In what the caller sees: elsewhere it may well live.
            let all = seen.all.iter().map(|value| literal(value));
            let all = all.collect::<Result<Vec<String>, NulInText>>()?;
            let column = identifier(&scope.column);
            let _ = write!(
                text,
                " and l.{column} = any (array[{}]::{}[])",
                all.join(", "),
                scope.cast
            );
        }
        text.push(')');
    } else {
        let deleted = if step == Step::Flagged { "" } else { "not " };
        let _ = write!(text, "{} t where {deleted}t.deleted", entity.table);
        if let (Some(seen), Some(scope)) = (scope, &entity.scope) {
            let column = identifier(&scope.column);
            let _ = write!(text, " and t.{column} = {}::{}", literal(seen.value)?, scope.cast);
        }
    }
    if let Some(key) = only {
        let is_it = if tombstones {
            key.of_tombstone()?
        } else {
            key.of_row(entity)?
        };
        let _ = write!(text, " and {is_it}");
    }
    let casts: Vec<&str> = if tombstones {
        vec!["bigint"]
    } else {
        entity.key.iter().map(|column| column.cast.as_str()).collect()
    };
    bound(&mut text, range, after, &order_key, &casts)?;
    match (range, target) {
        // As later ones, those of another cluster would come in every round.
        (Range::From(_), target) => {
            let _ = write!(text, " and t.changed_xid < '{next_xid}'::xid8");
            if let Some(target) = target {
                seen_by(&mut text, target);
            }
        }
        (_, Some(target)) => seen_or_foreign(&mut text, target, next_xid),
        (_, None) => {}
    }
    let order = match layout.order {
        Order::Key => order_key,
        Order::Xid => format!("t.changed_xid, {order_key}"),
        Order::Date => format!("t.changed_date, {order_key}"),
    };
    let _ = write!(text, " order by {order} limit {limit}) to stdout");
    Ok(Statement { text, layout })
}

/// The kind of the blocks of a step.
pub(super) fn kind(step: Step) -> BlockKind {
    match step {
        Step::Anew | Step::Rows => BlockKind::Upsert,
        Step::Tombstones | Step::Flagged | Step::Purged => BlockKind::Delete,
    }
}

/// The columns of a block of this kind, in the order of its fields.
pub(super) fn columns(entity: &Entity, kind: BlockKind) -> Vec<Column> {
    let own = |name: &str, type_name: &str, role| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        role: Some(role),
        place: None,
    };
    let changed_date = own(
        "changed_date",
        "timestamp with time zone",
        ColumnRole::ChangedDate,
    );
    let digest = own("digest", "bigint", ColumnRole::Digest);
    let key = entity.key.iter().zip(1..).map(|(column, place)| Column {
        place: Some(place),
        ..own(&column.name, &column.type_name, ColumnRole::Key)
    });
    match kind {
        BlockKind::Reset | BlockKind::Upsert => {
            entity.columns.iter().cloned().chain([changed_date]).collect()
        }
        BlockKind::Delete => key
            .chain([changed_date, own("reason", "text", ColumnRole::Reason)])
            .collect(),
        BlockKind::Within => {
            let is_scope = |column: &&Column| {
                entity
                    .scope
                    .as_ref()
                    .is_some_and(|scope| scope.column == column.name)
            };
            entity.columns.iter().filter(is_scope).cloned().collect()
        }
        BlockKind::Changed => key.collect(),
        BlockKind::Key => key.chain([digest]).collect(),
        BlockKind::Part => {
            let part = own("part", "bigint", ColumnRole::Part);
            vec![part, own("rows", "bigint", ColumnRole::Rows), digest]
        }
    }
}

/// The fields of a line, less what orders it.
fn fields(
    entity: &Entity,
    step: Step,
    format: Format,
    key: &[String],
    is_limited: bool,
) -> Result<(Vec<String>, Layout), NulInText> {
    let date = "t.changed_date".to_owned();
    let gone = kind(step) == BlockKind::Delete;
    let deleted = literal(Reason::Deleted.as_str())?;
    let reason = if step.is_buried() && is_limited {
        let left = literal(Reason::OutOfScope.as_str())?;
        format!("case when t.left_scope then {left} else {deleted} end")
    } else {
        deleted
    };
    let mut layout = Layout {
        hidden: 0,
        format,
        date_from_end: 0,
        key: Vec::new(),
        order: Order::Key,
    };
    let mut fields = match format {
        Format::Json => vec![change(entity, gone.then_some(&reason), key)?],
        Format::Copy if gone => key.iter().cloned().chain([date.clone(), reason]).collect(),
        Format::Copy => {
            let columns = entity
                .columns
                .iter()
                .map(|column| format!("t.{}", identifier(&column.name)));
            columns.chain([date.clone()]).collect()
        }
    };
    if step.is_buried() {
        layout.key.push(fields.len());
        layout.hidden += 1;
        fields.push("t.number".to_owned());
    } else if format == Format::Json {
        layout
            .key
            .extend((0..key.len()).map(|place| fields.len() + place));
        fields.extend(key.iter().cloned());
    } else if gone {
        layout.key.extend(0..key.len());
    } else {
        let place = |name: &str| entity.columns.iter().position(|column| column.name == name);
        layout
            .key
            .extend(entity.key.iter().filter_map(|column| place(&column.name)));
    }
    if format == Format::Json {
        fields.push(date);
    } else {
        layout.date_from_end = layout.hidden + usize::from(gone);
    }
    Ok((fields, layout))
}

/// A change as JSON text, as compact as it can be.
fn change(entity: &Entity, gone: Option<&String>, key: &[String]) -> Result<String, NulInText> {
    let object = |columns: Vec<String>| {
        format!(
            "(select row_to_json(r.*)::text from (select {}) r)",
            columns.join(", ")
        )
    };
    let key = entity
        .key
        .iter()
        .zip(key)
        .map(|(column, value)| format!("{value} as {}", identifier(&column.name)));
    let key = object(key.collect());
    let (deleted, row) = if let Some(reason) = gone {
        (
            true,
            format!(
                "{} || {reason} || {}",
                literal("null,\"reason\":\"")?,
                literal("\"}")?
            ),
        )
    } else {
        let columns = entity
            .columns
            .iter()
            .map(|column| format!("t.{}", identifier(&column.name)));
        (false, format!("{} || '}}'", object(columns.collect())))
    };
    let name = serde_json::Value::from(entity.name.as_str());
    Ok(format!(
        "{} || {key} || {} || case when isfinite(t.changed_date) then to_char(t.changed_date, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
             else '9999-12-31T23:59:59.999999Z' end || {} || {row}",
        literal(&format!("{{\"entity\":{name},\"key\":"))?,
        literal(",\"changedDate\":\"")?,
        literal(&format!("\",\"deleted\":{deleted},\"row\":"))?,
    ))
}

/// Where the walk begins, and for a single id where it ends. `casts` are the types of `order_key`.
fn bound(
    text: &mut String,
    range: &Range,
    after: Option<&After>,
    order_key: &str,
    casts: &[&str],
) -> Result<(), NulInText> {
    // With its type, since Postgres does not find the type of a composite by itself. One part more
    // or less than there are is for Postgres to refuse.
    let casts = || casts.iter().copied().chain(std::iter::repeat("text"));
    let key = |after: &After| {
        let parts = after.key.iter().zip(casts());
        let literals = parts.map(|(part, cast)| Ok(format!("{}::{cast}", literal(part)?)));
        literals
            .collect::<Result<Vec<String>, NulInText>>()
            .map(|all| all.join(", "))
    };
    let key = after.map(key).transpose()?.unwrap_or_default();
    let _ = match (range, after) {
        (Range::Key | Range::Scope, None) => Ok(()),
        (Range::Key, Some(_)) => write!(text, " and ({order_key}) > ({key})"),
        (Range::Xid(xid), None) => write!(text, " and t.changed_xid = '{xid}'::xid8"),
        (Range::Xid(xid), Some(_)) => {
            write!(
                text,
                " and t.changed_xid = '{xid}'::xid8 and ({order_key}) > ({key})"
            )
        }
        (Range::From(xid), None) => write!(text, " and t.changed_xid >= '{xid}'::xid8"),
        (Range::From(_) | Range::Scope, Some(after)) => {
            write!(
                text,
                " and (t.changed_xid, {order_key}) > ('{}'::xid8, {key})",
                after.order
            )
        }
        (Range::Date(date), None) => write!(text, " and t.changed_date > '{date}'::timestamptz"),
        (Range::Date(_), Some(after)) => {
            let date = Timestamp::from_micros(after.order.cast_signed());
            write!(
                text,
                " and t.changed_date >= '{date}'::timestamptz and (t.changed_date, {order_key}) > ('{date}'::timestamptz, {key})"
            )
        }
    };
    Ok(())
}

/// Leaves out what the target has not seen, but not rows with an id that this database has not given out. These came
/// with a partition of another cluster, and belong to what all rows of the table belong to: no later round tells of them.
pub(super) fn seen_or_foreign(text: &mut String, target: &Snapshot, next_xid: Xid) {
    // No index is meant, and a planner looks for none in this form.
    let _ = write!(
        text,
        " and case when t.changed_xid < '{next_xid}'::xid8 then true"
    );
    seen_by(text, target);
    text.push_str(" else true end");
}

/// Leaves out what the target has not seen: a row that changed since comes in the next round.
fn seen_by(text: &mut String, target: &Snapshot) {
    let _ = write!(text, " and t.changed_xid < '{}'::xid8", target.xmax());
    if !target.in_flight().is_empty() {
        let list: Vec<String> = target.in_flight().iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            " and t.changed_xid <> all ('{{{}}}'::xid8[])",
            list.join(",")
        );
    }
}
