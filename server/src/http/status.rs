//! `GET /status`: reads what is searched for, and tells operators how everything fares.

use axum::extract::RawQuery;
use axum::response::{IntoResponse as _, Json, Response};
use highwater_shared::Code;
use highwater_shared::status::{ServerStatus, Status};
use url::form_urlencoded;

use super::handlers::now;
use super::problem::Refusal;
use super::{Shared, State};
use crate::status::Sights;

/// The devices that are told of where nothing else is asked for, and the most.
pub(super) const DEVICES: usize = 100;
pub(super) const DEVICES_TOLD_MAX: usize = 1_000;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    search: String,
    limit: usize,
}

/// `GET /status`
pub(super) async fn status(shared: State, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let wanted = parse(query.as_deref())?;
    let sights = Sights {
        node: &shared.node,
        watcher: &shared.watcher,
        tombstones: &shared.tombstones,
        fleet: &shared.fleet,
    };
    let scene = shared.board.scene(&sights, now).await.ok_or_else(|| {
        let detail = "how the devices stand could not be told; the log says why".to_owned();
        Refusal::new(Code::Internal, detail)
    })?;
    let status = Status {
        server: server(&shared),
        source: scene.source,
        entities: scene.entities,
        fleet: scene.fleet.worst(&wanted.search, wanted.limit),
    };
    Ok(Json(status).into_response())
}

fn server(shared: &Shared) -> ServerStatus {
    ServerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: now(),
        started: shared.started,
        requests: shared.node.metrics.requests(),
        answering: shared.turns.answering() as u64,
        waiting: shared.turns.waiting() as u64,
    }
}

/// Reads a query string. Parameters that it does not know it passes over.
fn parse(query: Option<&str>) -> Result<Wanted, Refusal> {
    let mut wanted = Wanted {
        search: String::new(),
        limit: DEVICES,
    };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "search" => value.trim().clone_into(&mut wanted.search),
            "limit" => wanted.limit = limit(&value)?,
            _ => {}
        }
    }
    Ok(wanted)
}

fn limit(value: &str) -> Result<usize, Refusal> {
    // Rust reads a plus before it, which is a space in an address.
    let number =
        Some(value).filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(number) = number else {
        let detail = format!("limit: {value:?} is not a whole number of 0 or more");
        return Err(Refusal::new(Code::InvalidLimit, detail));
    };
    // One that is too large to be read is too large all the more.
    Ok(number.parse().unwrap_or(DEVICES_TOLD_MAX).min(DEVICES_TOLD_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_bounded() {
        let wanted = |search: &str, limit| Wanted {
            search: search.to_owned(),
            limit,
        };
        assert_eq!(parse(None).unwrap(), wanted("", DEVICES));
        assert_eq!(
            parse(Some("search=+Till%207+&limit=0&new=1")).unwrap(),
            wanted("Till 7", 0)
        );
        let large = format!("limit={}", "9".repeat(50));
        assert_eq!(parse(Some(&large)).unwrap().limit, DEVICES_TOLD_MAX);
        for bad in ["limit=", "limit=-1", "limit=%2B1", "limit=1.5"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
