//! Decides which of all that may be so is so. Pure.

use highwater_shared::{AnewReason, DeletedBy, NextPull, Outcome, ResyncReason, Timestamp, Writing};

use super::read::{Facts, Row, Tombstone};

/// What is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) outcome: Outcome,
    pub(super) next_pull: Option<NextPull>,
    pub(super) reason: Option<AnewReason>,
    pub(super) changed_date: Option<Timestamp>,
    pub(super) deleted_by: Option<DeletedBy>,
    pub(super) scope: Option<String>,
    pub(super) writing: Option<Writing>,
}

/// What a row is, whatever a device has of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Being<'a> {
    Live(&'a Row),
    Flagged(&'a Row),
    Removed(&'a Tombstone),
    LeftScope(&'a Tombstone),
    /// In a scope that the device does not see, flagged or not.
    OtherScope(&'a Row),
    /// The same, and removed there.
    RemovedElsewhere(&'a Tombstone),
    Nowhere,
}

/// Decides by the facts, in the order in which a person would rule things out.
pub(super) fn decide(facts: &Facts) -> Decision {
    let being = being(facts);
    let next_pull = facts.is_since_known.then(|| next_pull(facts));
    let reason = anew(facts);
    let outcome = if facts.is_forbidden {
        Outcome::EntityForbidden
    } else if let Some(resync) = facts.resync {
        match resync {
            ResyncReason::SourceChanged => Outcome::SourceChanged,
            ResyncReason::ScopeChanged => Outcome::ScopeChanged,
        }
    } else {
        match (reason, being) {
            (Some(AnewReason::NotCovered), _) => Outcome::NotCovered,
            (Some(_), _) => Outcome::BeginsAnew,
            (None, Being::Nowhere) => Outcome::NoSuchRow,
            (None, Being::OtherScope(_) | Being::RemovedElsewhere(_)) => Outcome::OtherScope,
            (None, Being::Flagged(_) | Being::Removed(_)) => Outcome::Deleted,
            (None, Being::LeftScope(_)) => Outcome::OutOfScope,
            (None, Being::Live(_)) => live(facts),
        }
    };
    let is_told = matches!(outcome, Outcome::BeginsAnew | Outcome::NotCovered);
    Decision {
        outcome,
        next_pull: next_pull.map(|next| {
            if facts.is_forbidden {
                NextPull::Nothing
            } else {
                next
            }
        }),
        reason: reason.filter(|_| is_told),
        changed_date: changed_date(being),
        deleted_by: match being {
            Being::Flagged(_) => Some(DeletedBy::Flag),
            Being::OtherScope(row) if row.is_flagged => Some(DeletedBy::Flag),
            Being::Removed(_) | Being::RemovedElsewhere(_) => Some(DeletedBy::Tombstone),
            _ => None,
        },
        scope: scope(facts, being),
        writing: facts.writing.filter(|_| matches!(being, Being::Nowhere)),
    }
}

/// Tells what the row is.
pub(super) fn being(facts: &Facts) -> Being<'_> {
    match (&facts.row, &facts.tombstone) {
        (Some(row), _) if row.is_in_scope && row.is_flagged => Being::Flagged(row),
        (Some(row), _) if row.is_in_scope => Being::Live(row),
        (_, Some(tombstone)) if tombstone.left_scope => Being::LeftScope(tombstone),
        (_, Some(tombstone)) => Being::Removed(tombstone),
        (Some(row), None) => Being::OtherScope(row),
        (None, None) => facts
            .elsewhere
            .as_ref()
            .map_or(Being::Nowhere, Being::RemovedElsewhere),
    }
}

/// Why the entity begins anew, where it has not yet begun: with the rest of the pull under way, or the next
/// round.
fn anew(facts: &Facts) -> Option<AnewReason> {
    let known = facts.rounds.iter().filter(|_| facts.is_since_known);
    known.rev().find_map(|round| round.anew)
}

/// What comes of a row that is there.
fn live(facts: &Facts) -> Outcome {
    if !facts.is_since_known {
        return Outcome::Live;
    }
    let brings = facts.rounds.iter().map(|round| round.brings == NextPull::Row);
    match brings.rev().collect::<Vec<_>>().as_slice() {
        [_, true] => Outcome::PageToCome,
        [true, ..] => Outcome::ChangedSince,
        _ => Outcome::Seen,
    }
}

/// What the rounds bring together: what comes later holds.
fn next_pull(facts: &Facts) -> NextPull {
    let brings = facts.rounds.iter().map(|round| round.brings);
    let last = brings.rev().find(|brings| *brings != NextPull::Nothing);
    last.unwrap_or(NextPull::Nothing)
}

fn changed_date(being: Being<'_>) -> Option<Timestamp> {
    match being {
        Being::Live(row) | Being::Flagged(row) | Being::OtherScope(row) => Some(row.changed_date),
        Being::Removed(tombstone) | Being::LeftScope(tombstone) | Being::RemovedElsewhere(tombstone) => {
            Some(tombstone.changed_date)
        }
        Being::Nowhere => None,
    }
}

/// The scope that the row is in, or was in last.
fn scope(facts: &Facts, being: Being<'_>) -> Option<String> {
    let of_row = facts.row.as_ref().and_then(|row| row.scope.clone());
    let removed = match being {
        Being::Removed(tombstone) | Being::LeftScope(tombstone) | Being::RemovedElsewhere(tombstone) => {
            tombstone.scope.clone()
        }
        _ => None,
    };
    of_row.or(removed)
}
