//! What a cache may do with each response, and what is not sent again.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Copy, Pull as _, Rig};

const TABLE: &str = "create table product (id int primary key, name text);
    insert into product select g, 'p' || g from generate_series(1, 20) g";

/// A page that proxies may hand to others for a moment, and no caller's own cache.
const CURRENT: &str = "public, max-age=0, s-maxage=1";

async fn rig() -> (Rig, String) {
    let rig = Rig::start(TABLE).await;
    rig.enable(&["product"]).await;
    let mut copy = Copy::default();
    copy.pull(&rig.server, 0).await;
    let since = copy.since.clone().unwrap();
    (rig, since)
}

/// GETs a page with further headers.
async fn get(rig: &Rig, query: &str, headers: &[(&'static str, &str)]) -> Response {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    let url = format!("http://{}/changes?{query}", rig.server.address);
    let client = reqwest::Client::builder().no_zstd().build().unwrap();
    client.get(url).headers(headers).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name).map(HeaderValue::to_str);
    value.transpose().unwrap().unwrap_or_default()
}

#[tokio::test]
async fn a_page_says_how_long_others_may_be_given_it() {
    let (rig, since) = rig().await;
    let first = get(&rig, "", &[]).await;
    assert_eq!(header(&first, "cache-control"), CURRENT, "a first pull");
    let by_date = get(&rig, "since=2020-01-01T00:00:00Z", &[]).await;
    assert_eq!(header(&by_date, "cache-control"), CURRENT, "by date");
    let nothing = get(&rig, &format!("since={since}"), &[]).await;
    assert_eq!(header(&nothing, "cache-control"), CURRENT, "nothing new");
    rig.run("update product set name = 'x' where id <= 3").await;
    for query in [format!("since={since}"), format!("since={since}&wait=30")] {
        let changes = get(&rig, &query, &[]).await;
        assert_eq!(header(&changes, "cache-control"), CURRENT, "changes, {query}");
    }
    // The first page decides where the pull leads to; those after it are the same at any time.
    let page = rig.server.page(&format!("since={since}&limit=1")).await;
    assert_eq!(page["more"], true);
    let midway = format!("since={}&limit=1", page["next"].as_str().unwrap());
    let midway = get(&rig, &midway, &[]).await;
    assert_eq!(header(&midway, "cache-control"), "public, max-age=60");
}

/// The next request of a caller that waits may be the same. It has to be held again, not answered
/// by a cache at once, and the one after it too.
#[tokio::test]
async fn a_wait_that_brought_nothing_is_not_handed_out_again() {
    let (rig, since) = rig().await;
    let held = get(&rig, &format!("since={since}&wait=1"), &[]).await;
    assert_eq!(held.status(), StatusCode::OK);
    assert_eq!(header(&held, "cache-control"), "no-cache");
    assert!(header(&held, "etag").starts_with("W/\""));
}

#[tokio::test]
async fn a_page_differs_by_form_and_coding_and_says_so_once() {
    let (rig, since) = rig().await;
    for query in [String::new(), format!("since={since}")] {
        for coding in ["identity", "zstd"] {
            let page = get(&rig, &query, &[("accept-encoding", coding)]).await;
            let vary: Vec<_> = page.headers().get_all("vary").iter().collect();
            assert_eq!(vary, ["accept, accept-encoding"], "{query} {coding}");
        }
    }
}

#[tokio::test]
async fn errors_and_signs_of_life_are_not_kept() {
    let (rig, _) = rig().await;
    for path in [
        "/changes?since=nonsense",
        "/changes?entity=nosuch",
        "/nosuch",
        "/entities",
        "/healthz",
        "/readyz",
    ] {
        let response = rig.server.get(path).await;
        assert_eq!(header(&response, "cache-control"), "no-store", "{path}");
    }
}

/// Where the server asks nobody who they are, a proxy may have asked.
#[tokio::test]
async fn what_a_named_caller_gets_is_for_nobody_else() {
    let (rig, since) = rig().await;
    let named = [("authorization", "Bearer token")];
    for query in [
        String::new(),
        format!("since={since}"),
        format!("since={since}&wait=1"),
    ] {
        let page = get(&rig, &query, &named).await;
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(header(&page, "cache-control"), "no-store, private", "{query}");
    }
}

/// HTTP/1.0 has no chunks: where the connection ends, the body does, cut off or not.
#[tokio::test]
async fn a_page_whose_cut_nobody_would_see_is_not_kept() {
    let (rig, since) = rig().await;
    for query in ["", &format!("?since={since}")] {
        let mut caller = TcpStream::connect(rig.server.address).await.unwrap();
        let request = format!("GET /changes{query} HTTP/1.0\r\nhost: x\r\n\r\n");
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        caller.read_to_string(&mut response).await.unwrap();
        assert!(response.contains(" 200 OK\r\n"), "{response}");
        assert!(response.contains("cache-control: no-store\r\n"), "{response}");
    }
}

#[tokio::test]
async fn who_has_a_page_is_told_so() {
    let (rig, since) = rig().await;
    let copy = ("accept", "application/vnd.highwater.copy");
    let query = format!("since={since}");
    let nothing = get(&rig, &query, &[copy]).await;
    let tag = header(&nothing, "etag").to_owned();
    let body = nothing.bytes().await.unwrap();
    assert!(tag.starts_with("W/\""), "{tag}");
    for known in [
        tag.clone(),
        format!("\"other\", {tag}"),
        tag.replace("W/", ""),
        "*".to_owned(),
    ] {
        let same = get(&rig, &query, &[copy, ("if-none-match", &known)]).await;
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(header(&same, "etag"), tag);
        assert_eq!(header(&same, "cache-control"), CURRENT);
        assert_eq!(header(&same, "vary"), "accept, accept-encoding");
        assert!(!header(&same, "highwater-source").is_empty());
        assert!(same.bytes().await.unwrap().is_empty());
    }
    let as_json = get(&rig, &query, &[("if-none-match", &tag)]).await;
    assert_eq!(as_json.status(), StatusCode::OK, "another form is another page");

    // What has changed since is sent; and it has a name of its own.
    rig.run("update product set name = 'new' where id = 7").await;
    let changes = get(&rig, &query, &[copy, ("if-none-match", &tag)]).await;
    assert_eq!(changes.status(), StatusCode::OK);
    let named = header(&changes, "etag").to_owned();
    assert!(!named.is_empty() && named != tag, "{named}");
    assert_ne!(changes.bytes().await.unwrap(), body);
    let same = get(&rig, &query, &[copy, ("if-none-match", &named)]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);

    // A larger page is read while it is sent, and has none: what it will be nobody knows yet.
    rig.run("insert into product select g, repeat('x', 100) from generate_series(1000, 3000) g")
        .await;
    let first = get(&rig, "", &[("if-none-match", &named)]).await;
    assert_eq!((first.status(), header(&first, "etag")), (StatusCode::OK, ""));
}
