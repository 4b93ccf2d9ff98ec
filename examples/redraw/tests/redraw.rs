//! What is shown follows what is committed, and nothing is drawn for changes of other entities.

use std::path::Path;

use highwater_testbed::{Result, Stage};
use rusqlite::Connection;

const TABLES: &str = "
    create table product (id int primary key, name text not null);
    create table other (id int primary key);
    insert into product values (1, 'Chair'), (2, 'Table')";

/// The rows of the last drawing, without their dates.
fn last(said: &str) -> Option<Vec<&str>> {
    let (_, last) = said.rsplit_once("--- product: ")?;
    Some(
        last.lines()
            .map(|line| line.rsplit_once(" | ").map_or(line, |(row, _)| row))
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_drawn() -> Result<()> {
    let stage = Stage::start("redraw").await?;
    let pool = stage.database().pool().await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    stage.admin(&["migrate"])?;
    stage.admin(&["enable", "product"])?;
    stage.admin(&["enable", "other"])?;
    let server = stage.serve(&[])?;
    let program = Path::new(env!("CARGO_BIN_EXE_highwater-example-redraw"));
    let arguments = [server.url.as_str(), "shop.db", "product"];
    let mut redraw = stage.start_writing(program, &arguments, "shown")?;
    let wait = |redraw: &mut _, expected: &[&str]| {
        stage.wait_for("shown", redraw, |said| (last(said)? == expected).then_some(()))
    };
    wait(&mut redraw, &["2 rows", "1 | Chair", "2 | Table"])?;
    for (sql, expected) in [
        (
            "update product set name = 'Sofa' where id = 1",
            &["2 rows", "1 | Sofa", "2 | Table"][..],
        ),
        ("delete from product where id = 2", &["1 rows", "1 | Sofa"]),
    ] {
        sqlx::raw_sql(sql).execute(&pool).await?;
        wait(&mut redraw, expected)?;
    }
    sqlx::raw_sql("insert into other values (1)")
        .execute(&pool)
        .await?;
    let store = Connection::open(stage.folder().join("shop.db"))?;
    while !store.prepare("select 1 from other")?.exists([])? {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("insert into product values (3, 'Lamp')")
        .execute(&pool)
        .await?;
    wait(&mut redraw, &["2 rows", "1 | Sofa", "3 | Lamp"])?;
    // At first there was nothing; the change of another entity is not among the rest.
    let said = std::fs::read_to_string(stage.folder().join("shown"))?;
    assert_eq!(said.matches("--- product").count(), 5, "{said}");
    assert!(said.starts_with("--- product: not here yet\n"), "{said}");
    Ok(())
}
