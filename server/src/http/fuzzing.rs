//! What the parameters of a request may become, whatever is sent.

use highwater_shared::{Device, EntityName, Timestamp};
use url::form_urlencoded::Serializer;

use super::callers::Door;
use super::query::{self, Parameters, WAIT_SECONDS_MAX};
use super::{accept, callers};
use crate::cursor::CURSOR_CHARS_MAX;
use crate::page::Since;

/// As a server with other options has it.
const PAGE_ROWS_MAX: u64 = 1_000;

/// Takes the text as the value of `since`.
pub(crate) fn since(text: &str) {
    query(&Serializer::new(String::new()).append_pair("since", text).finish());
}

/// Takes the text as a query string.
pub(crate) fn query(text: &str) {
    if let Ok(parameters) = query::parse(Some(text), PAGE_ROWS_MAX) {
        is_bounded(&parameters);
    }
}

/// Takes the bytes as the value of a header, of each that is read here.
pub(crate) fn header(bytes: &[u8]) {
    let Ok(value) = axum::http::HeaderValue::from_bytes(bytes) else {
        return;
    };
    let headers = axum::http::HeaderMap::from_iter([
        (axum::http::header::ACCEPT, value.clone()),
        (axum::http::header::AUTHORIZATION, value),
    ]);
    let _ = accept::format(&headers);
    if let Ok(credential) = callers::credential(&headers, Door::Callers) {
        let credential = credential.expect("there is a header");
        assert_eq!(credential, credential.trim());
    }
    let _ = callers::credential(&headers, Door::Operators);
    let device = Device::parse(bytes).map(|device| device.header());
    assert!(device.is_none_or(|header| Device::parse(header.as_bytes()).is_some()));
}

fn is_bounded(parameters: &Parameters) {
    assert!((1..=PAGE_ROWS_MAX).contains(&parameters.limit));
    assert!(parameters.wait.as_secs() <= WAIT_SECONDS_MAX);
    for name in parameters.entities.iter().flatten().map(EntityName::as_str) {
        assert!(!name.is_empty() && !name.contains(char::is_control) && !name.contains(','));
    }
    assert!(parameters.entities.as_ref().is_none_or(|names| !names.is_empty()));
    match &parameters.since {
        Since::Nothing => {}
        Since::Date(date) => {
            assert!(*date > Timestamp::EPOCH);
            assert_eq!(Timestamp::checked_from_micros(date.micros()), Some(*date));
            assert_eq!(date.to_string().parse(), Ok(*date));
        }
        Since::Cursor(cursor) => assert!(cursor.encode().len() <= CURSOR_CHARS_MAX),
    }
}
