//! The real client program, a real server and a real Postgres together.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[cfg(target_os = "linux")]
mod full_disk;
mod interruption;
mod midway;
mod oracle;
mod rig;
mod schema_changes;
mod seed_server;
mod seeds;
mod types;
mod writers;
