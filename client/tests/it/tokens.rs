//! Where a token goes, where it does not, and what happens when it is refused.

use std::fs;

use highwater_client::{Client, Error, Store, Token};

use crate::place::Place;
use crate::program::{err, highwater, out, text};
use crate::server::{Answer, Server};

fn refusal() -> Answer {
    Answer::problem(401, "unauthenticated", None)
}

/// What each request said of the caller; nothing, for one without a token.
fn sent(server: &Server) -> Vec<String> {
    let asked = server.asked();
    let said = asked.iter().map(|asked| asked.headers.get("authorization"));
    said.map(|token| token.map_or("", |token| token.to_str().expect("text")).to_owned())
        .collect()
}

#[tokio::test]
async fn a_new_token_in_the_file_takes_effect_when_the_old_one_is_refused() {
    let place = Place::new();
    let file = place.file("token");
    fs::write(&file, "first\n").expect("a file");
    let server = Server::start([
        Answer::first_page("c1", false, &["1 Chair"]),
        refusal(),
        Answer::page("c2", false, &["2 Table"]),
        Answer::page("c2", false, &[]),
    ])
    .await;
    let store = Store::open(place.store()).expect("a store");
    let client = Client::builder(&server.address).token(Token::File(file.clone()));
    let client = client.build(store).expect("a client");
    client.pull().await.expect("a pull");
    fs::write(&file, "second\n").expect("a file");
    let report = client.pull().await.expect("a pull with the new token");
    assert_eq!((report.rows, report.retries), (1, 0));
    client.pull().await.expect("a pull");
    let expected = ["Bearer first", "Bearer first", "Bearer second", "Bearer second"];
    assert_eq!(sent(&server), expected);
}

#[tokio::test]
async fn a_token_that_stays_refused_is_sent_no_more_than_once_and_the_error_says_what_to_do() {
    let place = Place::new();
    let file = place.file("token");
    fs::write(&file, "from-file\n").expect("a file");
    let server = Server::start([refusal(), refusal(), refusal()]).await;
    let arguments = [
        "pull",
        "--store",
        text(&place.store()),
        "--server",
        &server.address,
    ]
    .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut with_file = highwater(&arguments);
    with_file.args(["--token-file", text(&file)]);
    let mut with_variable = highwater(&arguments);
    with_variable.env("HIGHWATER_TOKEN", "from-variable");
    for (mut pull, words) in [
        (with_file, text(&file)),
        (with_variable, "a new one is needed"),
        (highwater(&arguments), "--token-file"),
    ] {
        let output = pull.output().await.expect("highwater");
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the detail") && said.contains(words), "{said}");
        assert!(!(said + &out(&output)).contains("from-"), "{words}");
    }
    assert_eq!(sent(&server), ["Bearer from-file", "Bearer from-variable", ""]);
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_named_before_anything_is_sent() {
    let place = Place::new();
    let server = Server::start([]).await;
    let file = place.file("token");
    for (content, words) in [
        (None, "No such file"),
        (Some(""), "empty"),
        (Some("se\ncret"), "line break"),
    ] {
        if let Some(content) = content {
            fs::write(&file, content).expect("a file");
        }
        let mut pull = highwater(&[
            "pull",
            "--store",
            text(&place.store()),
            "--server",
            &server.address,
        ]);
        let output = pull
            .args(["--token-file", text(&file)])
            .output()
            .await
            .expect("highwater");
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !said.contains("cret"), "{said}");
    }
    assert!(server.asked().is_empty());
    assert!(!place.store().exists());
}

#[tokio::test]
async fn a_token_does_not_travel_over_plain_http_unless_told_so() {
    let place = Place::new();
    // A proxy, which gets whatever is sent to another machine by plain HTTP.
    let proxy = Server::start([Answer::first_page("c1", false, &["1 Chair"])]).await;
    let store = place.store();
    let arguments = [
        "pull",
        "--store",
        text(&store),
        "--server",
        "http://sync.example.org",
    ];
    let pull = |more: &[&str]| {
        let mut pull = highwater(&arguments);
        pull.args(more).env("HIGHWATER_TOKEN", "secret");
        pull.env("http_proxy", &proxy.address)
            .env_remove("no_proxy")
            .env_remove("NO_PROXY");
        pull
    };
    let refused = pull(&[]).output().await.expect("highwater");
    let said = err(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("https://") && said.contains("--token-over-http"),
        "{said}"
    );
    assert!(proxy.asked().is_empty() && !store.exists());
    let pulled = pull(&["--token-over-http"]).output().await.expect("highwater");
    assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
    assert_eq!(sent(&proxy), ["Bearer secret"]);
}

/// To this machine plain HTTP is safe, but not by way of another.
#[tokio::test]
async fn what_goes_to_this_machine_goes_through_no_proxy() {
    let place = Place::new();
    let server = Server::start([Answer::first_page("c1", false, &["1 Chair"])]).await;
    let proxy = Server::start([]).await;
    let mut pull = highwater(&[
        "pull",
        "--store",
        text(&place.store()),
        "--server",
        &server.address,
    ]);
    pull.env("HIGHWATER_TOKEN", "secret")
        .env("http_proxy", &proxy.address);
    pull.env("all_proxy", &proxy.address)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY");
    let pulled = pull.output().await.expect("highwater");
    assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
    assert!(proxy.asked().is_empty());
    assert_eq!(sent(&server), ["Bearer secret"]);
}

#[tokio::test]
async fn a_token_follows_redirects_within_the_origin_and_no_others() {
    let elsewhere = Server::start([Answer::first_page("c1", false, &["1 Trap"])]).await;
    let within = Answer::new(307, "text/plain", "").header("location", "/sync/changes");
    let away = Answer::new(307, "text/plain", "").header("location", elsewhere.address.clone());
    let server = Server::start([
        within,
        Answer::first_page("c1", false, &["1 Chair"]),
        // Another port of the same host.
        away,
    ])
    .await;
    let place = Place::new();
    let client = Client::builder(&server.address).token("secret");
    let client = client.open(place.store()).expect("a client");
    client.pull().await.expect("a pull");
    let error = client.pull().await.expect_err("a redirect");
    assert!(matches!(error, Error::Redirected { .. }), "{error}");
    assert_eq!(sent(&server), ["Bearer secret", "Bearer secret", "Bearer secret"]);
    assert!(elsewhere.asked().is_empty());
    assert_eq!(place.query("store.db", "select name from product"), ["Chair"]);
}

#[tokio::test]
async fn redirects_in_circles_are_given_up() {
    let circle = || Answer::new(307, "text/plain", "").header("location", "/changes");
    let server = Server::start((0..50).map(|_| circle())).await;
    let place = Place::new();
    let client = Client::builder(&server.address)
        .open(place.store())
        .expect("a client");
    let error = client.pull().await.expect_err("a circle");
    assert!(error.to_string().contains("in circles"), "{error}");
    assert!(server.asked().len() < 10, "{}", server.asked().len());
}

/// Whoever hands out seeds need not know the token, not even on the server's own host.
#[tokio::test]
async fn a_token_does_not_go_where_seeds_come_from() {
    let server = Server::start([
        Answer::new(404, "text/html", "no seed"),
        Answer::first_page("c1", false, &["1 Chair"]),
    ])
    .await;
    let place = Place::new();
    let seed = format!("{}/shop.seed", server.address);
    let mut pull = highwater(&[
        "pull",
        "--store",
        text(&place.store()),
        "--server",
        &server.address,
    ]);
    pull.args(["--seed", &seed]).env("HIGHWATER_TOKEN", "secret");
    let pulled = pull.output().await.expect("highwater");
    assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
    assert_eq!(sent(&server), ["", "Bearer secret"]);
}
