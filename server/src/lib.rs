//! The Highwater server: what changed in Postgres tables since a cursor, exactly.
//!
//! From the database outward: [`snapshot`] and [`cursor`] hold the arithmetic, [`database`] one
//! connection and its transaction, [`entity`] and [`catalog`] what the catalog says, [`node`] and
//! `standby` which Postgres is read from, `timeline` which turn its history took, [`page`] one page of a pull, [`samples`] the history that
//! makes dates safe, [`watch`] looks at the source for all callers, [`live`] lets them wait,
//! [`share`] hands one page to many, [`turns`] says how many are answered at once and `pace` how many
//! of one caller, `coalescing` spares threads while long pages pass, [`limit`] names the limits, [`metrics`] counts, [`http`] has the routes. [`auth`] tells who a [`caller`] is. [`admin`] is what the commands other than `serve` do,
//! [`doctor`] what one of them finds, [`mod@why`] why a device lacks a row, and [`pooler`] what stands between this server and Postgres.

pub mod admin;
pub mod auth;
pub mod caller;
pub mod catalog;
mod coalescing;
pub mod cursor;
pub mod database;
pub mod doctor;
pub mod entity;
mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod limit;
mod lineage;
pub mod live;
pub mod metrics;
pub mod node;
mod pace;
pub mod page;
pub mod pooler;
pub mod quoting;
pub mod samples;
pub mod scope;
pub mod share;
pub mod snapshot;
mod standby;
mod status;
mod timeline;
pub mod tombstones;
pub mod turns;
mod unprepared;
pub mod watch;
pub mod why;

pub use coalescing::Coalescing;
pub use http::{Listeners, Origin, ServeError, ServeOptions, TlsError, TlsFiles, URL_BYTES_MAX, serve};
