//! The client against servers that are slow, broken, hostile or not servers at all.

mod hostile;
mod program;
mod server;
