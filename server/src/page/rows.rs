//! Passes the lines of one statement on to the response.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use highwater_shared::{Timestamp, copy_text};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::sql::{Layout, Order, Statement};
use super::{Output, ReadError};
use crate::coalescing::{BULK_BYTES_MIN, Coalescing};
use crate::cursor::After;
use crate::limit::Limit;

/// What of a page is still allowed, and what it has come to.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) rows_left: u64,
    pub(super) rows: u64,
    pub(super) bytes_max: u64,
    /// When the page is to end.
    pub(super) until: Instant,
    /// The newest `changed_date` so far, as Postgres prints it: its order is that of its text.
    pub(super) newest: Vec<u8>,
}

/// How the lines of a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There are no more.
    Complete,
    /// There are more, the page is full.
    Full,
    /// There are more, the page is full by this limit, and the statement was left in the middle: the
    /// connection is of no further use.
    Abandoned(Limit),
}

/// Runs the statement and passes its lines on until they end or the budget does. Returns also
/// the position after the last line passed on.
pub(super) async fn pass(
    connection: &mut PgConnection,
    statement: &Statement,
    budget: &mut Budget,
    coalescing: &Coalescing,
    out: &mut Output,
) -> Result<(End, Option<After>), ReadError> {
    let layout = &statement.layout;
    let mut lines = connection.copy_out_raw(&statement.text).await?;
    let mut last: Option<Bytes> = None;
    let mut end = End::Complete;
    let mut late = false;
    let mut passing = None;
    while let Some(message) = lines.try_next().await? {
        if late || out.written() >= budget.bytes_max {
            end = End::Abandoned(if late {
                Limit::PageTimeMax
            } else {
                Limit::PageBytesMax
            });
            break;
        }
        if budget.rows_left == 0 {
            // The statement asks for one row more than allowed: here it is, so there are more.
            // None follows it, but the end of the `COPY` must be read.
            end = End::Full;
            continue;
        }
        let line = message
            .strip_suffix(b"\n")
            .ok_or_else(|| protocol("a COPY message is not one line"))?;
        budget.rows_left -= 1;
        budget.rows += 1;
        let (kept, date) = cut(layout, line);
        // One without end is no date that could be sent as `since`.
        if date > budget.newest.as_slice() && date.first().is_some_and(u8::is_ascii_digit) {
            budget.newest.clear();
            budget.newest.extend_from_slice(date);
        }
        out.line(layout, line, kept);
        last = Some(message);
        if out.is_full() {
            // While the reader is waited for, no rows pass.
            drop(passing.take());
            out.make_room().await?;
            passing = (out.written() >= BULK_BYTES_MIN).then(|| coalescing.pass());
            // The reader is slow where a chunk is handed over, and only there is it worth a look.
            late = Instant::now() >= budget.until;
        }
    }
    let position = last.as_ref().and_then(|message| after(layout, message));
    // A date without end is no position, and is the last one.
    if position.is_none() && last.is_some() && end != End::Complete {
        return Err(protocol("a line has no position"));
    }
    Ok((end, position))
}

/// Runs a statement whose lines are all wanted as they come, and tells how many there were.
pub(super) async fn pass_all(
    connection: &mut PgConnection,
    statement: &str,
    until: Instant,
    out: &mut Output,
) -> Result<u64, ReadError> {
    let mut lines = connection.copy_out_raw(statement).await?;
    let mut rows = 0;
    while let Some(line) = lines.try_next().await? {
        rows += 1;
        out.whole_line(&line);
        if out.is_full() {
            out.make_room().await?;
            if Instant::now() >= until {
                return Err(ReadError::Limit(Limit::DigestsTimeMax));
            }
        }
    }
    Ok(rows)
}

/// What of a line is not the server's alone, and its `changed_date`.
fn cut<'a>(layout: &Layout, line: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let (mut rest, mut kept, mut date) = (line, line, &[][..]);
    for place in 0..=layout.date_from_end {
        let (before, field) = match memchr::memrchr(b'\t', rest) {
            Some(tab) => (
                rest.get(..tab).unwrap_or_default(),
                rest.get(tab + 1..).unwrap_or_default(),
            ),
            None => (&[][..], rest),
        };
        if place < layout.hidden {
            kept = before;
        }
        date = field;
        rest = before;
    }
    (kept, date)
}

/// The position after a line.
fn after(layout: &Layout, message: &[u8]) -> Option<After> {
    let fields: Vec<Option<&[u8]>> = copy_text::fields(message.strip_suffix(b"\n")?).collect();
    let text = |place: usize| {
        let value = copy_text::unescape(fields.get(place).copied().flatten()?);
        String::from_utf8(value.into_owned()).ok()
    };
    let from_end = |place: usize| text(fields.len().checked_sub(place + 1)?);
    let order = match layout.order {
        Order::Key => 0,
        Order::Xid => from_end(0)?.parse().ok()?,
        Order::Date => Timestamp::from_postgres(&from_end(layout.date_from_end)?)?
            .micros()
            .cast_unsigned(),
    };
    let key = layout
        .key
        .iter()
        .map(|place| text(*place))
        .collect::<Option<Vec<_>>>()?;
    Some(After { order, key })
}

fn protocol(message: &str) -> ReadError {
    ReadError::Postgres(sqlx::Error::Protocol(message.to_owned()))
}
