//! Addresses, pages without an end, what `Retry-After` says, and where a token may go.

use super::*;

#[test]
fn a_path_before_the_routes_is_kept() {
    for base in ["https://example.org/sync", "https://example.org/sync/"] {
        let remote = HttpRemote::new(base, &Access::default(), None).expect("a remote");
        assert_eq!(remote.url("changes").as_str(), "https://example.org/sync/changes");
    }
}

/// Rows that are all in order, and never end.
#[tokio::test]
async fn a_page_without_an_end_is_given_up() {
    let row = || Ok::<_, std::io::Error>(Bytes::from_static(b"1\tChair\n"));
    let rows = move || async move { axum::body::Body::from_stream(futures_util::stream::repeat_with(row)) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let app = axum::Router::new().fallback(rows);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let remote = HttpRemote::new(&address, &Access::default(), None).expect("a remote");
    let response = remote.get(remote.url("changes"), COPY_MEDIA_TYPE).await;
    let mut body = HttpBody {
        response: response.expect("an answer"),
        server: address,
        bytes_left: 1_000_000,
    };
    let mut taken = 0;
    let error = loop {
        match body.chunk().await {
            Ok(chunk) => taken += chunk.expect("no end").len(),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Malformed(_)) && taken <= 1_000_000,
        "{taken}: {error}"
    );
}

#[test]
fn retry_after_is_read_as_seconds_and_as_a_date() {
    let header = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().expect("a header"));
        retry_after(&headers)
    };
    assert_eq!(header("7"), Some(Duration::from_secs(7)));
    let later = chrono::Utc::now() + chrono::TimeDelta::seconds(60);
    let wait = header(&later.to_rfc2822().replace("+0000", "GMT")).expect("a date");
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_mins(1));
    assert_eq!(header("soon"), None);
}

#[test]
fn a_token_goes_nowhere_that_others_can_read_it_unless_told_so() {
    let mut access = Access {
        token: Some("secret".into()),
        ..Access::default()
    };
    for (server, expected) in [
        ("http://sync.example.org", false),
        ("http://10.0.0.1:8080", false),
        ("https://sync.example.org", true),
        ("http://127.0.0.1:8080", true),
        ("http://localhost:8080", true),
    ] {
        access.token_over_http = false;
        let remote = HttpRemote::new(server, &access, None);
        assert_eq!(remote.is_ok(), expected, "{server}");
        if let Err(error) = remote {
            let error = error.to_string();
            assert!(
                error.contains("--token-over-http") && !error.contains("secret"),
                "{error}"
            );
        }
        access.token_over_http = true;
        assert!(HttpRemote::new(server, &access, None).is_ok(), "{server}");
    }
}
