//! The handlers: each reads the request, calls one function, shapes the answer.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, RawQuery};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Uri, Version};
use axum::response::{IntoResponse, Json, Response};
use futures_util::StreamExt as _;
use highwater_shared::{COPY_MEDIA_TYPE, Code, EntityList, JSON_MEDIA_TYPE};
use tokio::sync::mpsc;

use super::caching::{Kept, Terms};
use super::problem::Refusal;
use super::{Shared, State, accept, callers, query};
use crate::caller::Caller;
use crate::database;
use crate::entity;
use crate::live::{self, Answer};
use crate::page::{self, Format, MOVED, OpenPage, Output, PageRequest, Piece, Pieces, ReadError};
use crate::turns::Turn;

/// Pieces that wait for the reader of a response before the page waits for it.
pub(super) const PIECES_WAITING_MAX: usize = 4;

/// `GET /changes`
pub(super) async fn changes(
    shared: State,
    version: Version,
    Extension(caller): Extension<Caller>,
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
    let terms = Terms::of(version, &headers, &caller, &parameters);
    let asked = callers::asked(&caller, parameters.entities)?;
    let mut turn = shared.turns.take()?;
    let request = PageRequest {
        since: parameters.since,
        entities: asked,
        caller,
        limit: parameters.limit,
        time_max: shared.options.page_time_max,
        format,
    };
    let answer = live::answer(
        &shared.node,
        &shared.watcher,
        &shared.pages,
        request,
        parameters.wait,
        &mut turn,
        &shared.shutdown,
    );
    let media_type = match format {
        Format::Copy => COPY_MEDIA_TYPE,
        Format::Json => JSON_MEDIA_TYPE,
    };
    let (body, is_empty, tag) = match answer.await? {
        Answer::Page(open) => {
            let is_empty = open.is_empty();
            let (body, tag) = body(send(Arc::clone(&shared), open, format), turn).await?;
            (body, is_empty, tag)
        }
        // One that holds no changes is not sent before it is whole.
        Answer::UnderWay(pieces) => {
            let (body, tag) = body(pieces, turn).await?;
            (body, false, tag)
        }
        Answer::Shared(page) => (
            Body::from(page.body.clone()),
            page.is_empty,
            Some(page.tag.clone()),
        ),
        Answer::Nothing(trailer) => {
            let body = page::nothing(format, &trailer)?;
            let tag = page::tag(&body);
            (Body::from(body), true, Some(tag))
        }
    };
    let kept = Kept {
        is_empty,
        tag: tag.as_deref(),
    };
    Ok(terms.apply(&kept, ([(CONTENT_TYPE, media_type)], body).into_response()))
}

/// Sends a page while it is read.
fn send(shared: Arc<Shared>, page: Box<OpenPage>, format: Format) -> Pieces {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let output = Output::new(format, sender).with_send_wait_max(shared.options.send_wait_max);
    tokio::spawn(async move { page.send(&shared.node, &shared.watcher.samples, output).await });
    pieces
}

/// A body that is still being read, during which the turn lasts, or a small one and its name. The
/// first piece is awaited, so that a page that fails before it is answered with a problem; later the
/// response can only be cut off.
pub(super) async fn body(mut pieces: Pieces, turn: Turn) -> Result<(Body, Option<String>), ReadError> {
    let first = match pieces.recv().await.unwrap_or(Err(ReadError::Abandoned))? {
        Piece::Last(whole) => {
            let tag = page::tag(&whole);
            return Ok((Body::from(whole), Some(tag)));
        }
        Piece::More(first) => first,
    };
    let rest = futures_util::stream::unfold(Some((pieces, turn)), |under_way| async move {
        let (mut pieces, turn) = under_way?;
        Some(match pieces.recv().await {
            Some(Ok(Piece::More(bytes))) => (Ok(bytes), Some((pieces, turn))),
            Some(Ok(Piece::Last(bytes))) => (Ok(bytes), None),
            Some(Err(error)) => (Err(error), None),
            // What came must not pass for the whole.
            None => (Err(ReadError::Abandoned), None),
        })
    });
    let all = futures_util::stream::once(async { Ok(first) }).chain(rest);
    let body = Body::from_stream(all.fuse().map(|bytes| {
        bytes.map_err(|error: ReadError| {
            tracing::warn!(%error, "a page was cut off");
            io::Error::other(error)
        })
    }));
    Ok((body, None))
}

/// `GET /entities`
pub(super) async fn entities(
    shared: State,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let _turn = shared.turns.take()?;
    let mut entities = entity::list(&shared.node).await?;
    entities.retain(|entity| caller.may_read(&entity.name));
    for entity in &mut entities {
        // How many rows others have is not for who sees some.
        entity.estimated_rows = entity
            .estimated_rows
            .filter(|_| entity.scope.is_none() || caller.is_unrestricted());
    }
    let mut list = EntityList {
        entities: entities.iter().map(entity::Entity::describe).collect(),
    };
    list.entities.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(list).into_response())
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
    let takes = if uri.path() == "/digests" { "POST" } else { "GET" };
    Refusal::new(
        Code::MethodNotAllowed,
        format!("{} takes {takes}, not {method}", uri.path()),
    )
}
