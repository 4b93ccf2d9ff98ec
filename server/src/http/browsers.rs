//! What browsers are told: how little a response is good for in one, and which pages of other origins
//! may ask.

use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::map_response;
use axum::response::Response;
use highwater_shared::{CLIENT_HEADER, SOURCE_HEADER};
use tower_http::cors::CorsLayer;
use url::Url;

use super::REQUEST_ID;

/// How long a browser may remember what it was told about another origin.
const PREFLIGHT_AGE: Duration = Duration::from_hours(1);

/// Nothing else that is sent here is a page, may hold anything, or may be shown within another page.
const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// For a year browsers come by TLS only. It is for this host alone, whatever its subdomains do.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// An origin whose pages may ask: scheme, host and port, such as `https://app.example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Url = text
            .parse()
            .map_err(|_| "write an origin such as https://app.example.org".to_owned())?;
        let origin = url.origin().ascii_serialization();
        if !matches!(url.scheme(), "http" | "https") {
            return Err("an origin begins with https:// or http://".to_owned());
        }
        // Browsers send it in this form, and letter by letter is how it is compared.
        if origin != text {
            return Err(format!("write the origin as browsers do: {origin}"));
        }
        HeaderValue::from_str(text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

/// Adds what every response says to browsers, and answers the questions that they ask beforehand.
pub(super) fn told(app: Router, over_tls: bool, origins: &[Origin]) -> Router {
    let app = if origins.is_empty() {
        app
    } else {
        app.layer(cors(origins))
    };
    app.layer(map_response(move |response| {
        std::future::ready(secured(response, over_tls))
    }))
}

fn secured(mut response: Response, over_tls: bool) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The page at `/` has one of its own.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if over_tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, TLS_ONLY);
    }
    response
}

fn cors(origins: &[Origin]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins.iter().map(|origin| origin.0.clone()).collect::<Vec<_>>())
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            ACCEPT,
            AUTHORIZATION,
            CONTENT_TYPE,
            IF_NONE_MATCH,
            HeaderName::from_static(CLIENT_HEADER),
        ])
        .expose_headers([
            HeaderName::from_static(SOURCE_HEADER),
            ETAG,
            RETRY_AFTER,
            REQUEST_ID,
        ])
        .max_age(PREFLIGHT_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for good in [
            "https://app.example.org",
            "http://localhost:3000",
            "https://app.example.org:8443",
        ] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "app.example.org",
            "https://app.example.org/",
            "https://App.example.org",
            "https://app.example.org:443",
            "https://app.example.org/page",
            "file:///page.html",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
