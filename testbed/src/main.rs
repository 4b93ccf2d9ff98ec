//! A throwaway Postgres for a person: with January's flights in it, until Ctrl-C. Or with
//! `nginx 127.0.0.1:8080`, a throwaway nginx before the servers at these addresses, and with
//! `serve`, a throwaway server on a Postgres of its own; what follows are options of
//! `highwater-server serve`.
//!
//! The tests of what is left behind kill it in every way they know.

mod served;

use std::io::Write;

use anyhow::Context;
use highwater_testbed::{Cluster, NGINX_CONF, Nginx, Profile, Result, flights};

use crate::served::Served;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("nginx") {
        let upstreams: Vec<_> = arguments
            .map(|address| address.parse())
            .collect::<Result<_, _>>()?;
        let nginx = Nginx::start(NGINX_CONF, &upstreams)?.context("there is no nginx")?;
        writeln!(
            std::io::stdout(),
            "{}\nfolder {}",
            nginx.url(),
            nginx.folder().display()
        )?;
        return std::future::pending().await;
    }
    if first.as_deref() == Some("serve") {
        let options: Vec<String> = arguments.collect();
        let served = Served::start(&options).await?;
        writeln!(std::io::stdout(), "{}", served.url)?;
        return std::future::pending().await;
    }
    let cluster = Cluster::start(Profile::Fast)?;
    let url = cluster.url("postgres");
    flights::load(&sqlx::PgPool::connect(&url).await?, flights::Months::January).await?;
    writeln!(std::io::stdout(), "{url}\ndata {}", cluster.data_dir().display())?;
    match first.as_deref() {
        Some("panic") => panic!("as asked"),
        Some("exit") => Ok(()),
        _ => std::future::pending().await,
    }
}
