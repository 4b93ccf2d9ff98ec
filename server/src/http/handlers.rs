//! The handlers: each reads the request, calls one function, shapes the answer.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use highwater_shared::{COPY_MEDIA_TYPE, Code, EntityList, JSON_MEDIA_TYPE};
use tokio::sync::mpsc;

use super::problem::Refusal;
use super::{Shared, State, accept, query};
use crate::database;
use crate::entity;
use crate::live::{self, Answer};
use crate::page::{self, Format, MOVED, OpenPage, Output, PAGE_TIME_MAX, PageRequest, ReadError};
use crate::share::Chunks;

/// Chunks that wait for the reader of a response before the page waits for it.
const CHUNKS_WAITING_MAX: usize = 4;

/// `GET /changes`
pub(super) async fn changes(
    shared: State,
    RawQuery(text): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let parameters = query::parse(text.as_deref())?;
    let format = accept::format(&headers).ok_or_else(|| {
        Refusal::new(
            Code::NotAcceptable,
            format!("a page is served as {JSON_MEDIA_TYPE} or {COPY_MEDIA_TYPE}"),
        )
    })?;
    let request = PageRequest {
        since: parameters.since,
        entities: parameters.entities,
        limit: parameters.limit,
        time_max: PAGE_TIME_MAX,
        format,
    };
    let answer = live::answer(
        &shared.node,
        &shared.watcher,
        &shared.pages,
        request,
        parameters.wait,
        &shared.shutdown,
    );
    let body = match answer.await? {
        Answer::Page(page) => body(send(Arc::clone(&shared), page, format)).await?,
        Answer::UnderWay(chunks) => body(chunks).await?,
        Answer::Shared(page) => Body::from(page.body.clone()),
        Answer::Nothing(trailer) => Body::from(page::nothing(format, &trailer)?),
    };
    let media_type = match format {
        Format::Copy => COPY_MEDIA_TYPE,
        Format::Json => JSON_MEDIA_TYPE,
    };
    let headers = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-store"),
        (VARY, "accept"),
    ];
    Ok((headers, body).into_response())
}

/// Sends a page while it is read.
fn send(shared: Arc<Shared>, page: Box<OpenPage>, format: Format) -> Chunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    let output = Output::new(format, sender);
    tokio::spawn(async move { page.send(&shared.node, &shared.watcher.samples, output).await });
    chunks
}

/// A body that is still being read. The first chunk is awaited, so that a page that fails before
/// it is answered with a problem; later the response can only be cut off.
async fn body(mut chunks: Chunks) -> Result<Body, ReadError> {
    let Some(first) = chunks.recv().await else {
        return Err(ReadError::Abandoned);
    };
    let first: Bytes = first?;
    if chunks.is_closed() && chunks.is_empty() {
        return Ok(Body::from(first));
    }
    let rest = futures_util::stream::unfold(chunks, |mut chunks| async move {
        Some((chunks.recv().await?, chunks))
    });
    let all = futures_util::stream::once(async { Ok(first) }).chain(rest);
    Ok(Body::from_stream(all.fuse().map(|chunk| {
        chunk.map_err(|error: ReadError| {
            tracing::warn!(%error, "a page was cut off");
            io::Error::other(error)
        })
    })))
}

/// `GET /entities`
pub(super) async fn entities(shared: State) -> Result<Response, Refusal> {
    let entities = entity::list(&shared.node).await?;
    let mut list = EntityList {
        entities: entities.iter().map(entity::Entity::describe).collect(),
    };
    list.entities.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(([(CACHE_CONTROL, "no-store")], Json(list)).into_response())
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: it can answer from the database too.
pub(super) async fn readyz(shared: State) -> Result<&'static str, Refusal> {
    match database::own_id(&shared.node).await? {
        Some(_) => Ok("ready\n"),
        None => Err(Refusal::new(Code::Unavailable, MOVED.to_owned())),
    }
}

/// Every other path.
pub(super) async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("nothing is at {}; see /changes and /entities", uri.path()),
    )
}

/// Every other method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        Code::MethodNotAllowed,
        format!("{} takes GET, not {method}", uri.path()),
    )
}
