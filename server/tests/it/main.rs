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
mod digests;
mod digests_refused;
mod doctor;
mod doctor_roles;
mod doctor_schema;
mod durability;
mod enabling;
mod fleet;
mod formats;
mod identity;
mod issuer;
mod limits;
mod literals;
mod live;
mod locks;
mod metrics;
mod openapi;
mod operators;
mod overload;
mod pacing;
mod package;
mod planning;
mod pooler;
mod problems;
mod program;
mod rescoped;
mod restored;
mod retention;
mod rewriting;
mod rig;
mod rights;
mod row_security;
mod scopes;
mod shapes;
mod snapshots;
mod standby;
mod timely;
mod tls;
mod tokens;
mod why;
mod why_random;
mod why_scopes;
