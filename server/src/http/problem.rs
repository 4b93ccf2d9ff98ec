//! Errors as problems: what is said to the caller, and what only to the log.

use std::any::Any;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use highwater_shared::{Code, PROBLEM_MEDIA_TYPE, Problem, ResyncReason};

use super::metrics::Counted;
use crate::limit::Limit;
use crate::page::{self, ReadError};

/// What a caller is told to wait before it tries again, in seconds. Within that time one that asks too often
/// has an allowance again.
const RETRY_AFTER_SECONDS: u16 = 1;

/// A request that is answered with a problem.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    detail: String,
    reason: Option<ResyncReason>,
    /// Whether an earlier cursor may do.
    earlier: bool,
    /// How the caller may say who it is.
    challenge: Option<&'static str>,
    /// The limit that it has reached, where that is still to be counted.
    limit: Option<Limit>,
}

impl Refusal {
    pub(super) fn new(code: Code, detail: String) -> Self {
        Self {
            code,
            detail,
            reason: None,
            earlier: false,
            challenge: None,
            limit: None,
        }
    }

    /// Says by which limit.
    pub(super) fn by(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The same, where the limit was counted before.
    pub(super) fn counted(mut self) -> Self {
        self.limit = None;
        self
    }

    pub(super) fn with_challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::UnknownEntity(_) => Self::new(Code::UnknownEntity, detail),
            ReadError::Resync { reason, earlier } => Self {
                reason: Some(reason),
                earlier,
                ..Self::new(Code::ResyncRequired, detail)
            },
            ReadError::BadPosition => Self::new(Code::InvalidSince, detail),
            ReadError::NoKeys(_) => Self::new(Code::InvalidBody, detail),
            ReadError::Unavailable(_) | ReadError::Fault { .. } => Self::new(Code::Unavailable, detail),
            ReadError::Limit(limit) => Self::new(Code::Unavailable, detail).by(limit),
            ReadError::Postgres(error) => error.into(),
            ReadError::Abandoned => Self::new(Code::Internal, detail),
        }
    }
}

impl From<sqlx::Error> for Refusal {
    /// What Postgres said goes to the log, not to the caller.
    fn from(error: sqlx::Error) -> Self {
        if is_passing(&error) {
            tracing::warn!(%error, "Postgres is not available");
            let detail = "the database is not available now; try again".to_owned();
            return Self {
                limit: page::limit_of(&error),
                ..Self::new(Code::Unavailable, detail)
            };
        }
        tracing::error!(%error, "a page could not be read");
        Self::new(
            Code::Internal,
            "the server could not read the page; its log says why, under this request's id".to_owned(),
        )
    }
}

/// Whether the same request may succeed later without anyone mending anything.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        // The last: the connection ended in the middle of an answer.
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection trouble, conflicts, too few resources, locks not had in time, shutdown.
            ["08", "40", "53", "55", "57"]
                .iter()
                .any(|class| code.starts_with(class))
                // A transaction that stood still, or lasted, for too long.
                || code == "25P03" || code == "25P04"
        }),
        _ => false,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            code: Some(self.code),
            detail: self.detail,
            reason: self.reason,
            earlier: self.earlier,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        if matches!(self.code, Code::Unavailable | Code::TooManyRequests) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(Counted {
            code: self.code,
            limit: self.limit,
            resync: self.reason,
        });
        response
    }
}

/// The answer to a request whose handler panicked: a fault of ours, and a problem like others.
pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Refusal::new(
        Code::Internal,
        "the server met a fault of its own; its log says where".to_owned(),
    )
    .into_response()
}
