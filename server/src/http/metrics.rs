//! Metrics over HTTP: what is counted of each response, and `GET /metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use highwater_shared::{Code, ResyncReason};
use tokio::time::Instant;

use super::Shared;
use super::problem::Refusal;
use crate::caller::Caller;
use crate::limit::Limit;
use crate::metrics::{Reading, Route, Verb};

/// The form of the text, which Prometheus reads since its version 2.5.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a request has waited for news: what its response brings along to be counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited(pub(super) Duration);

/// Why a request was refused, as far as that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) code: Code,
    pub(super) limit: Option<Limit>,
    pub(super) resync: Option<ResyncReason>,
}

/// Counts a request and its answer. It stands outside of all other layers, so that nothing passes it.
pub(super) async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = Route::of(request.uri().path());
    let method = verb(request.method());
    let response = next.run(request).await;
    let metrics = &shared.node.metrics;
    let waited = response
        .extensions()
        .get::<Waited>()
        .map_or(Duration::ZERO, |waited| waited.0);
    let took = began.elapsed().saturating_sub(waited);
    metrics.request(route, method, response.status().as_u16(), took);
    if let Some(Counted { limit, resync, .. }) = response.extensions().get() {
        if let Some(limit) = limit {
            metrics.reached(*limit);
        }
        if let Some(reason) = resync {
            metrics.resync(*reason);
        }
    }
    response
}

/// `GET /metrics` beside the other routes. They tell of all entities and all scopes, and so they are for
/// nobody who may see only some.
pub(super) async fn among_others(
    shared: super::State,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    if !caller.is_unrestricted() {
        let detail =
            "metrics tell of what is not yours; serve them with --metrics-listen on an address of their own";
        return Err(Refusal::new(Code::Forbidden, detail.to_owned()));
    }
    alone(shared).await
}

/// `GET /metrics` on an address of its own.
pub(super) async fn alone(shared: super::State) -> Result<Response, Refusal> {
    let reading = read(&shared).await;
    let text = shared.node.metrics.text(&reading).map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written out");
        Refusal::new(Code::Internal, "the metrics cannot be written out".to_owned())
    })?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

async fn read(shared: &Shared) -> Reading {
    let (node, options) = (&shared.node, &shared.options);
    let pool = node.pool();
    let idle = pool.num_idle();
    let open = usize::try_from(pool.size()).unwrap_or(usize::MAX);
    let looked = shared.watcher.looked().unwrap_or(shared.began);
    let devices = shared.fleet.counts();
    Reading {
        devices: [devices.waiting, devices.failing, devices.others],
        devices_max: shared.fleet.known_max(),
        pool: [open.saturating_sub(idle), idle],
        pool_max: pool.options().get_max_connections(),
        connections_max: options.connections_max,
        answering: [shared.turns.answering(), options.requests_max],
        waiting: [shared.turns.waiting(), options.waiting_max],
        shared: shared.pages.kept(),
        watcher_lag: looked.elapsed(),
        oldest_writer: shared.watcher.samples.oldest_writer(),
        tombstones: shared.tombstones.estimate(node).await,
    }
}

fn verb(method: &Method) -> Verb {
    match *method {
        Method::GET => Verb::Get,
        Method::HEAD => Verb::Head,
        Method::POST => Verb::Post,
        Method::OPTIONS => Verb::Options,
        _ => Verb::Other,
    }
}
