//! The real client program, a real server and a real Postgres together.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod browser;
mod chaos;
mod exact;
mod fleet;
#[cfg(target_os = "linux")]
mod full_disk;
mod golden;
mod interruption;
mod json;
mod kinds;
mod live;
mod midway;
mod names;
mod oracle;
mod paced;
mod page;
mod partitions;
mod promotion;
mod python;
mod random;
mod reading;
mod repair;
mod restored;
mod resync;
mod rig;
mod scaling;
mod schema_changes;
mod scopes;
mod scripting;
mod seed_server;
mod seeds;
mod serving;
mod sizes;
mod tables;
mod tenants;
mod tls;
mod told;
mod types;
mod types_page;
mod values;
mod verify;
mod verify_kinds;
mod verify_live;
mod why;
mod writers;
