//! A throwaway server on a throwaway Postgres, with few rows of many kinds, for programs that try requests on it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use highwater_testbed::programs::{self, Programs};
use highwater_testbed::{Cluster, Process, Profile, Result, free_port};
use sqlx::{Connection as _, PgConnection};

/// How long the server may take until it is ready.
const START_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What is served: keys of several columns and types, odd names, values that are hard to write, deletions of
/// both kinds, an entity without rows and one with a scope.
const TABLES: &str = r#"
create table product (id integer primary key, name text, price numeric(10, 2), made timestamptz, tags text[], extra jsonb);
insert into product select g, 'product ' || g, g, '2026-01-01'::timestamptz + g * interval '1 day', '{a,"b,c"}', '{"a": [1, null]}'
    from generate_series(1, 30) g;
create table "Odd ""Näme""" ("a b" text, "c:d" uuid, e bytea, primary key ("a b", "c:d"));
insert into "Odd ""Näme""" select e'\t''"\\' || g, md5(g::text)::uuid, '\x00ff' from generate_series(1, 5) g;
create table reading (at timestamptz primary key, value double precision, span interval, range int4range);
insert into reading values ('-infinity', 'NaN', '1 day', '[1,3)'), ('0044-03-15 BC', 'Infinity', '-1 s', 'empty'), (now(), 0.1, null, null);
create table nothing (id bigint primary key);
create table tenanted (tenant_id integer not null, id integer, primary key (tenant_id, id));
insert into tenanted select g % 3, g from generate_series(1, 9) g;
"#;

/// What happened since they are served.
const CHANGES: &str =
    "update product set name = 'changed' where id < 5; update product set deleted = true where id = 7;
    delete from product where id = 8; delete from tenanted where id = 1; truncate nothing";

/// A server, and what it reads from. They end in this order.
pub(crate) struct Served {
    pub(crate) url: String,
    _server: Process,
    _cluster: Cluster,
}

impl Served {
    /// Starts `highwater-server serve` with these options, and waits until it is ready.
    pub(crate) async fn start(options: &[String]) -> Result<Self> {
        let programs = programs::build(false)?;
        let cluster = Cluster::start(Profile::Fast)?;
        let database = cluster.url("postgres");
        let mut connection = PgConnection::connect(&database).await?;
        sqlx::raw_sql(TABLES).execute(&mut connection).await?;
        run(&programs, &database, &["migrate"])?;
        for table in ["product", r#""Odd ""Näme""""#, "reading", "nothing"] {
            run(&programs, &database, &["enable", table])?;
        }
        run(
            &programs,
            &database,
            &["enable", "tenanted", "--scope", "tenant_id"],
        )?;
        sqlx::raw_sql(CHANGES).execute(&mut connection).await?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut command = command(&programs, &database, &["serve", "--listen", &listen]);
        command.args(options).env("RUST_LOG", "warn");
        let mut server = Process::spawn(command)?;
        let begun = Instant::now();
        while !is_ready(&listen) {
            ensure!(server.try_wait()?.is_none(), "the server has ended");
            ensure!(begun.elapsed() < START_MAX, "the server did not become ready");
            thread::sleep(POLL);
        }
        Ok(Self {
            url: format!("http://{listen}"),
            _server: server,
            _cluster: cluster,
        })
    }
}

fn command(programs: &Programs, database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(&programs.server);
    command
        .args(arguments)
        .env("DATABASE_URL", database)
        .stdin(Stdio::null());
    command
}

fn run(programs: &Programs, database: &str, arguments: &[&str]) -> Result<()> {
    let ran = command(programs, database, arguments)
        .stdout(Stdio::null())
        .status()
        .context("cannot run highwater-server")?;
    ensure!(ran.success(), "highwater-server {arguments:?}: {ran}");
    Ok(())
}

fn is_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(START_MAX))?;
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
