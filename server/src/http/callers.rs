//! Who calls: reads the credential of a request, and lets it in with a `Caller` or refuses it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use highwater_shared::{Code, EntityName, Timestamp};

use super::Shared;
use super::problem::Refusal;
use crate::auth::Denied;
use crate::caller::Caller;
use crate::page::Asked;

/// How a caller may say who it is, and what was wrong with how it did (RFC 6750, section 3).
const CHALLENGE: &str = "Bearer realm=\"highwater\"";
const CHALLENGE_AGAIN: &str = "Bearer realm=\"highwater\", error=\"invalid_token\"";

/// No cache may hand to others what one caller gets.
pub(super) const OWN: HeaderValue = HeaderValue::from_static("no-store, private");

/// Stands before each route that is not for everybody: its handler finds the `Caller` among the
/// extensions of the request.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let Some(authenticator) = &shared.options.authenticator else {
        request.extensions_mut().insert(Caller::anyone());
        return next.run(request).await;
    };
    let now = Timestamp::from_micros(Utc::now().timestamp_micros());
    let known = match credential(request.headers()) {
        Ok(Some(credential)) => authenticator.caller(credential, now).await.map_err(Some),
        Ok(None) => Err(None),
        Err(denied) => Err(Some(denied)),
    };
    let mut response = match known {
        Ok(caller) => {
            tracing::Span::current().record("caller", caller.name());
            match shared.pace.admit(&caller).await {
                Ok(()) => {
                    request.extensions_mut().insert(caller);
                    next.run(request).await
                }
                Err(limit) => {
                    let refusal = Refusal::new(Code::TooManyRequests, limit.told().to_owned());
                    refusal.by(limit).into_response()
                }
            }
        }
        Err(denied) => refusal(denied.as_ref()).into_response(),
    };
    // Errors too: what somebody may not read is told to nobody else.
    response.headers_mut().insert(CACHE_CONTROL, OWN);
    response
}

/// What a caller presents; `None` where it presents nothing.
pub(super) fn credential(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // A proxy may look at the one and the server at the other.
    if values.next().is_some() {
        return Err(Denied::Invalid("several Authorization headers"));
    }
    let text = value
        .to_str()
        .map_err(|_| Denied::Invalid("an Authorization header that is not text"))?;
    match text.trim().split_once(' ') {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(credential.trim())),
        _ => Err(Denied::Invalid(
            "an Authorization header of another scheme than Bearer",
        )),
    }
}

/// What a caller is told who is not let in; the log is told why.
fn refusal(denied: Option<&Denied>) -> Refusal {
    let Some(denied) = denied else {
        tracing::debug!("a caller did not say who it is");
        let detail = "this server asks who you are: send `Authorization: Bearer` with an API key or a token";
        return Refusal::new(Code::Unauthenticated, detail.to_owned()).with_challenge(CHALLENGE);
    };
    tracing::warn!(reason = %denied, "a caller was refused");
    let detail = match denied {
        Denied::Invalid(_) | Denied::WrongSecret(_) => "the key or token is not valid here",
        Denied::Expired(_) => "the key or token has expired",
        Denied::NotYetValid => "the token is not valid yet",
        Denied::KeysUnknown => {
            let detail = "the token cannot be verified now; try again";
            return Refusal::new(Code::Unavailable, detail.to_owned());
        }
    };
    Refusal::new(Code::Unauthenticated, detail.to_owned()).with_challenge(CHALLENGE_AGAIN)
}

/// What is asked for, as far as the caller may read it. A name that it may not read is refused
/// whether there is such an entity or not.
pub(super) fn asked(caller: &Caller, wanted: Option<Vec<EntityName>>) -> Result<Asked, Refusal> {
    match (wanted, caller.entities()) {
        (Some(names), _) => match names.iter().find(|name| !caller.may_read(name)) {
            Some(name) => {
                let detail = format!("you may not read an entity {:?}", name.as_str());
                Err(Refusal::new(Code::ForbiddenEntity, detail))
            }
            None => Ok(Asked::These(names)),
        },
        (None, Some(allowed)) => Ok(Asked::AmongThese(Arc::clone(allowed))),
        (None, None) => Ok(Asked::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&[u8]]) -> Result<Option<String>, Denied> {
        let header = |value: &&[u8]| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        let headers = values.iter().map(header).collect();
        credential(&headers).map(|found| found.map(str::to_owned))
    }

    #[test]
    fn one_header_of_the_scheme_bearer_is_read() {
        assert_eq!(read(&[]), Ok(None));
        for text in ["Bearer a.b", "bearer a.b", "BEARER   a.b "] {
            assert_eq!(read(&[text.as_bytes()]), Ok(Some("a.b".to_owned())), "{text}");
        }
        for values in [
            &[&b"Basic dTpw"[..]][..],
            &[b"a.b"],
            &[b""],
            &[b"Bearer"],
            &[b"Bearer \xff\xfe"],
            &[b"Bearer a.b", b"Bearer a.b"],
        ] {
            assert!(matches!(read(values), Err(Denied::Invalid(_))), "{values:?}");
        }
    }
}
