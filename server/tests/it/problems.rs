//! Every error that a caller can meet, as a snapshot of what it is told.

use serde_json::Value;

use crate::rig::{Rig, Served};

async fn problem(server: &Served, path: &str) -> Value {
    let response = server.get(path).await;
    let status = response.status().as_u16();
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json",
        "{path}"
    );
    assert!(response.headers().contains_key("highwater-source"), "{path}");
    assert!(response.headers().contains_key("x-request-id"), "{path}");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!(problem["status"], status, "{path}");
    problem
}

#[tokio::test]
async fn each_fault_of_a_request_is_named() {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    let mut problems = serde_json::Map::new();
    for path in [
        "/changes?since=nonsense",
        "/changes?since=",
        "/changes?since=2026-13-01T00:00:00Z",
        "/changes?limit=0",
        "/changes?limit=-1",
        "/changes?limit=ten",
        "/changes?wait=61",
        "/changes?wait=soon",
        "/changes?entity=",
        "/changes?entity=product,",
        "/changes?entity=product%00",
        "/changes?entity=nosuch",
        "/nosuch",
    ] {
        problems.insert(path.to_owned(), problem(&rig.server, path).await);
    }
    insta::assert_json_snapshot!(problems);
}

#[tokio::test]
async fn a_cursor_of_another_source_needs_a_resync() {
    let rig = Rig::start("create table product (id int primary key)").await;
    let other = Rig::start("create table product (id int primary key)").await;
    let page = other.server.page("").await;
    let path = format!("/changes?since={}", page["next"].as_str().unwrap());
    insta::assert_json_snapshot!(problem(&rig.server, &path).await);
    assert_eq!(other.server.get(&path).await.status(), 200);
}

#[tokio::test]
async fn other_methods_and_forms_are_refused() {
    let rig = Rig::start("").await;
    let client = reqwest::Client::new();
    let response = client
        .post(format!("http://{}/changes", rig.server.address))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    let refused: Value = response.json().await.unwrap();
    let response = rig.server.get_as("/changes", "text/html").await;
    assert_eq!(response.status(), 406);
    let unacceptable: Value = response.json().await.unwrap();
    insta::assert_json_snapshot!([refused, unacceptable]);
}

/// Methods, targets and headers that a library would not send.
#[tokio::test]
async fn nothing_that_http_can_carry_is_a_fault_of_the_server() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    for (line, header, status) in [
        ("HEAD /changes", "", 200),
        ("TRACE /changes", "", 405),
        ("OPTIONS /changes", "", 405),
        ("CONNECT /changes", "", 405),
        ("get /changes", "", 405),
        ("PROPFIND /openapi.json", "", 405),
        ("OPTIONS *", "", 404),
        ("CONNECT elsewhere:80", "", 404),
        ("GET http://elsewhere/changes", "", 200),
        ("GET //changes", "", 404),
        ("GET /changes/", "", 404),
        ("GET /%00", "", 404),
        ("GET /changes?%00=%ff&&=", "", 200),
        ("GET /changes?since=%ff", "", 400),
        ("GET /changes?entity=%ff", "", 404),
        ("GET /changes", "accept: \u{fe}\u{ff}\r\n", 200),
        ("GET /changes", "accept: ,;q=,;;;\r\n", 200),
        ("GET /changes", "accept: */*;q=NaN\r\n", 406),
        ("GET /changes", "if-none-match: \"\u{ff}\r\n", 200),
        (
            "GET /changes",
            "authorization: \u{ff}\r\nauthorization: x\r\n",
            200,
        ),
        (
            "GET /changes",
            "x-request-id: \u{ff}\r\nrange: bytes=0-1\r\n",
            200,
        ),
        ("GET /changes", "accept-encoding: zstd;q=7, \u{ff}\r\n", 200),
        ("GET /changes", "upgrade: websocket\r\nexpect: nothing\r\n", 200),
    ] {
        let mut caller = tokio::net::TcpStream::connect(rig.server.address).await.unwrap();
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
        caller.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line} {header}: {answer}"
        );
        if status >= 400 {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains("content-type: application/problem+json"),
                "{line}: {head}"
            );
            let problem: Value = serde_json::from_str(body).unwrap();
            assert!(
                problem["code"].is_string() && problem["status"] == status,
                "{line}: {body}"
            );
        }
    }
}

#[tokio::test]
async fn a_postgres_that_went_away_is_unavailable_and_comes_back() {
    use highwater_server::admin;
    use highwater_testbed::{Cluster, Profile};
    use sqlx::{Connection as _, PgConnection};

    let mut cluster = Cluster::start(Profile::Fast).unwrap();
    admin::migrate(&mut PgConnection::connect(&cluster.url("postgres")).await.unwrap())
        .await
        .unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(std::time::Duration::from_secs(2))
        .connect(&cluster.url("postgres"))
        .await
        .unwrap();
    let server = Served::start(&pool).await;
    assert_eq!(server.get("/readyz").await.status(), 200);
    cluster.crash().unwrap();
    insta::assert_json_snapshot!(problem(&server, "/changes").await);
    assert_eq!(problem(&server, "/readyz").await["status"], 503);
    assert_eq!(server.get("/healthz").await.status(), 200);
    cluster.start_again().unwrap();
    assert_eq!(server.get("/readyz").await.status(), 200);
    assert_eq!(server.get("/changes").await.status(), 200);
}

/// What a cursor says of keys goes into a statement: nonsense there is the caller's fault.
#[tokio::test]
async fn a_forged_position_is_the_callers_fault() {
    use highwater_server::cursor::{After, Cursor};

    let rig = Rig::start(
        "create table product (id int primary key); insert into product select generate_series(1, 9)",
    )
    .await;
    rig.enable(&["product"]).await;
    let midway = async |query: &str| {
        let page = rig.server.page(query).await;
        Cursor::decode(page["next"].as_str().unwrap()).unwrap()
    };
    let among_rows = midway("limit=3").await;
    let whole = midway("").await.encode();
    rig.run("delete from product where id < 6").await;
    let among_deletions = midway(&format!("limit=3&since={whole}")).await;
    for key in [
        vec!["x".to_owned()],
        vec![],
        vec!["1".to_owned(), "2".to_owned()],
        vec!["1); drop table product; --".to_owned()],
        vec!["'\\".to_owned()],
    ] {
        for genuine in [&among_rows, &among_deletions] {
            let mut forged = genuine.clone();
            let position = &mut forged.pull.as_mut().unwrap().position;
            let order = position.after.as_ref().unwrap().order;
            let key = key.clone();
            position.after = Some(After { order, key });
            let problem = problem(&rig.server, &format!("/changes?since={}", forged.encode())).await;
            assert_eq!(problem["code"], "invalid_since", "{forged:?}: {problem}");
        }
    }
    // Nobody else is the worse for it.
    let page = rig.server.page(&format!("since={whole}")).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 5, "{page}");
}

/// Dates that RFC 3339 can write are served, however odd; others no cursor may hold.
#[tokio::test]
async fn no_date_is_a_fault_of_the_server() {
    use highwater_server::cursor::{Cursor, CursorError, Seen};
    use highwater_shared::Timestamp;

    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    for date in [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-23:59",
        "0000-01-01T00:00:00+23:59",
        "2026-12-31T23:59:60Z",
    ] {
        let response = rig.server.get(&format!("/changes?since={date}")).await;
        assert_eq!(response.status(), 200, "{date}");
        // Nor is what is said next.
        let page: Value = response.json().await.unwrap();
        for since in ["next", "lastSyncDate"] {
            let path = format!("/changes?since={}", page[since].as_str().unwrap());
            assert_eq!(rig.server.get(&path).await.status(), 200, "{date}: {path}");
        }
    }
    let page = rig.server.page("").await;
    let mut forged = Cursor::decode(page["next"].as_str().unwrap()).unwrap();
    for micros in [i64::MIN, i64::MAX, -62_167_219_200_000_001] {
        forged.seen = Seen::Date(Timestamp::from_micros(micros));
        assert_eq!(Cursor::decode(&forged.encode()), Err(CursorError::Damaged));
        let problem = problem(&rig.server, &format!("/changes?since={}", forged.encode())).await;
        assert_eq!(problem["code"], "invalid_since");
    }
}

#[tokio::test]
async fn more_ids_in_flight_than_a_cursor_can_hold_are_unavailable() {
    use highwater_server::admin;
    use highwater_testbed::{Cluster, Profile};
    use sqlx::{Connection as _, PgConnection};

    // Prepared transactions are in flight without holding a connection.
    let cluster = Cluster::start_with(Profile::Fast, &[("max_prepared_transactions", "4100")]).unwrap();
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    admin::migrate(&mut connection).await.unwrap();
    let pool = sqlx::PgPool::connect(&cluster.url("postgres")).await.unwrap();
    let server = Served::start(&pool).await;
    let mut statements = String::new();
    for n in 0..4_001 {
        statements.push_str(&format!(
            "begin; select pg_current_xact_id(); prepare transaction 'p{n}';"
        ));
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(&mut connection)
        .await
        .unwrap();
    // Ids at or above the snapshot's xmax are not listed; one that completes lifts it.
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut connection)
        .await
        .unwrap();
    let problem = problem(&server, "/changes").await;
    assert_eq!(problem["code"], "unavailable", "{problem}");
}
