//! Pages that end early: by bytes, or because their reader went away.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Copy, Pull as _, Rig};

/// Backends of the server that are in the middle of a page.
const READING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and query ilike 'copy (select%' and state = 'active'";

/// A page ends by bytes too, and the pull goes on after it; a single row may be larger than a page.
#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let rig = Rig::start(
        "create table document (id int primary key, body text);
         insert into document select g, repeat(md5(g::text), 160000) from generate_series(1, 12) g;
         insert into document values (20, repeat('x', 40000000)), (21, 'small')",
    )
    .await;
    rig.enable(&["document"]).await;
    let mut copy = Copy::default();
    assert!(copy.pull_page(&rig.server, 0).await);
    assert!(
        (5..12).contains(&copy.upserts),
        "{} rows of 5 MB in the first page",
        copy.upserts
    );
    copy.pull(&rig.server, 0).await;
    assert!(copy.pages >= 4, "{} pages", copy.pages);
    assert_eq!(copy.rows("document"), rig.source("document", "id").await);
}

/// A reader that goes away in the middle of a page leaves a connection in the middle of a `COPY`:
/// it is closed, and what the pool hands out next is sound.
#[tokio::test]
async fn an_abandoned_copy_is_closed_and_never_pooled() {
    let rig = Rig::start(
        "create table product (id int primary key, name text);
         insert into product select g, repeat('x', 1000) from generate_series(1, 100000) g",
    )
    .await;
    rig.enable(&["product"]).await;
    for _ in 0..15 {
        let mut reader = TcpStream::connect(rig.server.address).await.unwrap();
        reader
            .write_all(b"GET /changes?limit=100000 HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut some = [0; 1000];
        reader.read_exact(&mut some).await.unwrap();
    }
    let gone = async {
        while sqlx::query_scalar::<_, i64>(READING)
            .fetch_one(&rig.pool)
            .await
            .unwrap()
            > 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("no backend goes on reading");
    let mut copy = Copy::default();
    copy.pull(&rig.server, 30_000).await;
    assert_eq!(copy.rows("product").len(), 100_000);
}
