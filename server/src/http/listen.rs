//! Accepts connections and speaks HTTP on them, each within its limits: how many there are, how long
//! one may take to say what it wants, how much it may say, and how long it may stand still.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Overdue, Patience};
use super::connection;
use super::options::ServeOptions;
use super::tls::Tls;
use crate::limit::Limit;
use crate::metrics::{Metrics, ReachedLimits};

/// How long to wait when the system has no more files or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The most requests that one connection may have open with HTTP/2.
const STREAMS_MAX: u32 = 100;

/// How much of a response waits in memory for a caller with HTTP/2, for each request.
const STREAM_BYTES_MAX: usize = 256 * 1024;

/// How much more the HTTP library takes for the head of a request than it may have: what it refuses by
/// itself is told nothing, and hardly ever counted.
const HEADER_BYTES_MORE: usize = 8 * 1024;

/// What all connections share.
struct Connections {
    app: TowerToHyperService<Router>,
    http: Builder<TokioExecutor>,
    tls: Option<Tls>,
    patience: Patience,
    reached: ReachedLimits,
    /// Cancelled when no more requests are taken.
    shutdown: CancellationToken,
    /// Cancelled when what is still under way is to be cut off.
    cut: CancellationToken,
}

/// Serves `app` until `shutdown`; then running responses end, for as long as `grace` at most.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    tls: Option<Tls>,
    options: &ServeOptions,
    metrics: &Metrics,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let connections = Arc::new(Connections {
        app: TowerToHyperService::new(app),
        http: http(options),
        tls,
        patience: Patience {
            head: options.header_time_max,
            idle: options.idle_time_max,
            take: options.page.send_wait_max,
        },
        reached: metrics.limits(),
        shutdown,
        cut: CancellationToken::new(),
    });
    // Where this function is dropped, so are the connections.
    let _cut = connections.cut.clone().drop_guard();
    let places = Arc::new(Semaphore::new(
        options.connections_max.min(Semaphore::MAX_PERMITS),
    ));
    let open = TaskTracker::new();
    loop {
        let next = tokio::select! {
            biased;
            () = connections.shutdown.cancelled() => break,
            next = next(&listener, &places, options.page.send_wait_max, &connections.reached) => next,
        };
        let (stream, caller, place) = next;
        let connections = Arc::clone(&connections);
        let counted = metrics.connection();
        open.spawn(async move {
            connections.handle(stream, caller).await;
            drop((place, counted));
        });
    }
    // From here on the system refuses connections.
    drop(listener);
    open.close();
    if tokio::time::timeout(grace, open.wait()).await.is_err() {
        tracing::warn!("responses were still running after {grace:?}; they are cut off");
        connections.cut.cancel();
        open.wait().await;
    }
}

/// What is spoken: HTTP/1.1 and HTTP/2, whichever the caller begins with.
fn http(options: &ServeOptions) -> Builder<TokioExecutor> {
    let header_bytes_max = options.header_bytes_max.saturating_add(HEADER_BYTES_MORE);
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        // Between two requests; for the first, `Activity` has a shorter one.
        .header_read_timeout(options.idle_time_max)
        .max_buf_size(header_bytes_max);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_BYTES_MAX)
        // A cursor is part of the head, and takes more than the usual 16 KiB.
        .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX));
    http
}

/// The next connection. None is taken before there is a place for it: the others wait in the system's
/// queue, and cost nothing here.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    send_wait_max: Duration,
    reached: &ReachedLimits,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    if places.available_permits() == 0 {
        reached.count(Limit::ConnectionsMax);
        tracing::warn!("as many connections are open as may be; new ones wait until one ends");
    }
    let place = loop {
        // It fails only where somebody closes the semaphore, and nobody does.
        if let Ok(place) = Arc::clone(places).acquire_owned().await {
            break place;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, caller)) => {
                connection::prepare(&stream, send_wait_max);
                return (stream, caller, place);
            }
            // The caller has gone again.
            Err(error) if is_of_the_caller(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_caller(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

impl Connections {
    /// One connection from its beginning to its end.
    async fn handle(&self, stream: TcpStream, caller: SocketAddr) {
        let activity = Activity::new(self.patience);
        let Some(tls) = &self.tls else {
            return self.converse(stream, caller, activity).await;
        };
        let secured = tokio::select! {
            secured = tls.secure(stream) => secured,
            () = tokio::time::sleep(self.patience.head) => {
                self.reached.count(Limit::HeaderTimeMax);
                return;
            }
            () = self.shutdown.cancelled() => return,
        };
        match secured {
            // Boxed, or each connection without TLS would hold the room for it.
            Ok(Some(stream)) => Box::pin(self.converse(stream, caller, activity)).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%caller, %error, "no TLS came about"),
        }
    }

    async fn converse<S>(&self, stream: S, caller: SocketAddr, activity: Arc<Activity>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(caller));
            let exchange = activity.begin(request.version());
            let answer = self.app.call(request);
            async move {
                let response = answer.await?;
                Ok::<_, Infallible>(response.map(|body| exchange.watch(body)))
            }
        });
        let mut connection = std::pin::pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let mut overdue = std::pin::pin!(tokio::time::sleep_until(activity.next_look()));
        let mut is_ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        // What the library refuses by itself, before there is a request.
                        if error.downcast_ref().is_some_and(hyper::Error::is_parse_too_large) {
                            self.reached.count(Limit::HeaderBytesMax);
                        }
                        tracing::debug!(%caller, %error, "a connection has failed");
                    }
                    return;
                }
                () = self.cut.cancelled() => return,
                () = self.shutdown.cancelled(), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = overdue.as_mut() => {
                    if let Some(why) = activity.overdue(Instant::now()) {
                        match why {
                            Overdue::Request => self.reached.count(Limit::HeaderTimeMax),
                            Overdue::Taking => self.reached.count(Limit::SendWaitMax),
                            Overdue::Asking => {}
                        }
                        tracing::debug!(%caller, ?why, "a connection is ended");
                        return;
                    }
                    overdue.as_mut().reset(activity.next_look());
                }
            }
        }
    }
}
