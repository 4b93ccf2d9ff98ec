//! Servers on a primary and on its standby: cursors hold on either, and a standby that lags delays,
//! and loses nothing.

use std::time::Duration;

use highwater_testbed::{Cluster, Profile, caught_up, seed, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use crate::digests::asked;
use crate::rig::{Copy, Pull as _, Served, cluster, pool, run, source};
use crate::why::path;

/// A primary and its standby, with a server on each.
struct Pair {
    primary: Node,
    standby: Node,
    clusters: [Cluster; 2],
}

struct Node {
    pool: PgPool,
    server: Served,
}

impl Node {
    async fn on(cluster: &Cluster) -> Self {
        let pool = pool(&cluster.url("postgres")).await;
        let server = Served::start(&pool).await;
        Self { pool, server }
    }
}

impl Pair {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (primary, primary_pool) = cluster(settings).await;
        let standby = primary.start_standby(Profile::Fast, &[]).unwrap();
        let server = Served::start(&primary_pool).await;
        Self {
            primary: Node {
                pool: primary_pool,
                server,
            },
            standby: Node::on(&standby).await,
            clusters: [primary, standby],
        }
    }

    /// Lets the standby replay all that the primary has written.
    async fn caught_up(&self) {
        caught_up(&self.primary.pool, &self.standby.pool).await;
    }

    /// A session on the primary.
    async fn session(&self) -> PgConnection {
        PgConnection::connect(&self.clusters[0].url("postgres"))
            .await
            .unwrap()
    }
}

/// Has a standby stand still where it is, or go on.
async fn replay(standby: &Node, verb: &str) {
    run(&standby.pool, &format!("select pg_wal_replay_{verb}()")).await;
    let state = match verb {
        "pause" => "paused",
        _ => "not paused",
    };
    until(
        &standby.pool,
        &format!("select pg_get_wal_replay_pause_state() = '{state}'"),
    )
    .await;
}

fn names(page: &Value) -> Vec<&str> {
    let changes = page["changes"].as_array().unwrap();
    changes
        .iter()
        .filter_map(|change| change["row"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn cursors_hold_on_a_standby_and_on_its_primary() {
    let pair = Pair::start(&[]).await;
    let mut copy = Copy::default();
    for (round, server) in [&pair.standby.server, &pair.primary.server]
        .iter()
        .cycle()
        .take(8)
        .enumerate()
    {
        copy.pull(server, 7).await;
        assert_eq!(
            copy.rows("product"),
            source(&pair.primary.pool, "product", "id").await
        );
        run(
            &pair.primary.pool,
            &format!(
                "update product set name = 'r{round}' where id = {}; delete from product where id = {}",
                round + 1,
                20 - round
            ),
        )
        .await;
        pair.caught_up().await;
    }
    assert_eq!(copy.resets, 1, "only the first pull begins anew");
    let page = pair.standby.server.page("").await;
    assert_eq!(
        page["lastSyncDate"], "1970-01-01T00:00:00Z",
        "no date is safe on a standby"
    );
}

#[tokio::test]
async fn a_standby_that_lags_delays_and_gives_the_cursor_back() {
    let pair = Pair::start(&[]).await;
    pair.caught_up().await;
    let mut earlier = Copy::default();
    earlier.pull(&pair.primary.server, 0).await;
    let earlier = earlier.since.unwrap();
    replay(&pair.standby, "pause").await;
    run(
        &pair.primary.pool,
        "update product set name = 'new' where id in (3, 6)",
    )
    .await;
    let mut copy = Copy::default();
    copy.pull(&pair.primary.server, 0).await;
    let since = copy.since.clone().unwrap();
    let page = pair.standby.server.page(&format!("since={since}")).await;
    assert_eq!(
        (&page["next"], &page["more"]),
        (&since.clone().into(), &false.into())
    );
    assert!(names(&page).is_empty());
    assert_eq!(page["lastSyncDate"], copy.last_sync_date);
    assert_eq!(page["entities"], json!(["product"]));

    // An earlier cursor it has, but not what the rows go by that are held besides.
    let joining = format!("/changes?since={earlier}&held={since}");
    assert_eq!(pair.standby.server.get(&joining).await.status(), 503);
    let alone = format!("/changes?since={earlier}");
    assert_eq!(pair.standby.server.get(&alone).await.status(), 200);
    let joined: Value = pair.primary.server.get(&joining).await.json().await.unwrap();
    assert_eq!(names(&joined), ["new", "new"]);

    // Nor can it say why, of what it has not heard.
    let why = path(Some(&since), "product", "3");
    assert_eq!(pair.standby.server.get(&why).await.status(), 503);
    let never = path(None, "product", "99");
    let told: Value = pair.standby.server.get(&never).await.json().await.unwrap();
    let words = told["what"].as_str().unwrap();
    assert!(
        words.contains("a standby") && told.get("writing").is_none(),
        "{told}"
    );

    // In the middle of a pull there is nothing that could be given back, whether it is the first or not.
    let mut midway = Copy::default();
    assert!(midway.pull_page(&pair.primary.server, 5).await);
    let later = pair
        .primary
        .server
        .page(&format!("since={earlier}&limit=1"))
        .await;
    assert_eq!(later["more"], true);
    for since in [midway.since.as_deref().unwrap(), later["next"].as_str().unwrap()] {
        let response = pair.standby.server.get(&format!("/changes?since={since}")).await;
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
    }

    // Who waits is answered when the standby has caught up, with what came after.
    let query = format!("since={}&wait=30", copy.since.clone().unwrap());
    let (page, ()) = tokio::join!(pair.standby.server.page(&query), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        run(
            &pair.primary.pool,
            "update product set name = 'newer' where id = 4",
        )
        .await;
        replay(&pair.standby, "resume").await;
    });
    assert_eq!(names(&page), ["newer"]);
    pair.caught_up().await;
    midway.pull(&pair.standby.server, 5).await;
    assert_eq!(
        midway.rows("product"),
        source(&pair.primary.pool, "product", "id").await
    );
}

/// With a writer that uses savepoints: a standby cannot tell its subtransactions from others.
#[tokio::test]
async fn a_late_commit_arrives_from_a_standby() {
    let pair = Pair::start(&[]).await;
    let mut writer = pair.session().await;
    let begun = "begin; update product set name = 'late' where id = 1; savepoint a;
        update product set name = 'later' where id = 2; savepoint b; update product set name = 'latest' where id = 3";
    sqlx::raw_sql(begun).execute(&mut writer).await.unwrap();
    run(
        &pair.primary.pool,
        "update product set name = 'early' where id = 4",
    )
    .await;
    pair.caught_up().await;
    let mut copies = [Copy::default(), Copy::default()];
    for (copy, node) in copies.iter_mut().zip([&pair.primary, &pair.standby]) {
        copy.pull(&node.server, 3).await;
        copy.recount();
    }
    // Nothing of the log has come since: the standby stands exactly where the cursor does.
    for copy in &mut copies {
        copy.pull(&pair.standby.server, 3).await;
    }
    run(
        &pair.primary.pool,
        "update product set name = 'after' where id = 5",
    )
    .await;
    pair.caught_up().await;
    for copy in &mut copies {
        copy.pull(&pair.standby.server, 3).await;
        assert_eq!(copy.upserts, 1);
    }
    sqlx::raw_sql("commit").execute(&mut writer).await.unwrap();
    pair.caught_up().await;
    for copy in &mut copies {
        copy.pull(&pair.standby.server, 3).await;
        assert_eq!(
            copy.rows("product"),
            source(&pair.primary.pool, "product", "id").await
        );
    }
}

/// A commit that waits for synchronous replication is shown by the standby, and not yet by the
/// primary.
#[tokio::test]
async fn a_primary_that_is_behind_its_standby_delays() {
    let pair = Pair::start(&[]).await;
    pair.caught_up().await;
    let mut copy = Copy::default();
    copy.pull(&pair.standby.server, 0).await;
    let before = copy.since.clone().unwrap();
    // Two standbys are wanted, and there is one.
    let wanted = "alter system set synchronous_standby_names = 'FIRST 2 (*)'";
    run(&pair.primary.pool, wanted).await;
    run(&pair.primary.pool, "select pg_reload_conf()").await;
    until(
        &pair.primary.pool,
        "select current_setting('synchronous_standby_names') <> ''",
    )
    .await;
    let mut writer = pair.session().await;
    let waiting = tokio::spawn(async move {
        let commit = "update product set name = 'waits' where id = 1";
        sqlx::raw_sql(commit).execute(&mut writer).await.unwrap();
    });
    until(
        &pair.standby.pool,
        "select name = 'waits' from product where id = 1",
    )
    .await;
    let shown: String = sqlx::query_scalar("select name from product where id = 1")
        .fetch_one(&pair.primary.pool)
        .await
        .unwrap();
    assert_eq!(shown, "p1", "the primary still waits");

    copy.pull(&pair.standby.server, 0).await;
    let since = copy.since.clone().unwrap();
    let page = pair.primary.server.page(&format!("since={since}")).await;
    assert_eq!(page["next"], since);
    let mut midway = Copy::default();
    assert!(midway.pull_page(&pair.standby.server, 5).await);
    let midway_since = midway.since.clone().unwrap();
    let response = pair
        .primary
        .server
        .get(&format!("/changes?since={midway_since}"))
        .await;
    assert_eq!(response.status(), 503);
    let question = |since: &str| json!({"since": since, "entities": [{"entity": "product", "want": "keys"}]});
    let (_, promised) = asked(&pair.standby.server, &question(&before)).await;
    let question = question(&promised.next).to_string();
    let compared = pair.primary.server.post("/digests", question, None).await;
    assert_eq!(compared.status(), 503, "what was promised is not there yet");

    run(&pair.primary.pool, "alter system reset synchronous_standby_names").await;
    run(&pair.primary.pool, "select pg_reload_conf()").await;
    waiting.await.unwrap();
    run(
        &pair.primary.pool,
        "update product set name = 'after' where id = 2",
    )
    .await;
    let page = pair.primary.server.page(&format!("since={since}")).await;
    assert_eq!(names(&page), ["after"]);
    midway.pull(&pair.primary.server, 5).await;
    assert_eq!(
        midway.rows("product"),
        source(&pair.primary.pool, "product", "id").await
    );
}

/// Writers as in the oracle, in small: long and short transactions, savepoints, rollbacks.
async fn write(mut session: PgConnection, mut random: StdRng, rounds: usize) {
    for round in 0..rounds {
        let mut statements = vec!["begin".to_owned()];
        for _ in 0..random.random_range(1..4) {
            let id = random.random_range(1..200);
            let statement = match random.random_range(0..5) {
                0 => format!("delete from product where id = {id}"),
                1 => format!(
                    "insert into product values ({id}, 'i{round}') on conflict (id) do update set deleted = false, name = 'again'"
                ),
                2 => format!("update product set deleted = not deleted where id = {id}"),
                _ => format!("update product set name = 'u{round}' where id = {id}"),
            };
            statements.push(match random.random_range(0..4) {
                0 => format!("savepoint s; {statement}; rollback to s"),
                1 => format!("savepoint s; {statement}"),
                _ => statement,
            });
            if random.random_bool(0.3) {
                statements.push(format!("select pg_sleep({})", random.random_range(0.0..0.1)));
            }
        }
        statements.push(
            if random.random_bool(0.1) {
                "rollback"
            } else {
                "commit"
            }
            .to_owned(),
        );
        for statement in statements {
            let ran = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .execute(&mut session)
                .await;
            if ran.is_err() {
                sqlx::raw_sql("rollback").execute(&mut session).await.unwrap();
                break;
            }
        }
    }
}

/// By cursors and by dates, from page to page on another node, while the standby lags by turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_moves_between_nodes_loses_nothing() {
    let seed = seed();
    eprintln!("HIGHWATER_SEED={seed}");
    let pair = Pair::start(&[]).await;
    run(
        &pair.standby.pool,
        "alter system set recovery_min_apply_delay = '60ms'",
    )
    .await;
    run(&pair.standby.pool, "select pg_reload_conf()").await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut writers = Vec::new();
    for _ in 0..8 {
        let random = StdRng::seed_from_u64(random.random());
        writers.push(tokio::spawn(write(pair.session().await, random, 60)));
    }
    let mut copies: Vec<Copy> = vec![Copy::default(); 6];
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        for (number, copy) in copies.iter_mut().enumerate() {
            let node = if random.random() {
                &pair.primary
            } else {
                &pair.standby
            };
            let since = copy
                .since
                .clone()
                .map_or(String::new(), |since| format!("since={since}&"));
            let limit = random.random_range(1..60);
            let response = node.server.get(&format!("/changes?{since}limit={limit}")).await;
            if response.status() == 503 {
                continue;
            }
            assert_eq!(response.status(), 200, "seed {seed}");
            let page: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let more = copy.apply(&page);
            // Some go by dates alone, once they have one.
            if !more && number % 3 == 0 && !copy.last_sync_date.starts_with("1970") {
                copy.since = Some(copy.last_sync_date.clone());
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    pair.caught_up().await;
    let expected = source(&pair.primary.pool, "product", "id").await;
    for (number, mut copy) in copies.into_iter().enumerate() {
        copy.pull(
            if number % 2 == 0 {
                &pair.primary.server
            } else {
                &pair.standby.server
            },
            0,
        )
        .await;
        let rows = copy.rows("product");
        let wrong = expected
            .iter()
            .filter(|(key, row)| rows.get(*key) != Some(row))
            .count();
        assert_eq!(
            (wrong, rows.len()),
            (0, expected.len()),
            "copy {number}, seed {seed}"
        );
    }
}

#[tokio::test]
async fn a_standby_has_a_page_too_and_says_what_it_is() {
    let pair = Pair::start(&[]).await;
    pair.caught_up().await;
    let server = &pair.standby.server;
    let status = server
        .until_status(|status| status["source"]["looked"].is_string())
        .await;
    assert_eq!(status["source"]["isStandby"], true);
    assert_eq!(status["source"]["oldestWriter"], Value::Null);
    assert_eq!(status["entities"][0]["name"], "product");
    assert_eq!(status["entities"][0]["changesPerSecond"], Value::Null);
    assert!(status["entities"][0]["tableBytes"].is_u64(), "{status}");
    assert_eq!(server.get("/").await.status(), 200);
}
