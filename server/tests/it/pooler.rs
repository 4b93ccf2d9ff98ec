//! Through PgBouncer in transaction mode, as Debian packages it: the commands, the server, and nothing that the user
//! has to set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_server::pooler;
use highwater_testbed::{Cluster, Copy, PgBouncer, Profile};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::program::{output, serve};
use crate::rig::{pool, run, source};

/// Connections to Postgres that everybody shares: fewer than there are clients.
const CONNECTIONS: u32 = 6;

const TABLES: &str = "create table product (id int primary key, name text, tenant_id int not null default 1);
    insert into product select g, 'p' || g from generate_series(1, 300) g;
    create table part (id int primary key) partition by range (id);
    create table part_1 partition of part for values from (0) to (1000)";

#[expect(clippy::print_stderr, reason = "a test that is left out has to say so")]
fn bouncer(cluster: &Cluster, mode: &str) -> Option<PgBouncer> {
    let bouncer = PgBouncer::start(cluster, mode, CONNECTIONS).unwrap();
    if bouncer.is_none() {
        eprintln!("left out: there is no pgbouncer here, and none could be fetched");
    }
    bouncer
}

/// Others on the same pooler, so that hardly two transactions of one client in a row are on one connection.
fn others(url: &str, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let one = |milliseconds: u32| {
        let (url, stop) = (url.to_owned(), Arc::clone(stop));
        tokio::spawn(async move {
            let options = pooler::options(&url).unwrap();
            let mut connection = PgConnection::connect_with(&options).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let hold = format!("begin; select pg_sleep({milliseconds} / 1000.0); commit");
                sqlx::raw_sql(AssertSqlSafe(hold))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
        })
    };
    (1..=4).map(one).collect()
}

#[tokio::test]
async fn a_pooler_is_told_from_postgres() {
    let cluster = Cluster::start(Profile::Fast).unwrap();
    let lends = async |url: &str| {
        pooler::lends_connections(&pooler::options(url).unwrap())
            .await
            .unwrap()
    };
    assert!(!lends(&cluster.url("postgres")).await);
    let Some(session) = bouncer(&cluster, "session") else {
        return;
    };
    assert!(!lends(&session.url("postgres")).await);
    let transaction = bouncer(&cluster, "transaction").unwrap();
    assert!(lends(&transaction.url("postgres")).await);
    let stop = Arc::new(AtomicBool::new(false));
    let others = others(&transaction.url("postgres"), &stop);
    for _ in 0..20 {
        assert!(lends(&transaction.url("postgres")).await);
    }
    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_through_a_pooler() {
    let cluster = Cluster::start(Profile::Fast).unwrap();
    let Some(bouncer) = bouncer(&cluster, "transaction") else {
        return;
    };
    let url = bouncer.url("postgres");
    let direct = pool(&cluster.url("postgres")).await;
    run(&direct, TABLES).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut others = others(&url, &stop);
    let command = |words: &[&str]| {
        let (code, said, error) = output(&[words, &["--database-url", &url]].concat());
        assert_eq!(code, Some(0), "{words:?}: {error}{said}");
        said
    };
    command(&["migrate"]);
    command(&["migrate"]);
    assert!(command(&["enable", "product", "--dry-run"]).contains("create index concurrently"));
    command(&["enable", "product", "--scope", "tenant_id"]);
    command(&["enable", "part"]);
    command(&["enable", "product"]);
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    let locks: i64 = sqlx::query_scalar(locks).fetch_one(&direct).await.unwrap();
    assert_eq!(locks, 0, "a lock of a session would stay with the pooler");

    let (process, address, mut log) = serve(&["--database-url", &url, "--pool-size", "12"]);
    let http = reqwest::Client::new();
    let get = async |path: &str, accept: &str| {
        let request = http
            .get(format!("http://{address}{path}"))
            .header("accept", accept);
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (url, stop) = (url.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let options = pooler::options(&url).unwrap();
                let mut connection = PgConnection::connect_with(&options).await.unwrap();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let id = 1 + (round * 7 + writer * 100) % 300;
                    let write = format!(
                        "begin; update product set name = 'r{round}' where id = {id}; select pg_sleep(0.002);
                         delete from product where id = {id} and {round} % 5 = 0; insert into part values ({}) on conflict do nothing; commit",
                        (round * 3 + writer) % 1000
                    );
                    sqlx::raw_sql(AssertSqlSafe(write)).execute(&mut connection).await.unwrap();
                }
            })
        })
        .collect();
    others.extend(writers);
    let mut copy = Copy::default();
    let json = "application/json";
    for round in 0..60 {
        let since = copy
            .since
            .as_ref()
            .map_or(String::new(), |since| format!("since={since}&"));
        let wait = if round % 4 == 0 { "wait=1&" } else { "" };
        let page = get(&format!("/changes?{since}{wait}limit=40"), json).await;
        copy.apply(&serde_json::from_str(&page).unwrap());
        match round % 7 {
            0 => assert!(get("/entities", json).await.contains("product")),
            1 => assert!(
                get(&format!("/why?{since}entity=product&key={round}"), json)
                    .await
                    .contains("outcome")
            ),
            2 => assert!(get("/metrics", "text/plain").await.contains("highwater_")),
            3 => assert!(
                get("/changes?limit=5", "application/vnd.highwater.copy")
                    .await
                    .contains("\\.")
            ),
            4 => drop(get("/changes?since=2020-01-01T00:00:00Z&limit=5", json).await),
            5 => drop(get("/readyz", json).await),
            _ => drop(command(&["purge", "--older-than", "0s", "--dry-run"])),
        }
    }
    command(&["purge", "--older-than", "90d"]);
    command(&["touch", "product"]);
    assert!(command(&["entities"]).contains("product"));
    assert!(
        command(&["why", "public.product", "7", "--scope", "tenant_id=1"]).contains("product {\"id\":7}")
    );
    assert!(command(&["grants"]).contains("grant select"));
    // A test's cluster flushes nothing, which is serious.
    let (code, said, error) = output(&["doctor", "--json", "--database-url", &url]);
    assert_eq!((code, error.as_str()), (Some(1), ""));
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let serious = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["severity"] == "serious");
    assert_eq!(
        serious.map(|finding| &finding["subject"]).collect::<Vec<_>>(),
        ["fsync"],
        "{said}"
    );

    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    loop {
        let since = copy
            .since
            .as_ref()
            .map_or(String::new(), |since| format!("since={since}"));
        let page = get(&format!("/changes?{since}"), json).await;
        if !copy.apply(&serde_json::from_str(&page).unwrap()) {
            break;
        }
    }
    for entity in ["product", "part"] {
        assert_eq!(copy.rows(entity), source(&direct, entity, "id").await, "{entity}");
    }
    command(&["disable", "part", "--dry-run"]);
    command(&["disable", "part"]);
    command(&["rebase"]);
    drop(process);
    assert!(log.all(|line| !line.contains("prepared statement")));
}
