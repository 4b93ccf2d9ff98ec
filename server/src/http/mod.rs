//! The HTTP interface: every route and every layer.

mod accept;
mod activity;
mod browsers;
mod caching;
mod callers;
mod connection;
mod digests;
mod handlers;
mod listen;
mod options;
mod problem;
mod query;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, HeaderValue, Request};
use axum::middleware;
use axum::routing::{get, post};
use highwater_shared::SOURCE_HEADER;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, field};
use uuid::Uuid;

pub use self::browsers::Origin;
pub use self::options::ServeOptions;
use self::tls::Tls;
pub use self::tls::{TlsError, TlsFiles};
use crate::database;
use crate::node::Node;
use crate::page::MOVED;
use crate::share::SharedPages;
use crate::turns::Turns;
use crate::watch::Watcher;

/// How long running responses may take to end after shutdown has begun.
const GRACE_MAX: Duration = Duration::from_secs(30);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    watcher: Arc<Watcher>,
    pages: SharedPages,
    turns: Turns,
    /// Digests that may be computed at one time.
    scans: Arc<Semaphore>,
    options: ServeOptions,
    shutdown: CancellationToken,
}

type State = axum::extract::State<Arc<Shared>>;

/// Why the server cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The schema `highwater` is not there, or not readable.
    #[error(
        "the schema highwater is missing or cannot be read; run `highwater-server migrate` on this database first"
    )]
    NotMigrated(#[source] sqlx::Error),
    /// The database was restored or copied, and its rows bear ids of another.
    #[error("{MOVED}")]
    Moved,
    /// Postgres cannot be asked.
    #[error("cannot use the database")]
    Postgres(#[from] sqlx::Error),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves until `shutdown`: then running responses end, and new connections are refused.
pub async fn serve(
    listener: TcpListener,
    pool: PgPool,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let files = options.tls.clone();
    let tls = files
        .map(|files| Tls::start(files, shutdown.clone()))
        .transpose()?;
    let node = Arc::new(Node::new(pool));
    let own_id = match database::own_id(&node).await {
        Ok(Some(own_id)) => own_id,
        Ok(None) => return Err(ServeError::Moved),
        Err(error @ (sqlx::Error::Database(_) | sqlx::Error::RowNotFound)) => {
            return Err(ServeError::NotMigrated(error));
        }
        Err(error) => return Err(ServeError::Postgres(error)),
    };
    let limits = options.clone();
    let shared = Arc::new(Shared {
        node,
        watcher: Arc::default(),
        pages: SharedPages::default(),
        turns: Turns::new(options.requests_max, options.waiting_max),
        scans: Arc::new(Semaphore::new(digests::DIGESTS_AT_ONCE_MAX)),
        options,
        shutdown: shutdown.clone(),
    });
    let watching = {
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        tokio::spawn(async move {
            let tick = shared.options.tick;
            shared.watcher.watch(&shared.node, tick, shutdown).await;
        })
    };
    let authenticating = {
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        tokio::spawn(async move {
            if let Some(authenticator) = &shared.options.authenticator {
                authenticator.watch(&shutdown).await;
            }
        })
    };
    // Before the first request, so that it finds a date it can be sure of.
    shared.watcher.fresh().await;
    connection::widen(&listener);
    let app = browsers::told(router(shared, own_id), tls.is_some(), &limits.cors_origins);
    listen::serve(listener, app, tls, &limits, shutdown, GRACE_MAX).await;
    watching.abort();
    authenticating.abort();
    Ok(())
}

fn router(shared: Arc<Shared>, own_id: Uuid) -> Router {
    let source = HeaderValue::from_str(&own_id.to_string()).ok();
    Router::new()
        .route("/changes", get(handlers::changes))
        .route("/digests", post(digests::digests))
        .route("/entities", get(handlers::entities))
        // Those above are for callers who are known, those below for everybody.
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            callers::admit,
        ))
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .with_state(shared)
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
}

/// The span of a request. The query is left out: a cursor says nothing to a reader of logs.
fn span<B>(request: &Request<B>) -> tracing::Span {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    tracing::info_span!("request", id, %method, path, caller = field::Empty)
}
