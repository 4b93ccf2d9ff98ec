//! The client against servers that are slow, broken, hostile or not servers at all, and its program
//! on files that are damaged, protected, not its own, or on a full disk.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod beside;
mod damage;
mod encodings;
#[cfg(target_os = "linux")]
mod endless;
mod hostile;
mod package;
mod place;
mod program;
mod progress;
mod refused;
mod resets;
mod resyncs;
mod server;
mod status;
mod tokens;
mod unit;
#[cfg(target_os = "linux")]
mod whole;
