//! A server that gives the answers that an earlier one gave.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use highwater_shared::SOURCE_HEADER;

use super::course::Answer;

/// A running server; it ends with the test's runtime.
pub(super) struct Replay {
    pub(super) url: String,
}

struct Recorded {
    own_id: String,
    answers: Vec<Answer>,
}

impl Replay {
    pub(super) async fn start(own_id: &str, answers: Vec<Answer>) -> Self {
        let recorded = Arc::new(Recorded {
            own_id: own_id.to_owned(),
            answers,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(recorded);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url }
    }
}

/// What was answered to the same path and cursor, in blocks where there are some.
async fn answer(
    State(recorded): State<Arc<Recorded>>,
    uri: Uri,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let since = asked.get("since");
    let found = recorded.answers.iter().find(|answer| {
        let then: Uri = answer.path.parse().unwrap();
        let Query(parameters) = Query::<HashMap<String, String>>::try_from_uri(&then).unwrap();
        answer.status == 200
            && then.path() == uri.path()
            && (answer.is_copy() || uri.path() != "/changes")
            && parameters.get("since") == since
    });
    let Some(found) = found else {
        return (StatusCode::NOT_FOUND, uri.to_string()).into_response();
    };
    let headers = [
        ("content-type", found.content_type.clone()),
        (SOURCE_HEADER, recorded.own_id.clone()),
    ];
    (headers, found.body.clone()).into_response()
}
