//! The server against a real Postgres: one file a subject, one test binary, one database a test.

mod dates;
mod deltas;
mod durability;
mod enabling;
mod formats;
mod problems;
mod program;
mod rewriting;
mod rig;
mod snapshots;
