//! The HTTP interface: every route and every layer.

mod accept;
mod activity;
mod bounds;
mod browsers;
mod caching;
mod callers;
mod connection;
mod digests;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handlers;
mod listen;
mod metrics;
mod openapi;
mod options;
mod page;
mod problem;
mod query;
mod serving;
mod status;
mod tls;
mod why;

use std::sync::Arc;

use axum::Router;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, HeaderValue, Request};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use highwater_shared::SOURCE_HEADER;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, field};

use self::bounds::Bounds;
pub use self::browsers::Origin;
use self::callers::Door;
pub use self::options::{ServeOptions, URL_BYTES_MAX};
pub use self::serving::{Listeners, ServeError, serve};
use self::serving::{Shared, State};
pub use self::tls::{TlsError, TlsFiles};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The routes for callers. Metrics are among them, unless they have an address of their own.
fn router(shared: Arc<Shared>, has_metrics: bool) -> Router {
    let node = Arc::clone(&shared.node);
    let source = move |_: &Response| HeaderValue::from_str(&node.own_id()?.to_string()).ok();
    let options = &shared.options;
    let (bounds, over_tls, origins) = (
        Bounds::of(options),
        options.tls.is_some(),
        options.cors_origins.clone(),
    );
    let mut known = Router::new()
        .route("/changes", get(handlers::changes))
        .route("/digests", post(digests::digests))
        .route("/entities", get(handlers::entities));
    if has_metrics {
        known = known.route("/metrics", get(metrics::among_others));
    }
    let behind = |door| middleware::from_fn_with_state((Arc::clone(&shared), door), callers::admit);
    let for_browsers = Router::new()
        .route("/why", get(why::why))
        .route_layer(behind(Door::Browsers));
    let for_operators = Router::new()
        .route("/", get(page::document))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/status", get(status::status))
        .route_layer(behind(Door::Operators));
    let app = known
        // Those above are for callers who are known, those below for operators, and then for everybody.
        .route_layer(behind(Door::Callers))
        .merge(for_browsers)
        .merge(for_operators)
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .route("/openapi.json", get(handlers::openapi))
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .with_state(Arc::clone(&shared))
        .layer(middleware::from_fn_with_state(bounds, bounds::check))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(problem::panicked))
        // Errors, and whatever does not say otherwise.
        .layer(SetResponseHeaderLayer::if_not_present(
            CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .layer(SetResponseHeaderLayer::overriding(
            HeaderName::from_static(SOURCE_HEADER),
            source,
        ))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::INFO)),
        )
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(middleware::from_fn_with_state(REQUEST_ID, bounds::check_id));
    browsers::told(app, over_tls, &origins).layer(middleware::from_fn_with_state(shared, metrics::count))
}

/// The one route on the address of metrics. Nobody is asked who they are there.
fn metrics_router(shared: Arc<Shared>) -> Router {
    let app = Router::new()
        .route("/metrics", get(metrics::alone))
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .with_state(Arc::clone(&shared))
        .layer(middleware::from_fn_with_state(
            Bounds::of(&shared.options),
            bounds::check,
        ))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(problem::panicked));
    browsers::told(app, false, &[]).layer(middleware::from_fn_with_state(shared, metrics::count))
}

/// The span of a request. The query is left out: a cursor says nothing to a reader of logs.
fn span<B>(request: &Request<B>) -> tracing::Span {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let method = bounds::excerpt(request.method().as_str());
    let path = bounds::excerpt(request.uri().path());
    tracing::info_span!("request", id, %method, path, caller = field::Empty)
}
