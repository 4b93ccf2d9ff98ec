//! What `GET /status` tells an operator: the server, the source, the entities, and the devices that it has met.

use serde::{Deserialize, Serialize};

use crate::{EntityName, Timestamp};

/// The body of `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// The server that answers.
    pub server: ServerStatus,
    /// The Postgres that it reads from.
    pub source: SourceStatus,
    /// Every entity, by name.
    pub entities: Vec<EntityStatus>,
    /// The devices that it has met.
    pub fleet: FleetStatus,
}

/// A server at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// The version that runs.
    pub version: String,
    /// When it was asked, by its own clock.
    pub now: Timestamp,
    /// When it was started.
    pub started: Timestamp,
    /// Requests that it has answered since.
    pub requests: u64,
    /// Requests that are being answered.
    pub answering: u64,
    /// Callers who wait for news.
    pub waiting: u64,
}

/// A source at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// When it was looked at with success; null where it never was. What is said of it and of entities is of then.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub looked: Option<Timestamp>,
    /// Whether the last look has failed.
    pub has_failed: bool,
    /// Whether it is a standby, on which nobody writes.
    pub is_standby: bool,
    /// The oldest transaction that writes; null where none does, or on a standby.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub oldest_writer: Option<Writer>,
    /// The oldest prepared transactions, oldest first; eight at most.
    pub prepared: Vec<Prepared>,
}

/// A transaction that writes, somewhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// Since when, to about a second and no further back than the server runs, or to the transaction's beginning where
    /// the server's role may see it.
    pub since: Timestamp,
    /// Its process; null where the server's role may not see it, or it was prepared.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub pid: Option<i32>,
    /// What the application calls itself; null like `pid`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub application: Option<String>,
    /// Its role; null like `pid`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub user: Option<String>,
    /// What its session does, such as `idle in transaction`; null like `pid`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub state: Option<String>,
}

/// A transaction that was prepared and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Prepared {
    /// Its name.
    pub gid: String,
    /// Since when.
    pub since: Timestamp,
    /// Who prepared it.
    pub user: String,
    /// In which database.
    pub database: String,
}

/// An entity at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EntityStatus {
    /// The public name.
    pub name: EntityName,
    /// The table, as in SQL.
    pub table: String,
    /// The names of the key's columns, in the order of the key.
    pub key: Vec<String>,
    /// Why it is not served; null where it is.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub fault: Option<String>,
    /// Rows as Postgres' statistics estimate them; null before the first `analyze`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub estimated_rows: Option<u64>,
    /// Rows that were inserted, updated and deleted in its table, a second, by Postgres' statistics; null where there
    /// are none yet, and on a standby.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub changes_per_second: Option<f64>,
    /// About how many tombstones it has; null before `analyze` ran.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub tombstones: Option<u64>,
    /// Bytes of its table on disk; null where they could not be had.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub table_bytes: Option<u64>,
    /// Bytes of its indexes on disk; null like `tableBytes`.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub index_bytes: Option<u64>,
}

/// The devices that a server has met since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// How many are remembered.
    pub known: u64,
    /// The most that are remembered; beyond it, who was not seen for longest is forgotten.
    pub known_max: u64,
    /// Those with a request that waits now.
    pub waiting: u64,
    /// Those that lack nothing.
    pub up_to_date: u64,
    /// Those that lack something.
    pub behind: u64,
    /// Those whose last attempt failed.
    pub failing: u64,
    /// How many match what was searched for.
    pub matching: u64,
    /// Of those the first, worst first.
    pub devices: Vec<DeviceStatus>,
}

/// A device as a server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// What it calls itself.
    pub device: String,
    /// Whose key or token it sends; null where nobody is asked who they are.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub caller: Option<String>,
    /// The version of its client; null where it did not say.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub version: Option<String>,
    /// When it was met first.
    pub first_seen: Timestamp,
    /// When its latest request came; now, where one waits.
    pub last_seen: Timestamp,
    /// Whether a request of it waits for news.
    pub waits: bool,
    /// Whether it lacks nothing; null where that cannot be told.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub up_to_date: Option<bool>,
    /// When it is known to have lacked nothing last; null where it never did.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub current_as_of: Option<Timestamp>,
    /// Seconds since then; 0 where it lacks nothing, and null where `upToDate` or `currentAsOf` is.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub behind_seconds: Option<u64>,
    /// What it sent last as `since`; null where it sent none, or more than is kept.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub since: Option<String>,
    /// The entities that it asked for last; null for all that it may read.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub entities: Option<Vec<EntityName>>,
    /// Its requests.
    pub requests: u64,
    /// Of its latest sixteen those that were answered with an error, by status.
    pub errors: Vec<ErrorCount>,
    /// What went wrong last; null where nothing did.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub last_error: Option<DeviceError>,
    /// Whether its last attempt failed.
    pub is_failing: bool,
}

/// How often a device was answered with a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorCount {
    /// The status.
    pub status: u16,
    /// How often.
    pub times: u64,
}

/// What went wrong at a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceError {
    /// The code: that of a problem, or what the device says of an error of its own.
    pub code: String,
    /// When the server heard of it last.
    pub heard: Timestamp,
    /// Whether the device told of it, rather than the server having answered with it.
    pub by_device: bool,
}
