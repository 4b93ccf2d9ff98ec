//! What caches between server and caller may do with a page. Why, says `docs/protocol.md`.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use headers::{CacheControl, ETag, HeaderMapExt as _, IfNoneMatch};

use super::query::Parameters;
use crate::caller::Caller;

/// How old a page may be that a proxy hands to others. A caller's own cache keeps none: who commits
/// and then asks the server itself finds the commit.
const PAGE_AGE_MAX: Duration = Duration::from_secs(1);

/// The same for pages in the middle of a pull. Nobody asks these for news.
const MIDWAY_AGE_MAX: Duration = Duration::from_mins(1);

/// What of a request decides who may keep its answer.
#[derive(Debug)]
pub(super) struct Terms {
    purpose: Purpose,
    /// What the caller has already.
    known: Option<IfNoneMatch>,
}

/// What a request is for, as far as it matters to caches; the first that fits.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// A page for this caller alone.
    Own,
    /// A page to a caller who would take half of it for the whole: HTTP/1.0 ends a body by closing
    /// the connection, and so does a server that is killed.
    Uncertain,
    /// A page that goes on in the middle of a pull.
    Midway,
    /// News, when there are some.
    Wait,
    /// The present state.
    Now,
}

/// What of a page decides it.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) is_empty: bool,
    /// Names the body where all of it is at hand; `None` where it is read while it is sent.
    pub(super) tag: Option<&'a str>,
}

impl Terms {
    pub(super) fn of(
        version: Version,
        headers: &HeaderMap,
        caller: &Caller,
        parameters: &Parameters,
    ) -> Self {
        // Where nobody is asked who they are, whoever says so all the same may have said it to a
        // proxy, and no answer to it may reach another.
        let purpose = if !caller.is_unrestricted() || headers.contains_key(AUTHORIZATION) {
            Purpose::Own
        } else if version < Version::HTTP_11 {
            Purpose::Uncertain
        } else if parameters.since.is_midway() {
            Purpose::Midway
        } else if parameters.wait.is_zero() {
            Purpose::Now
        } else {
            Purpose::Wait
        };
        Self {
            purpose,
            known: headers.typed_get(),
        }
    }

    /// Shapes the answer to a request: says who may keep it, and leaves the body out where the
    /// caller has it.
    pub(super) fn apply(&self, page: &Kept<'_>, mut response: Response) -> Response {
        let tag: Option<ETag> = page.tag.and_then(|tag| format!("W/\"{tag}\"").parse().ok());
        if let (Some(tag), Some(known)) = (&tag, &self.known)
            && !known.precondition_passes(tag)
        {
            response = StatusCode::NOT_MODIFIED.into_response();
        }
        let headers = response.headers_mut();
        headers.typed_insert(self.cache_control(page.is_empty));
        // In one line, which every cache reads.
        headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        if let Some(tag) = tag {
            headers.typed_insert(tag);
        }
        response
    }

    fn cache_control(&self, is_empty: bool) -> CacheControl {
        let control = CacheControl::new();
        match self.purpose {
            Purpose::Own => control.with_private().with_no_store(),
            Purpose::Uncertain => control.with_no_store(),
            Purpose::Midway => control.with_public().with_max_age(MIDWAY_AGE_MAX),
            // The next request may be the same, and would not be held.
            Purpose::Wait if is_empty => control.with_no_cache(),
            Purpose::Wait | Purpose::Now => control
                .with_public()
                .with_max_age(Duration::ZERO)
                .with_s_max_age(PAGE_AGE_MAX),
        }
    }
}
