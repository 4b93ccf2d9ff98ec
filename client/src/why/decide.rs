//! Holds what the store has of a row against what the server says of it. Pure.

use highwater_shared::{NextPull, Outcome, Why};
use serde::Serialize;

use crate::store::HeldRow;
use crate::sync_helper::State;

/// What is so of a row in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The store has it as the source has it.
    Equal,
    /// It comes with the next pull, new or anew.
    Comes,
    /// Its deletion comes with the next pull.
    Goes,
    /// It has arrived, or stays for now, and readers see that when the pull under way has ended.
    UnderWay,
    /// The store rightly has none.
    Absent,
    /// The store lacks a row that its cursor has seen.
    Missing,
    /// The store has another version of it than the one that its cursor has seen.
    Stale,
    /// The store has a row that its cursor has seen go, or never come.
    Extra,
    /// The server did not answer, and the store alone cannot tell.
    Unknown,
}

/// What the store has of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// `None` where the entity was never pulled.
    pub(super) state: Option<State>,
    pub(super) row: Option<HeldRow>,
    pub(super) is_arriving: bool,
}

impl Verdict {
    /// Whether the two sides contradict each other, so that there is something to mend.
    pub fn is_contradiction(self) -> bool {
        matches!(self, Self::Missing | Self::Stale | Self::Extra)
    }
}

/// Decides by both sides; by the store alone where the server did not answer.
pub(super) fn decide(held: Held, server: Option<&Why>) -> Verdict {
    let Some(server) = server else {
        return Verdict::Unknown;
    };
    // What is kept although it was deleted is no row.
    let row = held.row.filter(|row| !row.deleted);
    let is_midway = matches!(held.state, Some(State::Pulling | State::Renewing));
    match (server.next_pull, server.outcome) {
        (Some(NextPull::Row), _) => Verdict::Comes,
        (Some(NextPull::Deletion), _) if row.is_some() => Verdict::Goes,
        (_, Outcome::Seen) => match row {
            Some(row) if row.changed_date == server.changed_date => Verdict::Equal,
            _ if held.is_arriving || is_midway => Verdict::UnderWay,
            Some(_) => Verdict::Stale,
            None => Verdict::Missing,
        },
        _ if row.is_none() => Verdict::Absent,
        (_, Outcome::NotCovered | Outcome::BeginsAnew | Outcome::SourceChanged | Outcome::ScopeChanged) => {
            Verdict::Goes
        }
        _ if is_midway => Verdict::UnderWay,
        _ => Verdict::Extra,
    }
}
