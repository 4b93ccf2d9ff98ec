//! The example page, in a browser: it shows what the source holds, and draws it anew when that changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::{get, post};
use highwater_server::ServeOptions;
use highwater_testbed::{Chromium, Fault, Proxy};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::rig::{Rig, run};

const PAGE: &str = include_str!("../../../examples/browser/index.html");
const CLIENT: &str = include_str!("../../../examples/browser/client.js");

/// Tells the test what the page shows, whenever that changes.
const PROBE: &str = "<script>
    const tell = () => fetch('/seen', { method: 'POST', body: document.body.innerText });
    new MutationObserver(tell).observe(document, { childList: true, subtree: true, characterData: true });
</script>";

/// More rows than the page asks for at a time.
const TABLE: &str = "
    create table product (id bigint primary key, name text, price numeric(10, 2));
    insert into product select g, 'p' || g, g from generate_series(1, 12000) g";

type Seen = Arc<watch::Sender<String>>;

/// Serves the example with the probe in it, and returns its origin.
async fn serve(seen: Seen) -> String {
    let page = PAGE.replace(
        "<script type=\"module\">",
        &format!("{PROBE}<script type=\"module\">"),
    );
    let router = Router::new()
        .route("/", get(|| async { Html(page) }))
        .route(
            "/client.js",
            get(|| async { ([(CONTENT_TYPE, "text/javascript")], CLIENT) }),
        )
        .route(
            "/seen",
            post(|State(seen): State<Seen>, text: String| async move { drop(seen.send_replace(text)) }),
        )
        .with_state(seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    origin
}

async fn shows(seen: &Seen, expected: &str) {
    let mut changes = seen.subscribe();
    let shown = changes.wait_for(|text| text.contains(expected));
    let shown = tokio::time::timeout(Duration::from_mins(1), shown).await.is_ok();
    let text: String = seen.borrow().chars().take(500).collect();
    assert!(shown, "{expected:?} is not shown, but {text:?}");
}

#[test]
fn the_client_fits_on_a_few_screens() {
    let files = [Path::new("client.js"), Path::new("index.html")];
    for (file, text) in files.iter().zip([CLIENT, PAGE]) {
        assert!(text.lines().count() < 100, "{}", file.display());
        assert!(text.lines().all(|line| line.chars().count() <= 118));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_browser_follows_the_source() {
    let rig = Rig::start(TABLE, &["product"]).await;
    let seen = Seen::default();
    let origin = serve(Arc::clone(&seen)).await;
    let options = ServeOptions {
        cors_origins: vec![origin.parse().unwrap()],
        ..ServeOptions::default()
    };
    let proxy = Proxy::before(rig.serve_with(options).await).await.unwrap();
    let url = format!("{origin}/?server={}&entity=product", proxy.url());
    let Some(mut browser) = Chromium::open(&url).unwrap() else {
        eprintln!("left out: there is no Chromium, and none can be fetched");
        return;
    };
    shows(&seen, "product: 12000 rows").await;
    run(
        &rig.pool,
        "delete from product where id > 3; update product set deleted = true where id = 2;
         insert into product values (9007199254740993, 'exact', 0.10)",
    )
    .await;
    shows(&seen, "product: 3 rows").await;
    assert!(
        seen.borrow().contains("9007199254740993\texact\t0.10"),
        "{}",
        *seen.borrow()
    );
    // Cut in the middle of the next page, and for some time.
    proxy.set(Fault::Cut(60_000));
    run(
        &rig.pool,
        "insert into product select g, 'p' || g, g from generate_series(10, 8009) g",
    )
    .await;
    tokio::time::timeout(Duration::from_mins(1), async {
        let before = proxy.passed();
        while proxy.passed() < before + 60_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    proxy.set(Fault::None);
    shows(&seen, "product: 8003 rows").await;
    run(
        &rig.pool,
        "truncate product; insert into product values (1, 'anew', null)",
    )
    .await;
    shows(&seen, "product: 1 rows").await;
    assert!(seen.borrow().contains("1\tanew"), "{}", *seen.borrow());
    assert!(browser.is_running().unwrap());
}
