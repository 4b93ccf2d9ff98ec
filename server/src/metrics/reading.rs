//! What is not counted as it happens: it is looked up when somebody asks, and written out with the rest.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use highwater_shared::EntityName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Fixed;

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
    /// Devices that wait, that fail, and that do neither.
    pub devices: [usize; 3],
    /// The most devices that are remembered.
    pub devices_max: usize,
    /// How long ago the source was looked at.
    pub watcher_lag: Duration,
    /// The age of the oldest transaction that writes, as far as it is known.
    pub oldest_writer: Option<Duration>,
    /// About how many tombstones there are of each entity.
    pub tombstones: Vec<(EntityName, i64)>,
}

/// What is read when it is asked for.
#[derive(Debug, Default)]
pub(super) struct ReadMetrics {
    pool: Family<Fixed<1>, Gauge>,
    pool_max: Gauge,
    connections_max: Gauge,
    answering: Gauge,
    answering_max: Gauge,
    waiting: Gauge,
    waiting_max: Gauge,
    shared_pages: Gauge,
    shared_bytes: Gauge,
    devices: Family<Fixed<1>, Gauge>,
    devices_max: Gauge,
    watcher_lag: Gauge<f64, AtomicU64>,
    // Families, since they are absent where nothing is known.
    oldest_writer: Family<Fixed<0>, Gauge<f64, AtomicU64>>,
    tombstones: Family<NameLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    entity: String,
}

impl ReadMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
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
                &read.devices_max,
                "devices_max",
                "The most devices that are remembered",
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
        let devices = "Devices that named themselves since the server's start";
        r.register("devices", devices, read.devices.clone());
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

    pub(super) fn set(&self, reading: &Reading) {
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
        let states = ["waiting", "failing", "other"];
        for (state, number) in states.into_iter().zip(reading.devices) {
            self.devices.get_or_create(&[("state", state)]).set(count(number));
        }
        self.devices_max.set(count(reading.devices_max));
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
