//! The handlers: each reads the request, calls one function, shapes the answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, RawQuery};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Uri, Version};
use axum::response::{IntoResponse, Json, Response};
use chrono::Utc;
use futures_util::StreamExt as _;
use highwater_shared::{COPY_MEDIA_TYPE, Code, EntityList, JSON_MEDIA_TYPE, Timestamp};
use tokio::sync::mpsc;

use super::caching::{Kept, Terms};
use super::metrics::Waited;
use super::problem::Refusal;
use super::{Shared, State, accept, bounds, callers, query};
use crate::caller::Caller;
use crate::database;
use crate::entity;
use crate::fleet::{Visit, Waiting};
use crate::limit::Limit;
use crate::live::{self, Answer};
use crate::metrics::Origin;
use crate::page::{
    self, Format, MOVED, OpenPage, Output, PageRequest, Piece, Pieces, ReadError, Takes, WholePage,
};
use crate::scope::RescopedAs;
use crate::turns::Turn;

/// Pieces that wait for the reader of a response before the page waits for it.
pub(super) const PIECES_WAITING_MAX: usize = 4;

/// `GET /changes`
pub(super) async fn changes(
    axum::extract::State(shared): State,
    version: Version,
    Extension(caller): Extension<Caller>,
    visit: Option<Extension<Visit>>,
    RawQuery(text): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let options = &shared.options;
    let parameters = query::parse(text.as_deref(), options.page_rows_max)?;
    let format = accept::format(&headers).ok_or_else(|| {
        Refusal::new(
            Code::NotAcceptable,
            format!("a page is served as {JSON_MEDIA_TYPE} or {COPY_MEDIA_TYPE}"),
        )
    })?;
    let terms = Terms::of(version, &headers, &caller, &parameters);
    let asked = callers::asked(&caller, parameters.entities)?;
    let met = visit.map(|Extension(visit)| Met {
        has_moved: visit.asks(&parameters.since_text, &parameters.since, &asked),
        _waits: (!parameters.wait.is_zero()).then(|| visit.waits()),
        caller: caller.clone(),
        visit,
    });
    let turn = match parameters.wait {
        Duration::ZERO => shared.turns.take(&caller)?,
        _ => shared.turns.take_or_queue(&caller)?,
    };
    let request = PageRequest {
        since: parameters.since,
        held: parameters.held,
        takes: Takes {
            // Only blocks can say which rows are left.
            rescoped: match format {
                Format::Copy => parameters.takes.rescoped,
                Format::Json => RescopedAs::Resync,
            },
            ..parameters.takes
        },
        entities: asked,
        caller,
        limit: parameters.limit,
        bounds: options.page,
        format,
    };
    let time_max = options.request_time_max.saturating_add(parameters.wait);
    // Boxed: thousands may wait here, and a future that is passed on takes its room twice.
    in_time(
        time_max,
        Box::pin(page(&shared, request, parameters.wait, turn, &terms, met)),
    )
    .await
}

/// A device that asks.
struct Met {
    visit: Visit,
    /// Whether it stands elsewhere than it did.
    has_moved: bool,
    caller: Caller,
    _waits: Option<Waiting>,
}

/// The answer to a request for a page, as far as it is there before the page is sent.
async fn page(
    shared: &Arc<Shared>,
    request: PageRequest,
    wait: Duration,
    mut turn: Turn,
    terms: &Terms,
    met: Option<Met>,
) -> Result<Response, Refusal> {
    let format = request.format;
    let answer = live::answer(
        &shared.node,
        &shared.watcher,
        &shared.pages,
        request,
        wait,
        &mut turn,
        &shared.shutdown,
    )
    .await?;
    let media_type = match format {
        Format::Copy => COPY_MEDIA_TYPE,
        Format::Json => JSON_MEDIA_TYPE,
    };
    let waited = Waited(turn.rested());
    let (body, is_empty, tag, origin) = match answer {
        Answer::Page(open) => {
            let is_empty = open.is_empty();
            let (body, tag) = body(send(Arc::clone(shared), open, format), turn).await?;
            (body, is_empty, tag, Origin::Read)
        }
        // One that holds no changes is not sent before it is whole.
        Answer::UnderWay(pieces) => {
            let (body, tag) = body(pieces, turn).await?;
            (body, false, tag, Origin::Read)
        }
        Answer::Shared(page) => whole(&page, Origin::Shared),
        Answer::Nothing(page) => whole(&page, Origin::Watcher),
    };
    shared.node.metrics.page(format, origin);
    let kept = Kept {
        is_empty,
        tag: tag.as_deref(),
    };
    if let Some(met) = met {
        remember(shared, met, is_empty).await;
    }
    let mut response = terms.apply(&kept, ([(CONTENT_TYPE, media_type)], body).into_response());
    response.extensions_mut().insert(waited);
    Ok(response)
}

/// Remembers of a device that it is given a page.
async fn remember(shared: &Shared, met: Met, is_empty: bool) {
    met.visit.served(is_empty, now());
    if !met.has_moved || met.caller.is_unrestricted() {
        return;
    }
    // What it may see was asked of Postgres for the page, and is at hand. Boxed, as all that may ask it: who waits would
    // hold the room for it.
    if let Some(view) = shared.watcher.latest()
        && let Ok(limits) = Box::pin(shared.node.limits(view.entities(), &met.caller, None)).await
    {
        met.visit.may_see(limits);
    }
}

/// The time by this machine's clock.
pub(super) fn now() -> Timestamp {
    Timestamp::from_micros(Utc::now().timestamp_micros())
}

/// A page that is at hand: its body, whether it holds no changes, its name, and where it comes from.
fn whole(page: &WholePage, origin: Origin) -> (Body, bool, Option<String>, Origin) {
    (
        Body::from(page.body.clone()),
        page.is_empty,
        Some(page.tag().to_owned()),
        origin,
    )
}

/// An answer that begins in time.
pub(super) async fn in_time<T>(
    time_max: Duration,
    answer: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let answer = tokio::time::timeout(time_max, answer).await;
    answer.unwrap_or_else(|_| Err(ReadError::Limit(Limit::RequestTimeMax).into()))
}

/// Sends a page while it is read.
fn send(shared: Arc<Shared>, page: Box<OpenPage>, format: Format) -> Pieces {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let output = Output::new(format, sender, shared.options.page.send_wait_max);
    tokio::spawn(async move { page.send(&shared.node, &shared.watcher.samples, output).await });
    pieces
}

/// A body that is still being read, during which the turn lasts, or a small one and its name. The
/// first piece is awaited, so that a page that fails before it is answered with a problem; later the
/// response can only be cut off.
pub(super) async fn body(mut pieces: Pieces, turn: Turn) -> Result<(Body, Option<String>), Refusal> {
    let first = pieces.recv().await.unwrap_or(Err(ReadError::Abandoned));
    // Where a limit ended it, that was counted where it was read.
    let first = match first.map_err(|error| Refusal::from(error).counted())? {
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
    axum::extract::State(shared): State,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let _turn = shared.turns.take(&caller)?;
    let described = async { Ok(entity::list(&shared.node).await?) };
    let mut entities = in_time(shared.options.request_time_max, described).await?;
    entities.retain(|entity| caller.may_read(&entity.name) && !entity.is_dropped());
    for entity in &mut entities {
        // How many rows others have is not for who sees some.
        entity.estimated_rows = entity
            .estimated_rows
            .filter(|_| !entity.is_row_secured && (entity.scope.is_none() || caller.is_unrestricted()));
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
pub(super) async fn readyz(axum::extract::State(shared): State) -> Result<&'static str, Refusal> {
    let own_id = async { Ok(database::own_id(&shared.node).await?) };
    match in_time(shared.options.request_time_max, own_id).await? {
        Some(_) => Ok("ready\n"),
        None => Err(Refusal::new(Code::Unavailable, MOVED.to_owned())),
    }
}

/// `GET /openapi.json`: what all of this is, for programs.
pub(super) async fn openapi(shared: State) -> Response {
    ([(CONTENT_TYPE, JSON_MEDIA_TYPE)], shared.document.clone()).into_response()
}

/// Every other path.
pub(super) async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!(
            "nothing is at {}; see /changes, /entities and /openapi.json",
            bounds::excerpt(uri.path())
        ),
    )
}

/// Every other method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let takes = if uri.path() == "/digests" { "POST" } else { "GET" };
    Refusal::new(
        Code::MethodNotAllowed,
        format!(
            "{} takes {takes}, not {}",
            bounds::excerpt(uri.path()),
            bounds::excerpt(method.as_str())
        ),
    )
}
