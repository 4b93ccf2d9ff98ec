//! The server against a real Postgres: one file a subject, one test binary, one database a test.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_push_string,
    reason = "a test fails by panicking"
)]

mod adopting;
mod bounds;
mod browsers;
mod caching;
mod callers;
mod dates;
mod deltas;
mod durability;
mod enabling;
mod formats;
mod identity;
mod issuer;
mod limits;
mod live;
mod overload;
mod package;
mod problems;
mod program;
mod retention;
mod rewriting;
mod rig;
mod rights;
mod scopes;
mod snapshots;
mod standby;
mod tls;
mod tokens;
