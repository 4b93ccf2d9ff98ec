//! Keeps an offline SQLite copy of Postgres tables current, by moving only what changed.
//!
//! A [`Store`] is one SQLite file, with a table for each entity, that any program may read while
//! it is written. A [`Client`] pulls from a `highwater-server` what changed since the store's
//! cursor, page by page; a page and its cursor are committed together, so the store never claims
//! more than it holds, whatever is cut off.
//!
//! ```no_run
//! use highwater_client::Client;
//!
//! # async fn example() -> Result<(), highwater_client::Error> {
//! let client = Client::builder("http://127.0.0.1:8080").open("shop.db")?;
//! let report = client.pull().await?;
//! println!("{} rows in {:?}", report.rows, report.elapsed);
//! for entity in &report.entities {
//!     println!("{}: {} rows changed, {} gone", entity.entity, entity.upserts, entity.deletes);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::follow`] keeps on pulling, live or at an interval, [`status()`] tells how a store stands, [`reset()`] makes
//! the next pull a full one, [`Client::verify`] compares the store with its source, and
//! [`ClientBuilder::why`] tells why it lacks a row. The library prints nothing, ends no process and reads no
//! environment variable of its own.

mod address;
mod applied;
mod client;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod introduction;
mod meter;
mod network;
mod plan;
mod pull;
mod remote;
mod seed;
#[cfg(test)]
mod simulation;
mod spread;
mod store;
mod sync_helper;
mod token;
mod trust;
mod verify;
mod why;

pub use highwater_shared::device::DEVICE_NAME_BYTES_MAX;
pub use highwater_shared::{
    AnewReason, DeletedBy, EntityDescription, EntityList, EntityName, NextPull, Outcome, ResyncReason,
    Timestamp, Why, Writing,
};

pub use crate::applied::{EntityApplied, PageApplied, PullReport};
pub use crate::client::{Client, ClientBuilder, Pace};
pub use crate::error::{Cause, Error};
pub use crate::meter::Progress;
pub use crate::pull::Event;
pub use crate::seed::{SeedLocation, SeedReport, Seeding, write_seed};
pub use crate::store::{EntityStatus, HeldRow, Reset, Store, StoreStatus, reset, status};
pub use crate::sync_helper::{Cursor, SourceId, State, SyncHelper};
pub use crate::token::Token;
pub use crate::verify::{Depth, EntityVerified, RowKey, VerifyReport};
pub use crate::why::{AskedKey, Verdict, WhyReport};
