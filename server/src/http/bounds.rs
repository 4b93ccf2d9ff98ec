//! How much a request may say: address, head and body, each refused where it is larger.

use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use highwater_shared::Code;

use super::options::ServeOptions;
use super::problem::Refusal;
use crate::limit::Limit;

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
