//! `POST /digests`: reads what is to be compared, and sends digests of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Extension, Request};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use highwater_shared::digests::{BITS_MAX, PARTS_BITS_MAX, mask};
use highwater_shared::{COPY_MEDIA_TYPE, Code, DigestsOf, DigestsRequest, EntityName, Want, Within};
use tokio::sync::mpsc;

use super::handlers::{PIECES_WAITING_MAX, body};
use super::problem::Refusal;
use super::{ServeOptions, State, accept, callers, query};
use crate::caller::Caller;
use crate::limit::{Limit, PageBounds};
use crate::page::{self, DigestsAsked, Format, Output, ReadError, Since};

/// How long the body of a request may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// `POST /digests`
pub(super) async fn digests(
    shared: State,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    if !accept::takes_blocks(request.headers()) {
        let detail = format!("digests are served as {COPY_MEDIA_TYPE}");
        return Err(Refusal::new(Code::NotAcceptable, detail));
    }
    let turn = shared.turns.take(&caller)?;
    let scanning = Arc::clone(&shared.scans)
        .try_acquire_owned()
        .map_err(|_| ReadError::Limit(Limit::DigestsMax))?;
    let asked = read(request, caller, &shared.options).await?;
    let open = page::open_digests(&shared.node, asked).await?;
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let output = Output::new(Format::Copy, sender, shared.options.page.send_wait_max);
    let State { 0: server } = shared;
    tokio::spawn(async move {
        open.send(&server.node, &server.watcher.samples, output).await;
        drop(scanning);
    });
    let (body, _) = body(pieces, turn).await?;
    Ok(([(CONTENT_TYPE, COPY_MEDIA_TYPE)], body).into_response())
}

/// Reads what is asked for, as far as the caller may read it.
async fn read(request: Request, caller: Caller, options: &ServeOptions) -> Result<DigestsAsked, Refusal> {
    let bytes_max = usize::try_from(options.body_bytes_max).unwrap_or(usize::MAX);
    let body = to_bytes(request.into_body(), bytes_max);
    let body = match tokio::time::timeout(BODY_TIME_MAX, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if !is_too_large(&error) => {
            return Err(invalid(format!("the body broke off: {error}")));
        }
        Ok(_) => {
            let detail = format!("the body may have {bytes_max} bytes");
            return Err(Refusal::new(Code::BodyTooLarge, detail).by(Limit::BodyBytesMax));
        }
        Err(_) => {
            let detail = format!(
                "the body did not arrive within {} seconds",
                BODY_TIME_MAX.as_secs()
            );
            return Err(invalid(detail));
        }
    };
    let request: DigestsRequest = serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
    let since = match &request.since {
        Some(since) => query::since(since)?,
        None => Since::Nothing,
    };
    let is_settled = match &since {
        Since::Nothing => true,
        Since::Cursor(cursor) => cursor.is_settled(),
        Since::Date(_) => false,
    };
    if !is_settled {
        let detail = "since: digests are taken as of the cursor of a pull that has ended";
        return Err(Refusal::new(Code::InvalidSince, detail.to_owned()));
    }
    let names: Vec<EntityName> = request.entities.iter().map(|of| of.entity.clone()).collect();
    for of in &request.entities {
        check(of).map_err(invalid)?;
    }
    if names.is_empty()
        || names
            .iter()
            .enumerate()
            .any(|(place, name)| names.iter().skip(place + 1).any(|other| other == name))
    {
        return Err(invalid("entities: name some, each once".to_owned()));
    }
    callers::asked(&caller, Some(names))?;
    Ok(DigestsAsked {
        since,
        deep: request.deep,
        entities: request.entities,
        caller,
        bounds: PageBounds {
            time_max: options.digests_time_max,
            ..options.page
        },
    })
}

/// Refuses numbers that mean nothing, and more parts than are told apart at once.
fn check(of: &DigestsOf) -> Result<(), String> {
    let within = of.within.as_ref();
    let is_part = |within: &Within| within.parts.iter().all(|part| *part <= mask(within.bits));
    if of.bits > BITS_MAX || within.is_some_and(|within| within.bits > BITS_MAX) {
        return Err(format!("bits: a part is named by {BITS_MAX} bits at most"));
    }
    if !within.is_none_or(is_part) {
        return Err("within: a part is below two to the power of its bits".to_owned());
    }
    let bits_before = within.map_or(0, |within| within.bits);
    let parts_before = within.map_or(1, |within| within.parts.len() as u64);
    let parts = parts_before.saturating_mul(1 << of.bits.saturating_sub(bits_before));
    if of.want == Want::Parts && parts > 1 << PARTS_BITS_MAX {
        return Err(format!(
            "bits: {} parts at once are the most",
            1 << PARTS_BITS_MAX
        ));
    }
    Ok(())
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Code::InvalidBody, detail)
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
