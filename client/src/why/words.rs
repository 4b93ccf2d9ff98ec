//! Says what was decided, and what to do.

use highwater_shared::{Code, EntityName, Timestamp, Why};

use super::Verdict;
use super::decide::Held;
use crate::error::Error;
use crate::sync_helper::State;

/// What is so, sentence by sentence, and what to do.
pub(super) fn say(
    entity: &EntityName,
    held: Held,
    pulled_at: Option<Timestamp>,
    verdict: Verdict,
    server: &Result<Why, Error>,
) -> (Vec<String>, String) {
    let mut what = vec![row(held), state(entity, held.state, pulled_at)];
    match server {
        Ok(server) => what.push(format!("The server says: {}", server.what)),
        Err(error @ Error::Refused { .. }) => what.push(format!("Asked, {error}.")),
        Err(error) => what.push(format!("The server did not answer: {error}")),
    }
    if let Some(contradiction) = contradiction(verdict) {
        what.push(contradiction.to_owned());
    }
    (what, remedy(entity, held, verdict, server))
}

fn row(held: Held) -> String {
    match held.row {
        None if held.is_arriving => {
            "The store has the row, and shows it when the pull under way has ended.".to_owned()
        }
        None => "The store has no such row.".to_owned(),
        Some(row) => {
            let date = row
                .changed_date
                .map_or("at a date that is none".to_owned(), |date| format!("at {date}"));
            let how = if row.deleted {
                "keeps the row as deleted"
            } else {
                "has the row as it changed"
            };
            format!("The store {how} {date}.")
        }
    }
}

fn state(entity: &EntityName, state: Option<State>, pulled_at: Option<Timestamp>) -> String {
    let ended = pulled_at.map_or(String::new(), |date| format!("; the last pull ended at {date}"));
    match state {
        None => format!("{entity} was never pulled into this store."),
        Some(State::Current) => format!("{entity} stands at one cut of the source{ended}."),
        Some(State::Pulling) => format!("{entity} is in the middle of a pull{ended}."),
        Some(State::Renewing) => {
            format!(
                "{entity} is in the middle of a pull that begins it anew, and shows the old rows meanwhile{ended}."
            )
        }
        Some(State::Waiting) => format!("{entity} is to begin anew with the next pull{ended}."),
        Some(State::Withdrawn) => {
            format!(
                "The server no longer offered {entity} when it was pulled last, and its rows stay as they were{ended}."
            )
        }
    }
}

fn contradiction(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Missing => {
            Some("The store lacks a row that its cursor has seen: it was changed here, or is damaged.")
        }
        Verdict::Stale => Some(
            "The store has another version of the row than the one that its cursor has seen: it was changed here, or is \
             damaged.",
        ),
        Verdict::Extra => {
            Some("The store has a row that the source does not: it was changed here, or is damaged.")
        }
        _ => None,
    }
}

fn remedy(entity: &EntityName, held: Held, verdict: Verdict, server: &Result<Why, Error>) -> String {
    let pull = "Pull: `highwater pull`, or wait for `highwater run`.";
    match verdict {
        Verdict::Equal => {
            "Nothing is wrong; whoever does not find the row looks into another file, or asks otherwise."
                .to_owned()
        }
        Verdict::Comes | Verdict::Goes => pull.to_owned(),
        Verdict::UnderWay => {
            "Let the pull under way end: `highwater pull`, or wait for `highwater run`.".to_owned()
        }
        Verdict::Missing | Verdict::Stale | Verdict::Extra => {
            format!("Run `highwater verify --repair --entity {entity}`.")
        }
        Verdict::Absent => match server {
            Ok(server) => server.remedy.clone(),
            Err(_) => pull.to_owned(),
        },
        Verdict::Unknown => unanswered(held, server),
    }
}

/// What the store alone can say.
fn unanswered(held: Held, server: &Result<Why, Error>) -> String {
    match server {
        Err(Error::Refused {
            code: Some(Code::ForbiddenEntity),
            ..
        }) => "Grant the entity to this device's key or token, and pull.".to_owned(),
        Err(Error::Refused {
            code: Some(Code::UnknownEntity),
            ..
        }) => "Look at the name: `highwater status` lists those of the store.".to_owned(),
        Err(Error::Refused {
            code: Some(Code::NotFound),
            ..
        }) => "The server is older than this question; update it.".to_owned(),
        _ if held.row.is_some_and(|row| !row.deleted) => {
            "The row is there. Whether it is the newest version, ask again when the server answers."
                .to_owned()
        }
        _ if held.state.is_none() => "Pull once, when the server answers.".to_owned(),
        _ => "Ask again when the server answers: the store alone cannot tell whether there is such a row."
            .to_owned(),
    }
}
