//! How much a request may say: address, head and body, each refused where it is larger.

use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use highwater_shared::Code;

use super::options::ServeOptions;
use super::problem::Refusal;
use crate::limit::Limit;

/// The longest id of a request that is taken from it; a UUID has 36 bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The most that is said again, in the log or in an answer, of a text that a request has brought.
const EXCERPT_BYTES_MAX: usize = 256;

/// How much a request may say at most, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    url: usize,
    header: usize,
    body: u64,
}

impl Bounds {
    pub(super) fn of(options: &ServeOptions) -> Self {
        Self {
            url: options.url_bytes_max,
            header: options.header_bytes_max,
            body: options.body_bytes_max,
        }
    }
}

/// Lets a request pass that says no more than it may.
pub(super) async fn check(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    match excess(&request, bounds) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

/// The beginning of a text that may be as long as a request.
pub(super) fn excerpt(text: &str) -> &str {
    text.get(..text.floor_char_boundary(EXCERPT_BYTES_MAX))
        .unwrap_or_default()
}

/// Takes an id away that is to stand in each line of the log and should not. The request is given another.
pub(super) async fn check_id(State(name): State<HeaderName>, mut request: Request, next: Next) -> Response {
    if !request.headers().get(&name).is_none_or(is_id) {
        request.headers_mut().remove(&name);
    }
    next.run(request).await
}

fn is_id(value: &HeaderValue) -> bool {
    let is_graphic = |id: &str| id.bytes().all(|byte| byte.is_ascii_graphic());
    let length = value.len();
    (1..=REQUEST_ID_BYTES_MAX).contains(&length) && value.to_str().is_ok_and(is_graphic)
}

fn excess(request: &Request, bounds: Bounds) -> Option<Refusal> {
    let url = request.uri().path_and_query();
    let url_bytes = url.map_or(0, |url| url.as_str().len());
    if url_bytes > bounds.url {
        let detail = format!("the address has {url_bytes} bytes, and may have {}", bounds.url);
        return Some(Refusal::new(Code::UrlTooLong, detail).by(Limit::UrlBytesMax));
    }
    // As it was written, more or less: the library looks at its limit only when it needs more to read,
    // and what came in one piece may be larger.
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let head_bytes = url_bytes + headers.sum::<usize>();
    if head_bytes > bounds.header {
        let detail = format!(
            "address and headers have {head_bytes} bytes, and may have {}",
            bounds.header
        );
        return Some(Refusal::new(Code::HeadTooLarge, detail).by(Limit::HeaderBytesMax));
    }
    // What is not announced is not read either.
    let body_bytes = request.body().size_hint().lower();
    (body_bytes > bounds.body).then(|| {
        let detail = format!("the body has {body_bytes} bytes, and may have {}", bounds.body);
        Refusal::new(Code::BodyTooLarge, detail).by(Limit::BodyBytesMax)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_bounded() {
        assert_eq!(excerpt("/changes"), "/changes");
        let long = "ß".repeat(EXCERPT_BYTES_MAX);
        assert_eq!(excerpt(&long).len(), EXCERPT_BYTES_MAX);
        assert_eq!(excerpt(&format!("x{long}")).len(), EXCERPT_BYTES_MAX - 1);
    }

    #[test]
    fn an_id_is_short_and_can_be_seen() {
        let is_id = |bytes: &[u8]| super::is_id(&HeaderValue::from_bytes(bytes).expect("a header's value"));
        assert!(is_id(b"7c5aae1c-6f31-4d38-8a53-5d5d3f0b8f2e"));
        assert!(is_id(&[b'x'; REQUEST_ID_BYTES_MAX]));
        for bad in [&b""[..], b"\xff", b"two words", &[b'x'; REQUEST_ID_BYTES_MAX + 1]] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }
}
