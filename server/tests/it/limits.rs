//! Callers that say too much, or nothing, or stand still: each is ended in time, and nobody else is
//! kept waiting.

use std::fmt::Write as _;
use std::time::Duration;

use highwater_server::ServeOptions;
use highwater_server::limit::PageBounds;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Served};

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Short, and long enough for a request on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

const SMALL: &str = "create table product (id int primary key, name text)";

/// More than fits between a server and a reader that stands still.
const LARGE: &str = "create table product (id int primary key, name text);
    insert into product select g, repeat('x', 10000) from generate_series(1, 3000) g";

async fn served(table: &str, options: ServeOptions) -> (Rig, Served) {
    let rig = Rig::start(table).await;
    rig.enable(&["product"]).await;
    let server = Served::start_with(&rig.pool, options).await;
    (rig, server)
}

/// What comes until the server ends the connection, which it must.
async fn until_ended(caller: &mut TcpStream) -> String {
    let mut found = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, caller.read_to_end(&mut found)).await;
    // A reset is an end as well.
    let _ = ended.expect("the server ends the connection");
    String::from_utf8_lossy(&found).into_owned()
}

/// A caller that speaks HTTP/2 without TLS.
fn http2() -> reqwest::Client {
    let caller = reqwest::Client::builder().http2_prior_knowledge().no_zstd();
    caller.build().unwrap()
}

#[tokio::test]
async fn heads_that_come_slowly_are_ended_while_others_are_served() {
    let options = ServeOptions {
        header_time_max: SHORT,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(SMALL, options).await;
    // Nothing, half a head, and half of what HTTP/2 begins with.
    for begin in [
        "",
        "GET /healthz HTTP/1.1\r\nhost: x\r\nslow: ",
        "PRI * HTTP/2.0\r\n",
    ] {
        let caller = TcpStream::connect(server.address).await.unwrap();
        let (mut reader, mut writer) = caller.into_split();
        writer.write_all(begin.as_bytes()).await.unwrap();
        // A byte now and then must not win it time; with HTTP/2, silence.
        let is_slow = begin.starts_with("GET");
        let writing = tokio::spawn(async move {
            while is_slow && writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
            std::future::pending::<()>().await;
        });
        assert_eq!(server.get("/healthz").await.status(), 200);
        let mut found = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut found)).await;
        let _ = ended.unwrap_or_else(|_| panic!("{begin:?} is ended"));
        assert_eq!(found, b"", "{begin:?}");
        writing.abort();
    }
    server.until_reached("header_time_max", 3).await;
}

#[tokio::test]
async fn connections_on_which_nothing_is_asked_are_ended() {
    let options = ServeOptions {
        idle_time_max: SHORT,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(SMALL, options).await;
    for after in ["", "GET /healthz HTTP/1.1\r\n"] {
        let mut caller = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n{after}");
        caller.write_all(request.as_bytes()).await.unwrap();
        let found = until_ended(&mut caller).await;
        assert_eq!(found.matches("200 OK").count(), 1, "{after:?}: {found}");
    }
    // What HTTP/2 begins with, and settings that are empty: no request comes, and none is due yet.
    let mut caller = TcpStream::connect(server.address).await.unwrap();
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    caller.write_all(begin).await.unwrap();
    // `GET /healthz`, as HPACK writes it: three of its fields are in the table, the path is not.
    let mut head = vec![0x82, 0x86, 0x04, 8];
    head.extend(b"/healthz");
    head.extend([0x41, 1, b'x']);
    let mut frame = vec![0, 0, u8::try_from(head.len()).unwrap(), 1, 5, 0, 0, 0, 1];
    frame.extend(head);
    caller.write_all(&frame).await.unwrap();
    assert!(until_ended(&mut caller).await.contains("ok\n"));
}

#[tokio::test]
async fn a_cursor_of_64_kib_fits_and_larger_heads_are_refused() {
    let (_rig, server) = served(SMALL, ServeOptions::default()).await;
    let long = format!("/changes?since={}", "A".repeat(65_000));
    let response = server.get(&long).await;
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "invalid_since");
    let url = format!("http://{}{long}", server.address);
    let response = http2().get(url).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "invalid_since");
    // No more than that is an address to the libraries on either side.
    let mut caller = TcpStream::connect(server.address).await.unwrap();
    let longer = format!(
        "GET /changes?since={} HTTP/1.1\r\nhost: x\r\n\r\n",
        "A".repeat(66_000)
    );
    caller.write_all(longer.as_bytes()).await.unwrap();
    assert!(until_ended(&mut caller).await.starts_with("HTTP/1.1 414"));

    let url = format!("http://{}/healthz", server.address);
    for caller in [reqwest::Client::new(), http2()] {
        let ask = |bytes| caller.get(&url).header("x-long", "x".repeat(bytes)).send();
        assert_eq!(ask(80_000).await.unwrap().status(), 200);
        for bytes in [100_000, 200_000] {
            // Where the connection ends before all of it was sent, that is what the caller sees.
            let refused = ask(bytes).await;
            assert!(refused.is_err() || refused.is_ok_and(|response| response.status() == 431));
        }
    }
}

#[tokio::test]
async fn the_limit_of_a_head_can_be_chosen() {
    let options = ServeOptions {
        header_bytes_max: 8_192,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(SMALL, options).await;
    let long = format!("/changes?since={}", "A".repeat(20_000));
    assert_eq!(server.get(&long).await.status(), 431);
    let url = format!("http://{}{long}", server.address);
    assert_eq!(http2().get(url).send().await.unwrap().status(), 431);
    // Many small headers are no better than a large one.
    let mut request = "GET /healthz HTTP/1.1\r\nhost: x\r\n".to_owned();
    for n in 0..5_000 {
        write!(request, "x-{n}: y\r\n").unwrap();
    }
    let mut caller = TcpStream::connect(server.address).await.unwrap();
    caller.write_all(request.as_bytes()).await.unwrap();
    assert!(until_ended(&mut caller).await.starts_with("HTTP/1.1 431"));
}

/// No request has a body that anyone reads.
#[tokio::test]
async fn bodies_are_not_read_however_long_they_are() {
    const SENT_MAX: usize = 64 * 1024 * 1024;
    let (_rig, server) = served(SMALL, ServeOptions::default()).await;
    let chunk = "x".repeat(65_536);
    for (header, piece, status) in [
        ("content-length: 10000000000", chunk.clone(), "413"),
        (
            "transfer-encoding: chunked",
            format!("10000\r\n{chunk}\r\n"),
            "200",
        ),
    ] {
        let caller = TcpStream::connect(server.address).await.unwrap();
        let (mut reader, mut writer) = caller.into_split();
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        reader.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
        let mut sent = 0;
        while sent < SENT_MAX {
            let written = tokio::time::timeout(PATIENCE, writer.write_all(piece.as_bytes()));
            match written.await {
                Ok(Ok(())) => sent += piece.len(),
                // The connection is gone, or nobody takes what is sent.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        assert!(sent < SENT_MAX, "{header}: {sent} bytes were taken");
    }
}

/// What a problem says that refuses a request for its size.
async fn problem(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(response.headers().contains_key("x-request-id"));
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_request_that_says_too_much_is_told_what_was_too_large() {
    let options = ServeOptions {
        url_bytes_max: 2_000,
        header_bytes_max: 10_000,
        body_bytes_max: 100,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(SMALL, options).await;
    let url = |bytes: usize| format!("http://{}/healthz?{}", server.address, "x".repeat(bytes));
    for caller in [reqwest::Client::new(), http2()] {
        let ask = async |request: reqwest::RequestBuilder| request.send().await.unwrap();
        assert_eq!(ask(caller.get(url(1_900))).await.status(), 200);
        let long = ask(caller.get(url(2_000))).await;
        assert_eq!(problem(long).await, (414, "url_too_long".to_owned()));
        let with_header = |bytes| caller.get(url(0)).header("x-long", "x".repeat(bytes));
        assert_eq!(ask(with_header(9_000)).await.status(), 200);
        let large = ask(with_header(10_000)).await;
        assert_eq!(problem(large).await, (431, "head_too_large".to_owned()));
        let with_body = |bytes| caller.get(url(0)).body("x".repeat(bytes));
        assert_eq!(ask(with_body(100)).await.status(), 200);
        let large = ask(with_body(101)).await;
        assert_eq!(problem(large).await, (413, "body_too_large".to_owned()));
    }
    for limit in ["url_bytes_max", "header_bytes_max", "body_bytes_max"] {
        server.until_reached(limit, 2).await;
    }
}

#[tokio::test]
async fn no_more_connections_are_taken_than_may_be_open() {
    let options = ServeOptions {
        connections_max: 2,
        ..ServeOptions::default()
    };
    let (_rig, server) = served(SMALL, options).await;
    let ask = async || {
        let mut caller = TcpStream::connect(server.address).await.unwrap();
        caller
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        caller
    };
    let answered = async |caller: &mut TcpStream, wait| {
        let mut begin = [0; 12];
        let read = tokio::time::timeout(wait, caller.read_exact(&mut begin)).await;
        read.is_ok_and(|read| read.is_ok() && &begin == b"HTTP/1.1 200")
    };
    let (mut first, mut second) = (ask().await, ask().await);
    assert!(answered(&mut first, PATIENCE).await && answered(&mut second, PATIENCE).await);
    let mut third = ask().await;
    // Long enough to be answered; where it is not, the test is only weaker.
    assert!(!answered(&mut third, Duration::from_millis(300)).await);
    drop(first);
    assert!(answered(&mut third, PATIENCE).await);
    drop((second, third));
    server.until_reached("connections_max", 1).await;
}

/// As `overload` has it of HTTP/1.1, where the system notices that nothing is taken.
#[tokio::test]
async fn with_http2_too_a_caller_that_never_reads_holds_nothing_for_ever() {
    let options = ServeOptions {
        requests_max: 1,
        page: PageBounds {
            send_wait_max: SHORT,
            ..PageBounds::default()
        },
        ..ServeOptions::default()
    };
    let (_rig, server) = served(LARGE, options).await;
    let url = format!("http://{}/changes?limit=3000", server.address);
    let mut response = http2().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        server.get("/changes?limit=1").await.status(),
        503,
        "its turn is taken"
    );
    let freed = async {
        while server.get("/changes?limit=1").await.status() != 200 {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed)
        .await
        .expect("its turn is free");
    server.until_reached("send_wait_max", 1).await;
    // What it finds when it reads at last does not pass for a page.
    let rest = async {
        loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    assert!(!tokio::time::timeout(PATIENCE, rest).await.expect("an end"));
}
