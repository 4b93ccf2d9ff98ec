//! A cluster answers, keeps what was committed through a crash, and serves its standbys.

use std::net::TcpStream;

use highwater_testbed::{Cluster, Profile, Result};
use sqlx::{Connection, PgConnection};

async fn ask(cluster: &Cluster, question: &'static str) -> Result<String> {
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
    Ok(sqlx::query_scalar(question).fetch_one(&mut connection).await?)
}

async fn tell(cluster: &Cluster, statement: &'static str) -> Result<()> {
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
    sqlx::raw_sql(statement).execute(&mut connection).await?;
    Ok(())
}

#[tokio::test]
async fn cluster_answers_with_its_settings() -> Result<()> {
    let cluster = Cluster::start_with(Profile::Fast, &[("cluster_name", "it's ours")])?;
    // Not `show`: sqlx asks for UTC in each of its sessions.
    let zone = ask(
        &cluster,
        "select setting from pg_file_settings where name = 'timezone' and applied",
    )
    .await?;
    assert_eq!(zone, "America/New_York");
    assert_eq!(ask(&cluster, "show max_connections").await?, "300");
    assert_eq!(ask(&cluster, "show synchronous_commit").await?, "on");
    assert_eq!(ask(&cluster, "show server_encoding").await?, "UTF8");
    assert_eq!(ask(&cluster, "show cluster_name").await?, "it's ours");
    tell(&cluster, "do $$ begin perform 1; end $$ language plpgsql").await
}

#[tokio::test]
async fn durable_cluster_flushes_and_is_not_in_memory() -> Result<()> {
    let cluster = Cluster::start(Profile::Durable)?;
    assert_eq!(ask(&cluster, "show fsync").await?, "on");
    assert_eq!(ask(&cluster, "show full_page_writes").await?, "on");
    assert!(!cluster.data_dir().starts_with("/dev/shm"));
    Ok(())
}

#[tokio::test]
async fn committed_rows_survive_crash_and_stop() -> Result<()> {
    let mut cluster = Cluster::start(Profile::Fast)?;
    let url = cluster.url("postgres");
    tell(
        &cluster,
        "create table kept (name text); insert into kept values ('a')",
    )
    .await?;
    for crash in [true, false, true] {
        // A session in the middle of a transaction, as there is in life.
        let mut open = PgConnection::connect(&url).await?;
        sqlx::raw_sql("begin; insert into kept values ('lost')")
            .execute(&mut open)
            .await?;
        if crash {
            cluster.crash()?;
        } else {
            cluster.stop()?;
        }
        assert!(TcpStream::connect(("127.0.0.1", cluster.port())).is_err());
        cluster.start_again()?;
        assert_eq!(cluster.url("postgres"), url);
        assert_eq!(
            ask(&cluster, "select string_agg(name, ',') from kept").await?,
            "a"
        );
    }
    Ok(())
}

#[tokio::test]
async fn standby_follows_and_can_be_promoted() -> Result<()> {
    let mut primary = Cluster::start(Profile::Fast)?;
    let standby = primary.start_standby(Profile::Fast, &[])?;
    tell(
        &primary,
        "create table seen (name text); insert into seen values ('b')",
    )
    .await?;
    let written = ask(&primary, "select pg_current_wal_lsn()::text").await?;
    let mut connection = PgConnection::connect(&standby.url("postgres")).await?;
    loop {
        let replayed = sqlx::query_scalar("select pg_last_wal_replay_lsn() >= $1::pg_lsn").bind(&written);
        if replayed.fetch_one(&mut connection).await? {
            break;
        }
    }
    assert_eq!(ask(&standby, "select name from seen").await?, "b");
    primary.crash()?;
    assert_eq!(ask(&standby, "select pg_promote()::text").await?, "true");
    tell(&standby, "insert into seen values ('c')").await
}

#[test]
fn cluster_outlives_the_thread_that_started_it() -> Result<()> {
    let started = std::thread::spawn(|| Cluster::start(Profile::Fast)).join();
    let cluster = started.unwrap()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        assert_eq!(ask(&cluster, "select 'here'").await?, "here");
        Ok(())
    })
}
