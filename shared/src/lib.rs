//! What the Highwater server and client say to each other, and nothing else.
//!
//! A pull is a sequence of *pages*. A page travels as JSON, for people and other languages
//! ([`changes`]), or as blocks of Postgres `COPY` text between JSON lines ([`block`],
//! [`parser`], [`copy_text`]). Both mean the same. What is there on both sides is compared by
//! [`digests`] over [`hash`]es, which travel in the same blocks. Errors travel as RFC 9457 problems
//! ([`problem`]), and [`why`] a device has a row or lacks it is told in words. A client names its [`device`], and
//! what becomes of all devices is in [`status`]. The crate does no I/O and knows neither Postgres nor SQLite.

pub mod block;
pub mod changes;
pub mod column;
pub mod copy_text;
pub mod device;
pub mod digests;
pub mod entity;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hash;
pub mod parser;
pub mod problem;
pub mod status;
pub mod timestamp;
pub mod why;

pub use block::{BlockHeader, BlockKind, Trailer};
pub use changes::{Change, Changes, Reason};
pub use column::{Column, ColumnRole, ValueKind};
pub use device::{CLIENT_HEADER, Device};
pub use digests::{DigestsOf, DigestsRequest, Want, Within};
pub use entity::{EntityDescription, EntityList, EntityName};
pub use parser::{PageError, PageParser, PageSink};
pub use problem::{Code, Problem, ResyncReason};
pub use timestamp::Timestamp;
pub use why::{AnewReason, DeletedBy, NextPull, Outcome, Why, Writing};

/// Media type of a page in `COPY` blocks, what the client asks for.
pub const COPY_MEDIA_TYPE: &str = "application/vnd.highwater.copy";

/// Media type of a page in JSON, the default.
pub const JSON_MEDIA_TYPE: &str = "application/json";

/// Media type of an error.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Response header that carries the own id of the source database, so that a store can tell
/// its source from another before it keeps anything.
pub const SOURCE_HEADER: &str = "highwater-source";
