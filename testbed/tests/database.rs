//! Databases of tests do not see each other, and go when their tests end.

use std::sync::atomic::{AtomicU32, Ordering};

use highwater_testbed::{Database, Result, shared_server};
use sqlx::{Connection, PgConnection};

async fn exists(name: &str) -> Result<bool> {
    let mut connection = PgConnection::connect(&shared_server()?.url("postgres")).await?;
    let found = sqlx::query_scalar("select exists (select from pg_database where datname = $1)").bind(name);
    Ok(found.fetch_one(&mut connection).await?)
}

#[tokio::test]
async fn databases_are_isolated_and_dropped() -> Result<()> {
    let one = Database::create("isolated").await?;
    let two = Database::create("isolated").await?;
    let (in_one, in_two) = (one.pool().await?, two.pool().await?);
    sqlx::query("create table t ()").execute(&in_one).await?;
    sqlx::query("create table t ()").execute(&in_two).await?;
    let name = one.name().to_owned();
    assert!(exists(&name).await?);
    // With connections still open.
    drop(one);
    assert!(!exists(&name).await?);
    assert!(exists(two.name()).await?);
    Ok(())
}

#[tokio::test]
async fn database_has_the_encoding_that_was_asked_for() -> Result<()> {
    for encoding in ["LATIN1", "UTF8"] {
        let database = Database::create_encoded("encoded", encoding).await?;
        let found: String = sqlx::query_scalar("show server_encoding")
            .fetch_one(&mut database.connect().await?)
            .await?;
        assert_eq!(found, encoding);
    }
    Ok(())
}

#[tokio::test]
async fn database_is_dropped_by_a_panic() -> Result<()> {
    let database =
        Database::create("Odd näme, \"quoted\"; and much longer than a name may be in Postgres").await?;
    let name = database.name().to_owned();
    let panicked = tokio::spawn(async move {
        let _held = database;
        panic!("as a failed assertion would");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert!(!exists(&name).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn template_is_prepared_once_and_copied_by_many() -> Result<()> {
    static PREPARED: AtomicU32 = AtomicU32::new(0);
    let copies = (0..8).map(|_| {
        tokio::spawn(async {
            let database = Database::from_template("one_table", |url| async move {
                PREPARED.fetch_add(1, Ordering::Relaxed);
                // Left open on purpose: the template must be usable all the same.
                let pool = sqlx::PgPool::connect(&url).await?;
                sqlx::query("create table given (n integer)")
                    .execute(&pool)
                    .await?;
                std::mem::forget(pool);
                Ok(())
            });
            let database = database.await?;
            let mut connection = database.connect().await?;
            sqlx::query("insert into given values (1)")
                .execute(&mut connection)
                .await?;
            let count: i64 = sqlx::query_scalar("select count(*) from given")
                .fetch_one(&mut connection)
                .await?;
            assert_eq!(count, 1);
            anyhow::Ok(())
        })
    });
    for copy in copies.collect::<Vec<_>>() {
        copy.await??;
    }
    assert_eq!(PREPARED.load(Ordering::Relaxed), 1);
    Ok(())
}

#[tokio::test]
async fn failed_template_says_why_and_is_tried_again() -> Result<()> {
    let failed = Database::from_template("fails", |_| async { anyhow::bail!("no luck") }).await;
    assert!(format!("{:#}", failed.unwrap_err()).contains("no luck"));
    Database::from_template("fails", |_| async { Ok(()) }).await?;
    Ok(())
}

#[test]
fn databases_work_from_one_runtime_after_another() -> Result<()> {
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let database = runtime.block_on(Database::create("runtimes"))?;
        // Dropped where there is no runtime at all.
        drop(runtime);
        drop(database);
    }
    Ok(())
}
