//! Says what was decided: what is so, and what to do. For people; programs have the outcome.

use std::fmt::Write as _;

use highwater_shared::{AnewReason, NextPull, Outcome, Writing};

use super::decide::{Being, Decision, being};
use super::read::{Facts, Found};
use super::{Hearer, Question};
use crate::page::Since;

const PULL: &str = "Let the device pull.";

/// The sentences for a decision: what is so, and what to do.
pub(super) fn say(found: &Found, decision: &Decision, question: &Question) -> (String, String) {
    let facts = &found.facts;
    let entity = question.entity.as_str();
    let row = row(found);
    match decision.outcome {
        Outcome::EntityForbidden => (
            format!("The device's caller may not read {entity}. {row}"),
            format!("Grant {entity} to its key or token, and let the device pull."),
        ),
        Outcome::SourceChanged => (
            format!(
                "The device's cursor is of another source: this database was restored, copied or promoted, or the \
                 device pulls from another one. A resync follows with its next pull. {row}"
            ),
            "Let the device pull, and ask again with its new cursor.".to_owned(),
        ),
        Outcome::ScopeChanged => scope_changed(found, question, &row),
        Outcome::NotCovered if matches!(question.since, Some(Since::Nothing)) => (
            format!("The device has pulled nothing yet. {row}{}", comes(decision)),
            PULL.to_owned(),
        ),
        Outcome::NotCovered => (
            format!(
                "The device has nothing of {entity} yet: its cursor does not cover it. It joins at the next pull that \
                 asks for it, and begins anew. {row}{}",
                comes(decision)
            ),
            "Let the device pull. A client that names its entities has to name this one.".to_owned(),
        ),
        Outcome::BeginsAnew => (
            format!(
                "{entity} begins anew with the device's next pull, since {}. {row}{}",
                because(decision.reason),
                comes(decision)
            ),
            PULL.to_owned(),
        ),
        Outcome::NoSuchRow => nowhere(found, question),
        Outcome::OtherScope => (
            row,
            "Give the device's caller that scope, or move the row to one that it sees.".to_owned(),
        ),
        Outcome::Deleted => gone(facts, decision, &row, "insert it again"),
        Outcome::OutOfScope => gone(facts, decision, &row, "move it back into the scope"),
        Outcome::ChangedSince | Outcome::PageToCome | Outcome::Seen => live(facts, decision, question, &row),
        Outcome::Live => (
            row,
            "To learn whether a device has seen it, ask with the device's cursor or date.".to_owned(),
        ),
    }
}

/// What there is of the row, in a sentence.
fn row(found: &Found) -> String {
    let now =
        |scope: Option<&str>| scope.map_or(String::new(), |scope| format!(" It is in scope {scope} now."));
    let seen = sees(found);
    match being(&found.facts) {
        Being::Live(row) => format!("The row is there, and last changed at {}.", row.changed_date),
        Being::Flagged(row) => format!("The row was deleted by its flag at {}.", row.changed_date),
        Being::Removed(tombstone) => format!(
            "The row was deleted at {}, by `delete` or a change of its key.{}",
            tombstone.changed_date,
            now(elsewhere(&found.facts))
        ),
        Being::LeftScope(tombstone) => format!(
            "The row left what the device may see at {}.{}",
            tombstone.changed_date,
            now(elsewhere(&found.facts))
        ),
        Being::OtherScope(row) => {
            let deleted = if row.is_flagged {
                ", and deleted by its flag"
            } else {
                ""
            };
            let scope = named(row.scope.as_deref());
            format!("The row is in {scope}{deleted}; the device sees {seen}.")
        }
        Being::RemovedElsewhere(tombstone) => format!(
            "The row was in {}, and left or was deleted there at {}; the device sees {seen}.",
            named(tombstone.scope.as_deref()),
            tombstone.changed_date
        ),
        Being::Nowhere => "There is no such row, and no tombstone of one.".to_owned(),
    }
}

/// The scope in which a row lives on that is gone for the device.
fn elsewhere(facts: &Facts) -> Option<&str> {
    facts.row.as_ref().and_then(|row| row.scope.as_deref())
}

fn named(scope: Option<&str>) -> String {
    scope.map_or("no scope".to_owned(), |scope| format!("scope {scope}"))
}

/// The scopes that the device sees.
fn sees(found: &Found) -> String {
    match found.scopes.as_deref() {
        None => "all".to_owned(),
        Some([]) => "none".to_owned(),
        Some(scopes) => scopes.join(", "),
    }
}

fn because(reason: Option<AnewReason>) -> &'static str {
    match reason {
        Some(AnewReason::Purged) => "deletions were purged that the device has not seen",
        Some(AnewReason::Truncated) => "the table was truncated",
        Some(AnewReason::Renewed) => {
            "it was enabled anew or touched, or its columns, key or partitions changed"
        }
        Some(AnewReason::NotCovered) | None => "the device's cursor does not cover it",
    }
}

/// Whether the row comes with a pull that begins anew.
fn comes(decision: &Decision) -> &'static str {
    match decision.next_pull {
        Some(NextPull::Row) => " It comes with that pull.",
        _ => " So it does not come with that pull.",
    }
}

fn scope_changed(found: &Found, question: &Question, row: &str) -> (String, String) {
    let what = format!(
        "The device's cursor was made for a caller who may see other rows or entities than {}. A resync follows with \
         the device's next pull. {row}",
        match (question.hearer, found.scopes.is_some()) {
            (Hearer::Operator, true) => format!("one with the scope {}", sees(found)),
            (Hearer::Operator, false) => "one who sees all".to_owned(),
            (Hearer::Caller, _) => "this one".to_owned(),
        }
    );
    let remedy = match question.hearer {
        Hearer::Caller => "Let the device pull, and ask again with its new cursor.",
        Hearer::Operator => {
            "If the device's caller was named right, let the device pull, and ask again with its new cursor. If not, ask \
             again with the scope of its caller (--scope COLUMN=VALUE)."
        }
    };
    (what, remedy.to_owned())
}

fn nowhere(found: &Found, question: &Question) -> (String, String) {
    let is_limited = found.scopes.is_some() && question.hearer == Hearer::Caller;
    let that = if is_limited {
        " that this caller may see"
    } else {
        ""
    };
    let purged = found
        .purged
        .map_or(String::new(), |date| format!(" (those up to {date} were)"));
    let mut what = format!(
        "There is no such row{that}, and no tombstone of one: it never was, its tombstone was purged{purged}, or its \
         writer has not committed yet."
    );
    let mut remedy = "Look at the key, and at the database that the row was written to.".to_owned();
    match found.facts.writing {
        Some(Writing { since }) => {
            let since = since.map_or(String::new(), |date| format!(" since {date}"));
            // Writing into a string does not fail.
            let _ = write!(
                what,
                " Somebody has been writing to the table{since}, and has not committed."
            );
            remedy.push_str(" Or wait until that writer has committed, and ask again.");
        }
        None if found.is_standby => {
            what.push_str(" This Postgres is a standby, and cannot tell who is writing.");
        }
        None => {}
    }
    (what, remedy)
}

/// A row that is deleted, or left the scope.
fn gone(facts: &Facts, decision: &Decision, row: &str, back: &str) -> (String, String) {
    let back = match being(facts) {
        Being::Flagged(_) => "clear its flag",
        _ => back,
    };
    let (what, remedy) = match decision.next_pull {
        None => ("", String::new()),
        Some(NextPull::Nothing) => (
            " The device has seen that, and has no such row.",
            "Where the device still shows it, run `highwater verify --repair` there. ".to_owned(),
        ),
        Some(_) => (
            " The device has not seen that yet: the deletion comes with its next pull.",
            format!("{PULL} "),
        ),
    };
    (
        format!("{row}{what}"),
        format!("{remedy}To bring the row back, {back}."),
    )
}

/// A row that is there, for a device that goes on.
fn live(facts: &Facts, decision: &Decision, question: &Question, row: &str) -> (String, String) {
    let date = match question.since {
        Some(Since::Date(date)) => Some(date),
        _ => None,
    };
    let what = match (decision.outcome, date) {
        (Outcome::PageToCome, _) => {
            " The device is in the middle of a pull, and the page with the row is yet to come.".to_owned()
        }
        (Outcome::ChangedSince, Some(date)) => {
            format!(" That is after {date}, which the device has, so it comes with the next pull.")
        }
        (Outcome::ChangedSince, None) if facts.is_midway => {
            " The device is in the middle of a pull, which brings the row before it ends.".to_owned()
        }
        (Outcome::ChangedSince, None) => {
            " The device's cursor has not seen that, so it comes with the next pull.".to_owned()
        }
        (_, Some(date)) => format!(
            " That is not after {date}, which the device has, so it was sent before and does not come again."
        ),
        (_, None) if facts.is_midway => {
            " The device's cursor has seen that: the row came before this pull, or with it, and shows when it has \
             ended."
                .to_owned()
        }
        (_, None) => {
            " Nothing stands in the way: the device's cursor has seen the row as it is now.".to_owned()
        }
    };
    let remedy = match (decision.outcome, date) {
        (Outcome::PageToCome, _) => "Let the device's pull go on.".to_owned(),
        (Outcome::ChangedSince, _) => PULL.to_owned(),
        (_, Some(_)) => {
            "A store that lacks it has lost it: have the device pull everything, without a date.".to_owned()
        }
        (_, None) => {
            "A store that lacks it was changed locally or is damaged: run `highwater verify --repair` \
                      on the device."
                .to_owned()
        }
    };
    (format!("{row}{what}"), remedy)
}
