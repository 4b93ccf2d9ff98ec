//! A server for tests: answers each request with the next of a list of answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};

/// A column list with a key, a text and a date.
pub(crate) const COLUMNS: &str = r#"[{"name":"id","type":"bigint","role":"key"},{"name":"name","type":"text"},{"name":"changed_date","type":"timestamp with time zone","role":"changed_date"}]"#;

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    /// Bytes of the body after which the connection breaks off.
    pub(crate) cut_at: Option<usize>,
    /// How long to wait before the answer.
    pub(crate) delay: Duration,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![
                ("content-type", content_type.to_owned()),
                ("highwater-source", "source-1".to_owned()),
            ],
            body: body.into(),
            cut_at: None,
            delay: Duration::ZERO,
        }
    }

    /// A page of products, `id name` each, that begins the entity anew.
    pub(crate) fn first_page(next: &str, more: bool, rows: &[&str]) -> Self {
        let reset = format!(
            "{{\"version\":1,\"entity\":\"product\",\"kind\":\"reset\",\"columns\":{COLUMNS},\"fingerprint\":\"f\"}}\n\\.\n"
        );
        let mut page = Self::page(next, more, rows);
        page.body.insert_str(0, &reset);
        page
    }

    /// A page of changed products.
    pub(crate) fn page(next: &str, more: bool, rows: &[&str]) -> Self {
        let mut body = String::new();
        if !rows.is_empty() {
            body = format!(
                "{{\"version\":1,\"entity\":\"product\",\"kind\":\"upsert\",\"columns\":{COLUMNS},\"fingerprint\":\"f\"}}\n"
            );
            for row in rows {
                body += &row.replacen(' ', "\t", 1);
                body += "\t2026-11-22 10:00:00+00\n";
            }
            body += "\\.\n";
        }
        let trailer = format!(
            "{{\"next\":\"{next}\",\"more\":{more},\"lastSyncDate\":\"2026-11-22T10:00:00Z\",\"rows\":{},\"entities\":[\"product\"]}}\n",
            rows.len()
        );
        body += &trailer;
        Self::new(200, "application/vnd.highwater.copy", body)
    }

    pub(crate) fn problem(status: u16, code: &str, reason: Option<&str>) -> Self {
        let reason = reason.map_or(String::new(), |reason| format!(",\"reason\":\"{reason}\""));
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"t\",\"status\":{status},\"code\":\"{code}\",\"detail\":\"the detail\"{reason}}}"
        );
        Self::new(status, "application/problem+json", body)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn cut_at(mut self, bytes: usize) -> Self {
        self.cut_at = Some(bytes);
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone)]
struct Shared {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A server that gives these answers, one a request, and 404 when there are no more.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let shared = Shared {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&shared.asked);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(answer).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("asked").clone()
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    // A server that knows no digests: whoever asks begins anew.
    if request.method() == Method::POST {
        return response(Answer::problem(404, "not_found", None));
    }
    shared.asked.lock().expect("asked").push(Asked {
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    });
    let next = shared.answers.lock().expect("answers").pop_front();
    let answer = next.unwrap_or_else(|| Answer::new(404, "text/html", "<html>nothing here</html>"));
    tokio::time::sleep(answer.delay).await;
    response(answer)
}

fn response(answer: Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let bytes = Bytes::from(answer.body);
    let body = match answer.cut_at {
        None => Body::from(bytes),
        Some(at) => {
            let start = bytes.slice(..at.min(bytes.len()));
            let broken = std::io::Error::other("cut");
            Body::from_stream(futures_util::stream::iter([Ok(start), Err(broken)]))
        }
    };
    response.body(body).expect("a response")
}
