//! A throwaway Postgres for a person: with January's flights in it, until Ctrl-C.
//!
//! The tests of what is left behind kill it in every way they know.

use std::io::Write;

use highwater_testbed::{Cluster, Profile, Result, flights};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cluster = Cluster::start(Profile::Fast)?;
    let url = cluster.url("postgres");
    flights::load(&sqlx::PgPool::connect(&url).await?, flights::Months::January).await?;
    writeln!(std::io::stdout(), "{url}\ndata {}", cluster.data_dir().display())?;
    match std::env::args().nth(1).as_deref() {
        Some("panic") => panic!("as asked"),
        Some("exit") => Ok(()),
        _ => std::future::pending().await,
    }
}
