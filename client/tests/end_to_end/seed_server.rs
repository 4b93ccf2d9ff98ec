//! A web server that hands out one file, with or without ranges, and breaks off when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use futures_util::{StreamExt as _, stream};

/// Sent at a time, and counted when it is asked for.
const PIECE_BYTES: usize = 64 * 1024;

/// A running server; it ends with the test's runtime.
pub(crate) struct SeedServer {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    file: Bytes,
    ranges: bool,
    sent: AtomicU64,
    /// Bytes after which the next long response breaks off; 0 for never.
    cut_at: AtomicU64,
}

impl SeedServer {
    pub(crate) async fn start(file: Vec<u8>, ranges: bool) -> Self {
        let shared = Arc::new(Shared {
            file: file.into(),
            ranges,
            sent: AtomicU64::new(0),
            cut_at: AtomicU64::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/shop.seed", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/shop.seed", get(answer))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Has the next response that is longer than this break off after so many bytes.
    pub(crate) fn cut_next_at(&self, bytes: u64) {
        self.shared.cut_at.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of all bodies so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    assert!(!headers.contains_key("authorization"), "no token goes here");
    let length = shared.file.len();
    let range = headers
        .get("range")
        .filter(|_| shared.ranges)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let mut response = Response::builder();
    let body = if let Some((from, to)) = range {
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(length, |to: usize| (to + 1).min(length));
        if from >= length {
            return Response::builder()
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .body(Body::empty())
                .unwrap();
        }
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {from}-{}/{length}", to - 1));
        shared.file.slice(from..to)
    } else {
        shared.file.clone()
    };
    let cut_at = shared.cut_at.load(Ordering::Relaxed);
    let body = if cut_at > 0 && body.len() as u64 > cut_at {
        shared.cut_at.store(0, Ordering::Relaxed);
        let start = body.slice(..usize::try_from(cut_at).unwrap());
        shared.sent.fetch_add(cut_at, Ordering::Relaxed);
        // What was sent must be on its way before the connection ends.
        let broken = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(std::io::Error::other("cut"))
        };
        Body::from_stream(stream::once(async { Ok(start) }).chain(stream::once(broken)))
    } else {
        response = response.header("content-length", body.len());
        let pieces = (0..body.len()).step_by(PIECE_BYTES).map(move |start| {
            let piece = body.slice(start..body.len().min(start + PIECE_BYTES));
            shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok::<_, std::io::Error>(piece)
        });
        Body::from_stream(stream::iter(pieces))
    };
    response.body(body).unwrap()
}
