//! Who calls: reads the credential of a request, and lets it in with a `Caller` or refuses it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, Entry, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use headers::authorization::{Basic, Credentials as _};
use highwater_shared::{CLIENT_HEADER, Code, Device, EntityName};

use super::handlers::now;
use super::metrics::Counted;
use super::problem::Refusal;
use super::{Shared, bounds};
use crate::auth::Denied;
use crate::caller::Caller;
use crate::fleet::Visit;
use crate::page::Asked;

/// How a caller may say who it is, and what was wrong with how it did (RFC 6750, section 3).
const CHALLENGE: &str = "Bearer realm=\"highwater\"";
const CHALLENGE_AGAIN: &str = "Bearer realm=\"highwater\", error=\"invalid_token\"";

/// What has a browser ask for a name and a password (RFC 7617); the password is the key, and any name will do.
const BASIC_CHALLENGE: &str = "Basic realm=\"highwater\", charset=\"UTF-8\"";

/// No cache may hand to others what one caller gets.
pub(super) const OWN: HeaderValue = HeaderValue::from_static("no-store, private");

/// Who may come in, and how they may say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Whoever is known, by `Bearer`.
    Callers,
    /// Whoever is known; by `Basic` too, which browsers ask for by themselves.
    Browsers,
    /// Operators, by either.
    Operators,
}

/// Stands before each route that is not for everybody: its handler finds the `Caller` among the
/// extensions of the request.
pub(super) async fn admit(
    State((shared, door)): State<(Arc<Shared>, Door)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(authenticator) = &shared.options.authenticator else {
        return serve(&shared, Caller::anyone(), request, next).await;
    };
    let known = match credential(request.headers(), door) {
        Ok(Some(credential)) => authenticator.caller(&credential, now()).await.map_err(Some),
        Ok(None) => Err(None),
        Err(denied) => Err(Some(denied)),
    };
    let mut response = match known {
        Ok(caller) => {
            tracing::Span::current().record("caller", caller.name().map(bounds::excerpt));
            match shared.pace.admit(&caller).await {
                Ok(()) if door == Door::Operators && !caller.is_operator() => for_operators().into_response(),
                Ok(()) => serve(&shared, caller, request, next).await,
                Err(limit) => {
                    let refusal = Refusal::new(Code::TooManyRequests, limit.told().to_owned());
                    let response = refusal.by(limit).into_response();
                    answered(visit(&shared, &request, &caller).as_ref(), &response);
                    response
                }
            }
        }
        Err(denied) => {
            let mut response = refusal(denied.as_ref()).into_response();
            if door != Door::Callers && response.status() == StatusCode::UNAUTHORIZED {
                offer_basic(&mut response);
            }
            response
        }
    };
    // Errors too: what somebody may not read is told to nobody else.
    response.headers_mut().insert(CACHE_CONTROL, OWN);
    response
}

/// Has a request answered, and remembers of its device how.
async fn serve(shared: &Shared, caller: Caller, mut request: Request, next: Next) -> Response {
    let visit = visit(shared, &request, &caller);
    request.extensions_mut().insert(caller);
    if let Some(visit) = &visit {
        request.extensions_mut().insert(visit.clone());
    }
    let response = next.run(request).await;
    answered(visit.as_ref(), &response);
    response
}

/// The device that a request comes from, where it says so.
fn visit(shared: &Shared, request: &Request, caller: &Caller) -> Option<Visit> {
    let header = request.headers().get(CLIENT_HEADER)?;
    shared
        .fleet
        .visit(&Device::parse(header.as_bytes())?, caller, now())
}

fn answered(visit: Option<&Visit>, response: &Response) {
    if let Some(visit) = visit {
        let code = response
            .extensions()
            .get()
            .map(|counted: &Counted| counted.code.name());
        visit.answered(response.status().as_u16(), code, now());
    }
}

/// What those are told who are no operators.
pub(super) fn for_operators() -> Refusal {
    let detail = "this is for operators: for keys made with `key new --operator`, and for tokens whose claim `operator` is \
                  true";
    Refusal::new(Code::Forbidden, detail.to_owned())
}

/// Names the two ways in, the one that browsers know first.
fn offer_basic(response: &mut Response) {
    let headers = response.headers_mut();
    let Entry::Occupied(mut challenges) = headers.entry(WWW_AUTHENTICATE) else {
        return;
    };
    let bearer = challenges.insert(HeaderValue::from_static(BASIC_CHALLENGE));
    challenges.append(bearer);
}

/// What a caller presents; `None` where it presents nothing.
pub(super) fn credential(headers: &HeaderMap, door: Door) -> Result<Option<Cow<'_, str>>, Denied> {
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
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(Cow::Borrowed(credential.trim())))
        }
        Some((scheme, _)) if door != Door::Callers && scheme.eq_ignore_ascii_case("basic") => {
            let basic = Basic::decode(value).ok_or(Denied::Invalid("credentials that cannot be read"))?;
            Ok(Some(Cow::Owned(basic.password().to_owned())))
        }
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
        credential(&headers, Door::Callers).map(|found| found.map(Cow::into_owned))
    }

    #[test]
    fn only_for_operators_a_password_may_be_the_key() {
        let read = |text: &str| {
            let headers = [(AUTHORIZATION, HeaderValue::from_str(text).unwrap())]
                .into_iter()
                .collect();
            credential(&headers, Door::Operators).map(|found| found.map(Cow::into_owned))
        };
        // "anna:hw_1_a:b", and the same with nobody's name.
        for text in ["Basic YW5uYTpod18xX2E6Yg==", "basic Omh3XzFfYTpi"] {
            assert_eq!(read(text), Ok(Some("hw_1_a:b".to_owned())), "{text}");
        }
        assert_eq!(read("Bearer a.b"), Ok(Some("a.b".to_owned())));
        for text in ["Basic", "Basic ", "Basic ///", "Basic YW5uYQ==", "Digest a"] {
            assert!(matches!(read(text), Err(Denied::Invalid(_))), "{text}");
        }
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
