//! The real client program, a real server and a real Postgres together.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod interruption;
mod oracle;
mod rig;
mod types;
mod writers;
