//! What browsers are told.

use highwater_server::ServeOptions;

use crate::rig::{Rig, Served};

const ORIGIN: &str = "https://app.example.org";

async fn served(origins: &[&str]) -> (Rig, Served) {
    let rig = Rig::start("create table product (id int primary key)").await;
    rig.enable(&["product"]).await;
    let options = ServeOptions {
        cors_origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(),
        ..ServeOptions::default()
    };
    let server = Served::start_with(&rig.pool, options).await;
    (rig, server)
}

async fn send(server: &Served, method: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let url = format!("http://{}{path}", server.address);
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_response_says_how_little_it_is_good_for() {
    let (_rig, server) = served(&[]).await;
    for (method, path) in [
        ("GET", "/changes"),
        ("GET", "/entities"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("GET", "/changes?limit=none"),
        ("POST", "/changes"),
    ] {
        let response = send(&server, method, path, &[]).await;
        let headers = response.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(
            headers["content-security-policy"],
            "default-src 'none'; frame-ancestors 'none'"
        );
        // Whoever comes over plain HTTP must not be told to come by TLS.
        assert!(!headers.contains_key("strict-transport-security"), "{path}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_ask_where_they_are_named() {
    let (_rig, server) = served(&[ORIGIN, "http://localhost:3000"]).await;
    let preflight = [
        ("origin", ORIGIN),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "authorization"),
    ];
    let response = send(&server, "OPTIONS", "/changes", &preflight).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], ORIGIN);
    assert_eq!(headers["access-control-allow-methods"], "GET,POST");
    let allowed = headers["access-control-allow-headers"].to_str().unwrap();
    assert!(
        ["authorization", "accept", "content-type"]
            .iter()
            .all(|name| allowed.contains(name)),
        "{allowed}"
    );

    // Errors as well, or a page could not tell them from a network that is down.
    for path in ["/changes", "/changes?limit=none"] {
        let response = send(&server, "GET", path, &[("origin", "http://localhost:3000")]).await;
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], "http://localhost:3000");
        let exposed = headers["access-control-expose-headers"].to_str().unwrap();
        for name in ["highwater-source", "etag", "retry-after", "x-request-id"] {
            assert!(exposed.contains(name), "{exposed}");
        }
        let vary: Vec<&str> = headers
            .get_all("vary")
            .iter()
            .map(|vary| vary.to_str().unwrap())
            .collect();
        assert!(vary.join(",").to_lowercase().contains("origin"), "{vary:?}");
    }

    for origin in ["https://elsewhere.example.org", "null"] {
        let response = send(&server, "GET", "/changes", &[("origin", origin)]).await;
        assert!(
            !response.headers().contains_key("access-control-allow-origin"),
            "{origin}"
        );
        let preflight = [("origin", origin), ("access-control-request-method", "GET")];
        let response = send(&server, "OPTIONS", "/changes", &preflight).await;
        assert!(
            !response.headers().contains_key("access-control-allow-origin"),
            "{origin}"
        );
    }
}

#[tokio::test]
async fn without_origins_no_page_elsewhere_may_ask() {
    let (_rig, server) = served(&[]).await;
    let preflight = [("origin", ORIGIN), ("access-control-request-method", "GET")];
    assert_eq!(
        send(&server, "OPTIONS", "/changes", &preflight).await.status(),
        405
    );
    let response = send(&server, "GET", "/changes", &[("origin", ORIGIN)]).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}
