//! Reads the parameters of `GET /changes`.

use std::borrow::Cow;
use std::time::Duration;

use highwater_shared::{Code, EntityName};
use url::form_urlencoded;

use super::problem::Refusal;
use crate::cursor::Cursor;
use crate::entity::PurgedAs;
use crate::page::{PAGE_ROWS, Since, Takes};
use crate::scope::RescopedAs;

/// The longest that a caller may ask to be held, in seconds.
pub(super) const WAIT_SECONDS_MAX: u64 = 60;

/// The most cursors that may be held besides the one that a pull goes on from. Each is looked into by itself.
const HELD_MAX: usize = 64;

/// The parameters of `GET /changes`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters<'q> {
    pub(super) since: Since,
    /// The same as it was written; empty where it was not.
    pub(super) since_text: Cow<'q, str>,
    /// Other cursors that the caller's rows go by.
    pub(super) held: Vec<Cursor>,
    pub(super) takes: Takes,
    pub(super) entities: Option<Vec<EntityName>>,
    pub(super) limit: u64,
    pub(super) wait: Duration,
}

/// Reads a query string, for pages of so many rows at most. Parameters that it does not know it passes over.
pub(super) fn parse(query: Option<&str>, page_rows_max: u64) -> Result<Parameters<'_>, Refusal> {
    let mut parameters = Parameters {
        since: Since::Nothing,
        since_text: Cow::Borrowed(""),
        held: Vec::new(),
        takes: Takes::default(),
        entities: None,
        limit: PAGE_ROWS.min(page_rows_max),
        wait: Duration::ZERO,
    };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "since" => {
                parameters.since = since(&value)?;
                parameters.since_text = value;
            }
            "held" if parameters.held.len() >= HELD_MAX => {
                let detail = format!("held: more than {HELD_MAX} cursors; ask for fewer entities at once");
                return Err(Refusal::new(Code::InvalidSince, detail));
            }
            "held" => parameters.held.push(held(&value)?),
            "purged" => {
                let choices = [("reset", PurgedAs::Reset), ("keys", PurgedAs::Keys)];
                parameters.takes.purged = choice(&name, &value, choices)?;
            }
            "rescoped" => {
                let choices = [("resync", RescopedAs::Resync), ("rows", RescopedAs::Rows)];
                parameters.takes.rescoped = choice(&name, &value, choices)?;
            }
            "entity" => parameters
                .entities
                .get_or_insert_default()
                .append(&mut entities(&value)?),
            "limit" => parameters.limit = limit(&value, page_rows_max)?,
            "wait" => parameters.wait = wait(&value)?,
            _ => {}
        }
    }
    Ok(parameters)
}

/// Reads a date or a cursor.
pub(super) fn since(value: &str) -> Result<Since, Refusal> {
    Since::read(value).map_err(|error| Refusal::new(Code::InvalidSince, format!("since: {error}")))
}

fn held(value: &str) -> Result<Cursor, Refusal> {
    Cursor::decode(value).map_err(|error| {
        let detail = format!("held: {error}; send the `next` of a response as it came");
        Refusal::new(Code::InvalidSince, detail)
    })
}

fn choice<T: Copy>(name: &str, value: &str, choices: [(&str, T); 2]) -> Result<T, Refusal> {
    let [(first, _), (second, _)] = choices;
    let chosen = choices.iter().find(|(choice, _)| *choice == value);
    chosen.map(|(_, choice)| *choice).ok_or_else(|| {
        let detail = format!("{name}: {value:?} is neither `{first}` nor `{second}`");
        Refusal::new(Code::InvalidChoice, detail)
    })
}

fn entities(value: &str) -> Result<Vec<EntityName>, Refusal> {
    value.split(',').map(entity).collect()
}

/// Reads one name.
pub(super) fn entity(name: &str) -> Result<EntityName, Refusal> {
    match name {
        "" => Err(Refusal::new(
            Code::InvalidEntity,
            "entity: a name is empty; GET /entities lists the names".to_owned(),
        )),
        name if name.contains(char::is_control) => Err(Refusal::new(
            Code::InvalidEntity,
            format!("entity: {name:?} has control characters"),
        )),
        name => Ok(EntityName::new(name)),
    }
}

fn limit(value: &str, most: u64) -> Result<u64, Refusal> {
    let digits = is_digits(value);
    match value.parse::<u64>() {
        Ok(limit) if digits && limit >= 1 => Ok(limit.min(most)),
        Err(_) if digits => Ok(most),
        _ => Err(Refusal::new(
            Code::InvalidLimit,
            format!("limit: {value:?} is not a whole number of 1 or more"),
        )),
    }
}

/// What Rust reads as a number may begin with a plus.
fn is_digits(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn wait(value: &str) -> Result<Duration, Refusal> {
    match value.parse::<u64>() {
        Ok(seconds) if is_digits(value) && seconds <= WAIT_SECONDS_MAX => Ok(Duration::from_secs(seconds)),
        _ => Err(Refusal::new(
            Code::InvalidWait,
            format!("wait: {value:?} is not a whole number of seconds from 0 to {WAIT_SECONDS_MAX}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROWS_MAX: u64 = 100_000;

    /// One that a server gave out.
    const CURSOR: &str =
        "AbfVrODm3N2Ba6aDASlLiBNt505xn7ICk_o7ib8BAKjkwxUAjAcAAQEBoIPi8bu5sAagg-Lxu7mwBgADaHCM";

    #[test]
    fn names_may_be_repeated_and_joined() {
        let parameters = parse(Some("entity=a,b&entity=c%20d&limit=7"), ROWS_MAX).unwrap();
        let names = ["a", "b", "c d"].map(EntityName::new);
        assert_eq!(parameters.entities.as_deref(), Some(names.as_slice()));
        assert_eq!(parameters.limit, 7);
    }

    #[test]
    fn the_epoch_means_the_same_as_no_since() {
        for query in [
            None,
            Some(""),
            Some("since=1970-01-01T00:00:00Z"),
            Some("since=1970-01-01T01:00:00+01:00"),
            Some("since=0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse(query, ROWS_MAX).unwrap().since, Since::Nothing, "{query:?}");
        }
    }

    #[test]
    fn what_is_held_is_a_cursor() {
        for query in ["held=soon", "held=", "held=2026-11-22T10:00:00Z"] {
            let refusal = format!("{:?}", parse(Some(query), ROWS_MAX).unwrap_err());
            assert!(refusal.contains("held: it is not a cursor"), "{query}: {refusal}");
        }
        let cursor = Cursor::decode(CURSOR).unwrap();
        let many = |count: usize| vec![format!("held={CURSOR}"); count].join("&");
        let most = many(HELD_MAX);
        assert_eq!(parse(Some(&most), ROWS_MAX).unwrap().held, vec![cursor; HELD_MAX]);
        let refusal = format!("{:?}", parse(Some(&many(HELD_MAX + 1)), ROWS_MAX).unwrap_err());
        assert!(refusal.contains("held: more than 64 cursors"), "{refusal}");
    }

    #[test]
    fn a_limit_above_the_maximum_is_lowered() {
        for above in ["limit=99999999999999999999999", "limit=100001", "limit=100000"] {
            assert_eq!(parse(Some(above), ROWS_MAX).unwrap().limit, ROWS_MAX);
        }
        assert_eq!(
            parse(None, 10).unwrap().limit,
            10,
            "that of the server is no larger"
        );
    }

    proptest! {
        #[test]
        fn any_query_is_read_without_panic(query in ".{0,80}") {
            let _ = parse(Some(&query), ROWS_MAX);
        }
    }
}
