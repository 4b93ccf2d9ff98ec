//! Begins and ends a server: what its handlers share, the tasks beside them, and its listeners.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_shared::Timestamp;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::ServeOptions;
use super::tls::{Tls, TlsError};
use super::{connection, handlers, listen, metrics_router, openapi, router};
use crate::database;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pace::Pace;
use crate::page::MOVED;
use crate::share::SharedPages;
use crate::status::Board;
use crate::tombstones::Tombstones;
use crate::turns::{Turns, TurnsMax};
use crate::watch::Watcher;

/// How long running responses may take to end after shutdown has begun.
const GRACE_MAX: Duration = Duration::from_secs(30);

/// The most connections to the address of metrics.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) pages: SharedPages,
    pub(super) turns: Turns,
    pub(super) pace: Pace,
    /// Requests for digests that may be answered at one time.
    pub(super) scans: Arc<Semaphore>,
    pub(super) tombstones: Tombstones,
    pub(super) fleet: Arc<Fleet>,
    /// What operators are told.
    pub(super) board: Board,
    pub(super) options: ServeOptions,
    /// The body of `GET /openapi.json`.
    pub(super) document: Bytes,
    pub(super) began: Instant,
    /// The same, for people.
    pub(super) started: Timestamp,
    pub(super) shutdown: CancellationToken,
}

pub(super) type State = axum::extract::State<Arc<Shared>>;

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For callers.
    pub callers: TcpListener,
    /// For metrics alone, without asking anybody who they are. Where there is none, metrics are among the
    /// other routes.
    pub metrics: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(callers: TcpListener) -> Self {
        Self {
            callers,
            metrics: None,
        }
    }
}

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
    /// Options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves until `shutdown`: then running responses end, and new connections are refused.
pub async fn serve(
    listeners: impl Into<Listeners>,
    pool: PgPool,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    if let Some(contradiction) = options.contradiction() {
        return Err(ServeError::Options(contradiction));
    }
    let Listeners { callers, metrics } = listeners.into();
    let files = options.tls.clone();
    let tls = files
        .map(|files| Tls::start(files, shutdown.clone()))
        .transpose()?;
    let node = Node::bounded(pool, options.transaction)
        .pooled(options.is_pooled)
        .coalescing(options.coalescing.clone());
    let node = Arc::new(node);
    check_source(&node).await?;
    let shared = Arc::new(Shared::new(node, options, metrics.is_none(), shutdown.clone()));
    let tasks = [shared.watch(), shared.authenticate()];
    // Before the first request, so that it finds a date it can be sure of.
    shared.watcher.fresh().await;
    if let Ok(address) = callers.local_addr() {
        tracing::info!(%address, "serving");
    }
    connection::widen(&callers);
    let app = router(Arc::clone(&shared), metrics.is_none());
    let (limits, counted) = (&shared.options, &shared.node.metrics);
    let callers = listen::serve(callers, app, tls, limits, counted, shutdown.clone(), GRACE_MAX);
    let metrics = async {
        if let Some(listener) = metrics {
            let limits = ServeOptions {
                connections_max: METRICS_CONNECTIONS_MAX,
                ..limits.clone()
            };
            // Who reads metrics is not counted among the callers.
            let (app, apart) = (metrics_router(Arc::clone(&shared)), Metrics::default());
            listen::serve(listener, app, None, &limits, &apart, shutdown, GRACE_MAX).await;
        }
    };
    tokio::join!(callers, metrics);
    for task in tasks {
        task.abort();
    }
    Ok(())
}

/// Whether the database is one that can be served.
async fn check_source(node: &Node) -> Result<(), ServeError> {
    match database::own_id(node).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ServeError::Moved),
        Err(error @ (sqlx::Error::Database(_) | sqlx::Error::RowNotFound)) => {
            Err(ServeError::NotMigrated(error))
        }
        Err(error) => Err(ServeError::Postgres(error)),
    }
}

impl Shared {
    /// Metrics are among the routes for callers, or not.
    pub(super) fn new(
        node: Arc<Node>,
        options: ServeOptions,
        has_metrics: bool,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            document: openapi::document(&options, has_metrics),
            watcher: Arc::default(),
            pages: SharedPages::default(),
            turns: Turns::new(TurnsMax {
                requests: options.requests_max,
                waiting: options.waiting_max,
                waiting_of_one: options.caller_waiting_max,
            }),
            pace: Pace::new(options.caller_requests_per_second),
            scans: Arc::new(Semaphore::new(options.digests_max)),
            tombstones: Tombstones::default(),
            fleet: Arc::new(Fleet::new(options.devices_max, node.metrics.limits())),
            board: Board::default(),
            node,
            options,
            began: Instant::now(),
            started: handlers::now(),
            shutdown,
        }
    }

    /// Looks at the source.
    fn watch(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let (tick, shutdown) = (shared.options.tick, shared.shutdown.clone());
            shared.watcher.watch(&shared.node, tick, shutdown).await;
        })
    }

    /// Keeps the keys of callers up to date.
    fn authenticate(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(authenticator) = &shared.options.authenticator {
                authenticator.watch(&shared.shutdown).await;
            }
        })
    }
}
