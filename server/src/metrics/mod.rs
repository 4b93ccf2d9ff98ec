//! What the server counts and measures of itself, by the names that `docs/metrics.md` describes.
//!
//! Handles are made once, and to count is an atomic addition. What can be looked up is read when it
//! is asked for, and not kept up to date meanwhile. No label has values that callers choose: routes,
//! statuses and limits are of fixed sets, and entities are named by whoever enables them.

mod reading;
mod requests;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use highwater_shared::{EntityName, ResyncReason};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use self::reading::ReadMetrics;
pub use self::reading::Reading;
use self::requests::Requests;
pub(crate) use self::requests::{Route, Verb};
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
    requests: Requests,
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
struct EntityLabels {
    entity: String,
    format: &'static str,
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
            requests: Requests::register(r),
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

impl Metrics {
    /// All of it as text, with what was just looked up.
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
    pub(crate) fn request(&self, route: Route, method: Verb, status: u16, took: Duration) {
        self.requests.count(route, method, status, took);
    }

    /// How many requests were answered.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.total()
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
            format: FORMATS.get(place(format)).copied().unwrap_or_default(),
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
