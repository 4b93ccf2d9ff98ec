//! More callers than a server can answer, readers that stand still, and a Postgres that goes away:
//! who is refused, how, and who is not.

use std::time::{Duration, Instant};

use highwater_server::ServeOptions;
use highwater_server::admin::{self, EnableOptions};
use highwater_server::limit::PageBounds;
use highwater_testbed::{Cluster, Profile};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::rig::{Rig, Served, run};

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than fits between a server and a reader that stands still.
const LARGE: &str = "create table product (id int primary key, name text);
    insert into product select g, repeat('x', 10000) from generate_series(1, 3000) g";

const SMALL: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

/// Backends that are in the middle of a page.
const READING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and query ilike 'copy (select%' and state = 'active'";

async fn rig(table: &str) -> Rig {
    let rig = Rig::start(table).await;
    rig.enable(&["product"]).await;
    rig
}

/// Another server on the rig's database, with few connections of its own. One of them is for looks.
async fn server(rig: &Rig, connections: u32, acquire_wait: Duration, options: ServeOptions) -> Served {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_wait);
    let pool = pool.connect(&rig.database.url()).await.unwrap();
    Served::start_with(&pool, options).await
}

/// The cursor of a caller that is up to date, given once the server has looked around for it: what others in the cluster
/// commit between a cursor and the first look has to be read.
async fn cursor(server: &Served) -> String {
    let mut query = String::new();
    loop {
        let page = server.page(&query).await;
        let next = page["next"].as_str().unwrap();
        if page["more"] == false && !query.is_empty() {
            return next.to_owned();
        }
        query = format!("since={next}");
    }
}

/// A reader that asks for a large page, and reads nothing more once it has begun. Those with another
/// `limit` do not share a page.
async fn stalled(server: &Served, limit: u32) -> TcpStream {
    let mut reader = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /changes?limit={limit} HTTP/1.1\r\nhost: x\r\n\r\n");
    reader.write_all(request.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    reader.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    reader
}

/// Callers that wait, of which the server lets in all but one: when that one has been refused, the
/// others are waiting.
async fn waiting(server: &Served, since: &str, waiting_max: usize) -> Vec<JoinHandle<reqwest::Response>> {
    let url = format!("http://{}/changes?since={since}&wait=60", server.address);
    let callers = (0..=waiting_max).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { reqwest::get(url).await.unwrap() })
    });
    let (refused, _, rest) = futures_util::future::select_all(callers).await;
    assert_unavailable(refused.unwrap(), "too many callers wait").await;
    rest
}

async fn assert_unavailable(response: reqwest::Response, detail: &str) {
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
}

/// Asks until the answer has this status.
async fn until_status(server: &Served, path: &str, status: u16) -> reqwest::Response {
    let asked = async {
        loop {
            let response = server.get(path).await;
            if response.status() == status {
                return response;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| panic!("{path} is not answered with {status}"))
}

async fn changes(answer: JoinHandle<reqwest::Response>) -> usize {
    let response = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let page: Value = response.json().await.unwrap();
    page["changes"].as_array().unwrap().len()
}

#[tokio::test]
async fn beyond_its_limit_requests_are_refused_at_once_and_those_who_waited_are_answered() {
    let rig = rig(LARGE).await;
    let options = ServeOptions {
        requests_max: 2,
        waiting_max: 1,
        ..ServeOptions::default()
    };
    let server = server(&rig, 6, PATIENCE, options).await;
    let since = cursor(&server).await;
    let mut held = waiting(&server, &since, 1).await.pop().unwrap();
    // Who waits has no turn: both are there for others.
    let readers = [stalled(&server, 3000).await, stalled(&server, 2999).await];
    let began = Instant::now();
    for path in ["/changes", "/entities"] {
        assert_unavailable(server.get(path).await, "too many requests").await;
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    // A server that is busy is alive and ready all the same.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status(), 200);
    }

    rig.run("update product set name = 'short' where id = 7").await;
    // Long enough for the caller to be woken; where it is not yet, the test is only weaker.
    let answered = tokio::time::timeout(Duration::from_secs(1), &mut held).await;
    assert!(answered.is_err(), "no turn is free");
    assert_unavailable(server.get("/changes").await, "too many requests").await;
    drop(readers);
    assert_eq!(changes(held).await, 1);
    until_status(&server, "/changes", 200).await;
}

#[tokio::test]
async fn beyond_their_limit_callers_who_would_wait_are_refused_and_nobody_else() {
    let rig = rig(SMALL).await;
    let options = ServeOptions {
        waiting_max: 3,
        ..ServeOptions::default()
    };
    let server = Served::start_with(&rig.pool, options).await;
    let since = cursor(&server).await;
    let held = waiting(&server, &since, 3).await;
    assert_eq!(server.page(&format!("since={since}")).await["more"], false);
    assert_eq!(server.page("").await["more"], false);
    rig.run("update product set name = 'new' where id <= 2").await;
    // There is something for it, so it need not wait.
    let page = server.page(&format!("since={since}&wait=60")).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 2);
    for answer in held {
        assert_eq!(changes(answer).await, 2);
    }
    // The places are free again.
    let since = cursor(&server).await;
    let held = waiting(&server, &since, 3).await;
    rig.run("update product set name = 'newer' where id = 1").await;
    for answer in held {
        assert_eq!(changes(answer).await, 1);
    }
}

#[tokio::test]
async fn a_pool_full_of_slow_readers_refuses_others_and_recovers() {
    let rig = rig(LARGE).await;
    let options = ServeOptions::default();
    // Long enough to connect on a busy machine, too.
    let server = server(&rig, 3, Duration::from_secs(3), options).await;
    let since = cursor(&server).await;
    let readers = [stalled(&server, 3000).await, stalled(&server, 2999).await];
    assert_unavailable(server.get("/changes").await, "database is not available").await;
    // Who is up to date needs no connection, once the server has had one to look around.
    let page = until_status(&server, &format!("/changes?since={since}"), 200).await;
    let page: Value = page.json().await.unwrap();
    assert_eq!(page["changes"], serde_json::json!([]));
    drop(readers);
    until_status(&server, "/changes?limit=1", 200).await;
}

/// It is cut off, and what it held is there for others, though it never closes its connection.
#[tokio::test]
async fn a_caller_that_never_reads_holds_nothing_for_ever() {
    let rig = rig(LARGE).await;
    let options = ServeOptions {
        requests_max: 1,
        page: PageBounds {
            send_wait_max: Duration::from_millis(300),
            ..PageBounds::default()
        },
        ..ServeOptions::default()
    };
    let server = server(&rig, 2, PATIENCE, options).await;
    let mut reader = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /changes?limit=3000 HTTP/1.1\r\nhost: x\r\n\r\n";
    reader.write_all(request).await.unwrap();
    let reading = async |expected: bool| {
        let reached = async {
            loop {
                let reading: i64 = sqlx::query_scalar(READING).fetch_one(&rig.pool).await.unwrap();
                if (reading > 0) == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("a backend is reading: not {expected}"));
    };
    reading(true).await;
    reading(false).await;
    until_status(&server, "/changes?limit=1", 200).await;
    // What it finds when it reads at last does not pass for a page.
    let mut found = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut found))
        .await
        .expect("the connection ends");
    assert!(!found.ends_with(b"0\r\n\r\n"), "{} bytes", found.len());
}

/// What was not taken would stay in memory until the connection is gone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_connection_of_a_caller_that_never_reads_is_ended() {
    let rig = rig(LARGE).await;
    let options = ServeOptions {
        page: PageBounds {
            send_wait_max: Duration::from_millis(300),
            ..PageBounds::default()
        },
        ..ServeOptions::default()
    };
    let server = Served::start_with(&rig.pool, options).await;
    let reader = stalled(&server, 3000).await;
    // As the kernel lists them: addresses and ports in hexadecimal.
    let ends =
        [server.address.port(), reader.local_addr().unwrap().port()].map(|port| format!(":{port:04X}"));
    let is_open = || {
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        connections.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&ends[0]) && fields[2].ends_with(&ends[1])
        })
    };
    assert!(is_open());
    let ended = async {
        while is_open() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("the server ends the connection");
    drop(reader);
}

#[tokio::test]
async fn callers_who_wait_outlast_a_restart_of_postgres() {
    let mut cluster = Cluster::start(Profile::Fast).unwrap();
    let url = cluster.url("postgres");
    let mut connection = <PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    admin::migrate(&mut connection).await.unwrap();
    let pool: PgPool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(2))
        .connect(&url)
        .await
        .unwrap();
    run(&pool, SMALL).await;
    admin::enable(&mut connection, "product", &EnableOptions::default())
        .await
        .unwrap();
    let options = ServeOptions {
        waiting_max: 2,
        ..ServeOptions::default()
    };
    let server = Served::start_with(&pool, options).await;
    assert_eq!(server.get("/readyz").await.status(), 200);
    let since = cursor(&server).await;
    let held = waiting(&server, &since, 2).await;

    cluster.stop().unwrap();
    let unready = until_status(&server, "/readyz", 503).await;
    assert_unavailable(unready, "try again").await;
    // Nothing can be known for who comes now.
    let path = format!("/changes?since={since}&wait=60");
    assert_unavailable(server.get(&path).await, "try again").await;
    assert!(
        held.iter().all(|answer| !answer.is_finished()),
        "they go on waiting"
    );

    cluster.start_again().unwrap();
    until_status(&server, "/readyz", 200).await;
    run(&pool, "update product set name = 'after' where id = 7").await;
    for answer in held {
        assert_eq!(changes(answer).await, 1);
    }
}
