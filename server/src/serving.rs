//! `highwater-server serve`: logs, signals, listener, pool.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use highwater_server::{Coalescing, Listeners, pooler};
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::callers::reload_on_hangup;
use crate::cli::{LogFormat, Serve};
use crate::commands::cannot_connect;

/// How long a request waits for a connection to Postgres.
const ACQUIRE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Sends log lines to standard error; `RUST_LOG` chooses them.
pub(crate) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,tower_http=info"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

pub(crate) async fn serve(options: Serve, coalescing: Coalescing) -> anyhow::Result<()> {
    let authenticator = options.callers.clone().authenticator(options.listen).await?;
    let mut chosen = options.chosen(authenticator.clone());
    if let Some(contradiction) = chosen.contradiction() {
        bail!("{contradiction}");
    }
    chosen.coalescing = coalescing;
    let for_one = chosen.caller_requests_per_second.is_some() || chosen.caller_waiting_max.is_some();
    if for_one && chosen.authenticator.is_none() {
        tracing::warn!("nobody is asked who they are, so limits for one caller do nothing");
    }
    let connect = pooler::options(&options.database.database_url)
        .context("--database-url is not usable")?
        .application_name("highwater-server");
    let place = pooler::place(&connect);
    let pooled = pooler::lends_connections(&connect).await;
    chosen.is_pooled = pooled.with_context(|| cannot_connect(&place))?;
    if chosen.is_pooled {
        tracing::info!(
            "a pooler lends connections for one transaction each; statements are not kept prepared"
        );
    }
    let pool = PgPoolOptions::new()
        .max_connections(options.pool_size)
        .acquire_timeout(ACQUIRE_WAIT_MAX)
        .connect_with(connect)
        .await
        .with_context(|| cannot_connect(&place))?;
    let callers = listen(options.listen).await?;
    let metrics = match options.metrics_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    if let Some(authenticator) = &authenticator {
        reload_on_hangup(Arc::clone(authenticator))?;
    }
    if let Some(metrics) = &metrics {
        let address = metrics.local_addr()?;
        tracing::info!(%address, "metrics are here, for everybody");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "whoever reaches this address reads the names of entities and how much is moved");
        }
    }
    highwater_server::serve(Listeners { callers, metrics }, pool, chosen, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}

fn stop_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(
            signal = name,
            "stopping: running responses end, new ones are refused"
        );
        shutdown.cancel();
    });
    Ok(())
}
