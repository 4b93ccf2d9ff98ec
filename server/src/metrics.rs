//! What the server counts and measures of itself, by the names that `docs/metrics.md` describes.
//!
//! Handles are made once, and to count is an atomic addition. What can be looked up is read when it
//! is asked for, and not kept up to date meanwhile. No label has values that callers choose: routes,
//! statuses and limits are of fixed sets, and entities are named by whoever enables them.

use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use highwater_shared::{EntityName, ResyncReason};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::limit::Limit;
use crate::page::Format;

/// The bounds of the buckets of durations, in seconds: from an answer out of memory to a page that a
/// slow reader draws out.
const BUCKETS_SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0,
];

/// The two forms of a page, and where one comes from, in the order of [`place`] and [`Origin`].
const FORMATS: [&str; 2] = ["copy", "json"];
const ORIGINS: [&str; 3] = ["read", "shared", "watcher"];

/// Labels whose values are of fixed sets.
type Fixed<const N: usize> = [(&'static str, &'static str); N];

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held while they are written out, so that what was read at one moment comes out together.
    writing: Mutex<()>,
    limits: ReachedLimits,
    resyncs: [Counter; 2],
    requests: Family<RequestLabels, Counter>,
    request_durations: [Histogram; Route::ALL.len()],
    pages: [[Counter; 3]; 2],
    page_durations: [Histogram; 2],
    entities: EntityMetrics,
    shared_hits: Counter,
    shared_misses: Counter,
    looks: [Counter; 2],
    look_durations: Histogram,
    connections: Gauge,
    read: ReadMetrics,
}

/// How often each limit was reached.
#[derive(Clone, Debug)]
pub(crate) struct ReachedLimits([Counter; Limit::ALL.len()]);

/// A connection that is open; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

/// What came of entities.
#[derive(Debug, Default)]
struct EntityMetrics {
    pages: Family<EntityLabels, Counter>,
    rows: Family<EntityLabels, Counter>,
    bytes: Family<EntityLabels, Counter>,
}

/// What is read when it is asked for.
#[derive(Debug, Default)]
struct ReadMetrics {
    pool: Family<Fixed<1>, Gauge>,
    pool_max: Gauge,
    connections_max: Gauge,
    answering: Gauge,
    answering_max: Gauge,
    waiting: Gauge,
    waiting_max: Gauge,
    shared_pages: Gauge,
    shared_bytes: Gauge,
    watcher_lag: Gauge<f64, AtomicU64>,
    // Families, since they are absent where nothing is known.
    oldest_writer: Family<Fixed<0>, Gauge<f64, AtomicU64>>,
    tombstones: Family<NameLabels, Gauge>,
}

/// What can be looked up of a server at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Connections to Postgres that are used, and that are not.
    pub pool: [usize; 2],
    /// The most of them.
    pub pool_max: u32,
    /// The most connections of callers.
    pub connections_max: usize,
    /// Requests that are answered now, and the most.
    pub answering: [usize; 2],
    /// Callers who wait, and the most.
    pub waiting: [usize; 2],
    /// Pages that are kept for others, and their bytes.
    pub shared: [u64; 2],
    /// How long ago the source was looked at.
    pub watcher_lag: Duration,
    /// The age of the oldest transaction that writes, as far as it is known.
    pub oldest_writer: Option<Duration>,
    /// About how many tombstones there are of each entity.
    pub tombstones: Vec<(EntityName, i64)>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    Changes,
    Entities,
    Healthz,
    Readyz,
    Metrics,
    /// Anything else, however it is written.
    Other,
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// It was read for this caller, or first for this caller.
    Read,
    /// It was read for another.
    Shared,
    /// Nothing is new, which the watcher knew.
    Watcher,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Route,
    method: Named,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntityLabels {
    entity: String,
    format: Named,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    entity: String,
}

/// A label's value out of a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Named(&'static str);

impl EncodeLabelValue for Named {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(self.0)
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

impl Route {
    const ALL: [Self; 6] = [
        Self::Changes,
        Self::Entities,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Other,
    ];

    /// What a path leads to.
    pub(crate) fn of(path: &str) -> Self {
        let known = Self::ALL.into_iter().find(|route| route.name() == path);
        known.unwrap_or(Self::Other)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Changes => "/changes",
            Self::Entities => "/entities",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Other => "other",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("highwater");
        let r = &mut registry;
        let build: Family<_, Gauge> = add(r, "build_info", "The version that runs", Family::default());
        let version = ("version", env!("CARGO_PKG_VERSION"));
        build.get_or_create(&[version]).set(1);
        let limits = counters(r, "limits_reached", "How often a limit was reached");
        let resyncs = counters(r, "resyncs", "Cursors that were answered with 410, by reason");
        let request_durations = histograms(
            r,
            "request_duration_seconds",
            "The time until an answer began, without the wait that its caller wished",
        );
        let pages = counters(r, "pages", "Pages that callers were given");
        let page_durations = histograms(
            r,
            "page_duration_seconds",
            "The time from the snapshot of a page to its end",
        );
        let looks = counters(r, "watcher_looks", "Looks at the source");
        Self {
            limits: ReachedLimits(
                Limit::ALL.map(|limit| limits.get_or_create_owned(&[("limit", limit.name())])),
            ),
            resyncs: ["source_changed", "scope_changed"]
                .map(|reason| resyncs.get_or_create_owned(&[("reason", reason)])),
            requests: add(r, "requests", "Requests that were answered", Family::default()),
            request_durations: Route::ALL
                .map(|route| request_durations.get_or_create_owned(&[("route", route.name())])),
            pages: FORMATS.map(|format| {
                ORIGINS.map(|origin| pages.get_or_create_owned(&[("format", format), ("origin", origin)]))
            }),
            page_durations: FORMATS.map(|format| page_durations.get_or_create_owned(&[("format", format)])),
            entities: EntityMetrics::register(r),
            shared_hits: add(
                r,
                "shared_page_hits",
                "Pages that were at hand, read for another caller",
                Counter::default(),
            ),
            shared_misses: add(
                r,
                "shared_page_misses",
                "Pages that were read to be shared",
                Counter::default(),
            ),
            looks: ["done", "failed"].map(|result| looks.get_or_create_owned(&[("result", result)])),
            look_durations: add(
                r,
                "watcher_look_duration_seconds",
                "The time of a look at the source",
                histogram(),
            ),
            connections: add(
                r,
                "connections",
                "Connections of callers that are open",
                Gauge::default(),
            ),
            read: ReadMetrics::register(r),
            registry,
            writing: Mutex::default(),
        }
    }
}

impl EntityMetrics {
    fn register(r: &mut Registry) -> Self {
        let entities = Self::default();
        let families = [
            (
                &entities.pages,
                "entity_pages",
                "Pages that were read and hold something of the entity",
            ),
            (
                &entities.rows,
                "entity_rows",
                "Rows and deletions that were read into pages",
            ),
            (
                &entities.bytes,
                "entity_bytes",
                "Bytes that were read into pages, before compression",
            ),
        ];
        for (family, name, help) in families {
            r.register(name, help, family.clone());
        }
        entities
    }
}

impl ReadMetrics {
    fn register(r: &mut Registry) -> Self {
        let read = Self::default();
        let gauges = [
            (
                &read.pool_max,
                "pool_connections_max",
                "The most connections to Postgres",
            ),
            (
                &read.connections_max,
                "connections_max",
                "The most connections of callers",
            ),
            (
                &read.answering,
                "requests_answering",
                "Requests that are being answered",
            ),
            (
                &read.answering_max,
                "requests_answering_max",
                "The most requests that are answered at one time",
            ),
            (&read.waiting, "waiting_callers", "Callers who wait for news"),
            (
                &read.waiting_max,
                "waiting_callers_max",
                "The most callers who may wait",
            ),
            (
                &read.shared_pages,
                "shared_pages",
                "Pages that are kept for others",
            ),
            (
                &read.shared_bytes,
                "shared_pages_bytes",
                "Bytes of the pages that are kept for others",
            ),
        ];
        for (gauge, name, help) in gauges {
            r.register(name, help, gauge.clone());
        }
        r.register("pool_connections", "Connections to Postgres", read.pool.clone());
        let lag = "How long ago the source was looked at with success";
        r.register("watcher_lag_seconds", lag, read.watcher_lag.clone());
        let writer = "The age of the oldest transaction that writes";
        r.register("oldest_writer_seconds", writer, read.oldest_writer.clone());
        r.register(
            "tombstones",
            "Tombstones, by Postgres' statistics",
            read.tombstones.clone(),
        );
        read
    }

    fn set(&self, reading: &Reading) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let large = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, number) in ["used", "idle"].into_iter().zip(reading.pool) {
            self.pool.get_or_create(&[("state", state)]).set(count(number));
        }
        self.pool_max.set(i64::from(reading.pool_max));
        self.connections_max.set(count(reading.connections_max));
        let [answering, answering_max] = reading.answering;
        self.answering.set(count(answering));
        self.answering_max.set(count(answering_max));
        let [waiting, waiting_max] = reading.waiting;
        self.waiting.set(count(waiting));
        self.waiting_max.set(count(waiting_max));
        let [shared, shared_bytes] = reading.shared;
        self.shared_pages.set(large(shared));
        self.shared_bytes.set(large(shared_bytes));
        self.watcher_lag.set(reading.watcher_lag.as_secs_f64());
        self.oldest_writer.clear();
        if let Some(age) = reading.oldest_writer {
            self.oldest_writer.get_or_create(&[]).set(age.as_secs_f64());
        }
        self.tombstones.clear();
        for (entity, number) in &reading.tombstones {
            let entity = entity.as_str().to_owned();
            self.tombstones.get_or_create(&NameLabels { entity }).set(*number);
        }
    }
}

impl Metrics {
    /// All of it as OpenMetrics text, with what was just looked up.
    pub fn text(&self, reading: &Reading) -> Result<String, fmt::Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.read.set(reading);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A limit was reached.
    pub(crate) fn reached(&self, limit: Limit) {
        self.limits.count(limit);
    }

    /// Counts limits for those who have none of the rest.
    pub(crate) fn limits(&self) -> ReachedLimits {
        self.limits.clone()
    }

    /// A caller has connected.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A cursor was answered with 410.
    pub(crate) fn resync(&self, reason: ResyncReason) {
        let [source, scope] = &self.resyncs;
        match reason {
            ResyncReason::SourceChanged => source.inc(),
            ResyncReason::ScopeChanged => scope.inc(),
        };
    }

    /// A request was answered.
    pub(crate) fn request(&self, route: Route, method: &'static str, status: u16, took: Duration) {
        let method = Named(method);
        let labels = RequestLabels {
            route,
            method,
            status,
        };
        self.requests.get_or_create(&labels).inc();
        if let Some(durations) = self.request_durations.get(route as usize) {
            durations.observe(took.as_secs_f64());
        }
    }

    /// A caller was given a page.
    pub(crate) fn page(&self, format: Format, origin: Origin) {
        let counter = self
            .pages
            .get(place(format))
            .and_then(|of| of.get(origin as usize));
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    /// A page was read to its end, or to where it failed.
    pub(crate) fn page_read(&self, format: Format, took: Duration) {
        if let Some(durations) = self.page_durations.get(place(format)) {
            durations.observe(took.as_secs_f64());
        }
    }

    /// What was read of an entity for a page.
    pub(crate) fn entity_read(&self, entity: &EntityName, format: Format, rows: u64, bytes: u64) {
        let labels = EntityLabels {
            entity: entity.as_str().to_owned(),
            format: Named(FORMATS.get(place(format)).copied().unwrap_or_default()),
        };
        self.entities.pages.get_or_create(&labels).inc();
        self.entities.rows.get_or_create(&labels).inc_by(rows);
        self.entities.bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// A page that may be shared was at hand, or had to be read.
    pub(crate) fn shared(&self, was_at_hand: bool) {
        if was_at_hand {
            self.shared_hits.inc();
        } else {
            self.shared_misses.inc();
        }
    }

    /// The source was looked at.
    pub(crate) fn looked(&self, is_done: bool, took: Duration) {
        let [done, failed] = &self.looks;
        if is_done { done } else { failed }.inc();
        self.look_durations.observe(took.as_secs_f64());
    }
}

impl ReachedLimits {
    /// A limit was reached.
    pub(crate) fn count(&self, limit: Limit) {
        if let Some(counter) = self.0.get(limit as usize) {
            counter.inc();
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn add<M>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M
where
    M: Metric + Clone,
{
    registry.register(name, help, metric.clone());
    metric
}

fn counters<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Family<Fixed<N>, Counter> {
    add(registry, name, help, Family::default())
}

fn histograms(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<Fixed<1>, Histogram, fn() -> Histogram> {
    add(registry, name, help, Family::new_with_constructor(histogram))
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS_SECONDS)
}

fn place(format: Format) -> usize {
    match format {
        Format::Copy => 0,
        Format::Json => 1,
    }
}
