//! Answers that break off, mislead, refuse or redirect.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use highwater_client::{Client, EntityName, Error, Event, Pace, Store, status};
use rusqlite::Connection;

use crate::server::{Answer, Server};

struct Fixture {
    folder: tempfile::TempDir,
    server: Server,
}

impl Fixture {
    async fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            server: Server::start(answers).await,
        }
    }

    fn client(&self) -> Client {
        let store = Store::open(self.folder.path().join("store.db")).expect("a store");
        Client::builder(&self.server.address)
            .build(store)
            .expect("a client")
    }

    fn names(&self) -> Vec<String> {
        let reader = Connection::open(self.folder.path().join("store.db")).expect("a reader");
        let mut names = reader
            .prepare("select name from product order by id")
            .expect("a table");
        let names = names.query_map([], |row| row.get(0)).expect("rows");
        names.map(|name| name.expect("a name")).collect()
    }
}

#[tokio::test]
async fn a_cut_response_is_asked_for_again() {
    let page = Answer::first_page("c1", false, &["1 Chair", "2 Table"]);
    let whole = page.body.len();
    // Cut in the middle, cut just before its end, without its last line.
    let mut without_trailer = page.clone();
    without_trailer.body.truncate(whole - 120);
    let fixture = Fixture::new([
        page.clone().cut_at(whole / 2),
        page.clone().cut_at(whole - 1),
        without_trailer,
        page,
    ])
    .await;
    let report = fixture.client().pull().await.expect("a pull");
    assert_eq!((report.retries, report.rows), (3, 2));
    assert_eq!(fixture.names(), ["Chair", "Table"]);
}

#[tokio::test]
async fn a_body_cut_after_its_trailer_is_not_kept() {
    let page = Answer::first_page("c1", false, &["1 Chair"]);
    let length = page.body.len();
    let fixture = Fixture::new([page.clone().cut_at(length), page]).await;
    let report = fixture.client().pull().await.expect("a pull");
    assert_eq!(report.retries, 1);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let busy = Answer::problem(503, "unavailable", None).header("retry-after", "1");
    let fixture = Fixture::new([busy, Answer::first_page("c1", false, &["1 Chair"])]).await;
    let begun = Instant::now();
    let report = fixture.client().pull().await.expect("a pull");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(report.retries, 1);
}

#[tokio::test]
async fn a_refusal_ends_the_pull_at_once_with_the_servers_words() {
    let refusals = [
        (401, "unauthenticated"),
        (403, "forbidden_entity"),
        (404, "unknown_entity"),
        (400, "invalid_since"),
    ];
    for (status, code) in refusals {
        let fixture = Fixture::new([Answer::problem(status, code, None)]).await;
        let error = fixture.client().pull().await.expect_err("a refusal");
        let text = error.to_string();
        assert!(text.contains("the detail") && text.contains(code), "{text}");
        assert!(!error.is_retryable());
        assert_eq!(fixture.server.asked().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_code_of_a_later_server_is_a_refusal_like_others() {
    let fixture = Fixture::new([Answer::problem(409, "too_early", None)]).await;
    let error = fixture.client().pull().await.expect_err("a refusal");
    assert!(
        matches!(
            error,
            Error::Refused {
                status: 409,
                code: None,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("the detail"), "{error}");
}

#[tokio::test]
async fn what_is_not_a_highwater_server_is_named() {
    let answers = [
        Answer::new(200, "text/html", "<html>hello</html>"),
        Answer::new(404, "text/html", "<html>nothing</html>"),
        Answer::page("c1", false, &[]).without("highwater-source"),
    ];
    for answer in answers {
        let fixture = Fixture::new([answer]).await;
        let client = fixture.client();
        let error = client.pull().await.expect_err("no server");
        assert!(matches!(error, Error::NotHighwater { .. }), "{error}");
        assert!(error.to_string().contains(&fixture.server.address), "{error}");
        assert!(client.store().is_new().expect("a look"));
    }
}

#[tokio::test]
async fn a_cursor_that_is_gone_is_followed_by_a_pull_without_one() {
    let fixture = Fixture::new([
        Answer::first_page("c1", false, &["1 Chair", "2 Table"]),
        Answer::problem(410, "resync_required", Some("source_changed")),
        Answer::first_page("c2", false, &["2 Table", "3 Lamp"]),
    ])
    .await;
    let client = fixture.client();
    client.pull().await.expect("a first pull");
    client.pull().await.expect("a second pull");
    let queries: Vec<String> = fixture
        .server
        .asked()
        .into_iter()
        .map(|asked| asked.query)
        .collect();
    assert_eq!(queries, ["", "since=c1&purged=keys&rescoped=rows", ""]);
    assert_eq!(fixture.names(), ["Table", "Lamp"]);
}

#[tokio::test]
async fn a_server_that_says_gone_to_everything_is_given_up() {
    let gone = || Answer::problem(410, "resync_required", Some("source_changed"));
    let fixture = Fixture::new([gone(), gone(), gone()]).await;
    let error = fixture.client().pull().await.expect_err("gone");
    assert!(matches!(error, Error::Resync { .. }), "{error}");
    assert_eq!(fixture.server.asked().len(), 1);
}

#[tokio::test]
async fn another_database_is_refused_even_when_it_says_gone() {
    let fixture = Fixture::new([
        Answer::first_page("c1", false, &["1 Chair"]),
        Answer::problem(410, "resync_required", Some("source_changed"))
            .header("highwater-source", "source-2"),
    ])
    .await;
    let client = fixture.client();
    client.pull().await.expect("a first pull");
    let error = client.pull().await.expect_err("another database");
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    assert_eq!(fixture.names(), ["Chair"]);
}

#[tokio::test]
async fn redirects_to_other_hosts_are_not_followed() {
    let elsewhere = Server::start([Answer::first_page("c1", false, &["1 Trap"])]).await;
    let target = elsewhere.address.replace("127.0.0.1", "localhost");
    let fixture = Fixture::new([Answer::new(307, "text/plain", "").header("location", target)]).await;
    let store = Store::open(fixture.folder.path().join("store.db")).expect("a store");
    let client = Client::builder(&fixture.server.address)
        .token("secret")
        .build(store)
        .expect("a client");
    let error = client.pull().await.expect_err("a redirect");
    assert!(matches!(error, Error::Redirected { .. }), "{error}");
    assert!(elsewhere.asked().is_empty());
    let sent = fixture.server.asked();
    assert_eq!(sent[0].headers["authorization"], "Bearer secret");
}

#[tokio::test]
async fn redirects_within_the_host_are_followed() {
    let fixture = Fixture::new([
        Answer::new(307, "text/plain", "").header("location", "/sync/changes"),
        Answer::first_page("c1", false, &["1 Chair"]),
    ])
    .await;
    fixture.client().pull().await.expect("a pull");
    assert_eq!(fixture.server.asked()[1].path, "/sync/changes");
}

#[tokio::test]
async fn nothing_new_is_one_request() {
    let fixture = Fixture::new([
        Answer::first_page("c1", false, &["1 Chair"]),
        Answer::page("c1", false, &[]),
    ])
    .await;
    let client = fixture.client();
    client.pull().await.expect("a first pull");
    let report = client.pull().await.expect("a second pull");
    assert_eq!((report.rows, report.pages), (0, 1));
    assert_eq!(fixture.server.asked().len(), 2);
    let asked = &fixture.server.asked()[1];
    assert_eq!(
        (asked.path.as_str(), asked.query.as_str()),
        ("/changes", "since=c1&purged=keys&rescoped=rows")
    );
    assert_eq!(asked.headers["accept"], "application/vnd.highwater.copy");
}

#[tokio::test]
async fn subscribers_learn_what_was_applied() {
    let fixture = Fixture::new([
        Answer::first_page("mid", true, &["1 Chair"]),
        Answer::page("c1", false, &["2 Table"]),
    ])
    .await;
    let client = fixture.client();
    let mut applied = client.subscribe();
    client.pull().await.expect("a pull");
    let first = applied.try_recv().expect("a page");
    assert!(first.more);
    assert_eq!(first.entities[0].entity, EntityName::new("product"));
    let second = applied.try_recv().expect("a page");
    assert_eq!(
        (second.more, second.cursor.as_str(), second.entities[0].upserts),
        (false, "c1", 1)
    );
}

#[tokio::test]
async fn following_goes_on_until_it_is_stopped_and_leaves_the_store_whole() {
    let fixture = Fixture::new([
        Answer::first_page("c1", false, &["1 Chair"]),
        Answer::page("c2", false, &["2 Table"]),
        // The answer that it is stopped in.
        Answer::page("c3", false, &["3 Lamp"]).after(Duration::from_mins(1)),
    ])
    .await;
    let store = Store::open(fixture.folder.path().join("store.db")).expect("a store");
    let client = Client::builder(&fixture.server.address)
        .build(store)
        .expect("a client");
    let stop = tokio_util::sync::CancellationToken::new();
    let mut applied = client.subscribe();
    let following = {
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move { client.follow(Pace::Every(Duration::from_millis(1)), &stop).await })
    };
    applied.recv().await.expect("a page");
    applied.recv().await.expect("a page");
    while fixture.server.asked().len() < 3 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    following.await.expect("a task").expect("stopped");
    assert_eq!(fixture.names(), ["Chair", "Table"]);
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_the_store_whole() {
    let page = Answer::first_page("c1", false, &["1 Chair"]);
    let fixture = Fixture::new([page.clone().after(Duration::from_mins(1)), page]).await;
    let client = fixture.client();
    let dropped = tokio::time::timeout(Duration::from_millis(50), client.pull()).await;
    assert!(dropped.is_err());
    client.pull().await.expect("a pull");
    let stands = status(fixture.folder.path().join("store.db")).expect("a status");
    assert_eq!(stands.entities[0].rows, 1);
}

#[tokio::test]
async fn watchers_are_told_of_attempts_that_fail() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let fixture = Fixture::new([
        Answer::new(502, "text/html", "bad gateway"),
        Answer::first_page("c1", false, &["1 Chair"]),
    ])
    .await;
    let store = Store::open(fixture.folder.path().join("store.db")).expect("a store");
    let client = Client::builder(&fixture.server.address)
        .observer({
            let told = Arc::clone(&told);
            move |event: Event<'_>| {
                if let Event::Retrying { error, .. } = event {
                    told.lock().expect("told").push(error.to_string());
                }
            }
        })
        .build(store)
        .expect("a client");
    client.pull().await.expect("a pull");
    let told = told.lock().expect("told");
    assert!(told.len() == 1 && told[0].contains("502"), "{told:?}");
}

/// A server that is too busy says so to all at once, and must not have them all back at once.
#[tokio::test]
async fn a_fleet_that_is_refused_returns_spread_over_time() {
    const CLIENTS: usize = 20;
    let busy = Answer::problem(503, "unavailable", None).header("retry-after", "7");
    let fixture = Fixture::new(vec![busy; CLIENTS]).await;
    let delays = Arc::new(Mutex::new(Vec::new()));
    for n in 0..CLIENTS {
        let store = Store::open(fixture.folder.path().join(format!("{n}.db"))).expect("a store");
        // Nobody sits the delay out.
        let stop = tokio_util::sync::CancellationToken::new();
        let (told, ended) = (Arc::clone(&delays), stop.clone());
        let client = Client::builder(&fixture.server.address).observer(move |event: Event<'_>| {
            if let Event::Retrying { delay, .. } = event {
                told.lock().expect("delays").push(delay);
                ended.cancel();
            }
        });
        let pulled = client.build(store).expect("a client").pull_until(&stop).await;
        assert!(matches!(pulled, Err(Error::Stopped)));
    }
    let mut delays = delays.lock().expect("delays").clone();
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > CLIENTS / 2, "{delays:?}");
    let asked = Duration::from_secs(7);
    assert!(delays.iter().all(|delay| *delay > asked), "{delays:?}");
}
