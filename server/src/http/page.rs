//! The page for people at `/`: three files that are part of the program. All that it shows it asks `/status` for.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};

const DOCUMENT: &str = include_str!("../../page/index.html");
const SCRIPT: &str = include_str!("../../page/page.js");
const STYLE: &str = include_str!("../../page/page.css");

/// It may hold what this server sends beside it, and nothing from elsewhere; nothing within it is a script or a style.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// `GET /`
pub(super) async fn document() -> Response {
    let mut response = file("text/html; charset=utf-8", DOCUMENT);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// `GET /page.js`
pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

/// `GET /page.css`
pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is loaded with every look at a server stays small.
    const BYTES_MAX: usize = 30 * 1024;

    #[test]
    fn the_page_is_small_and_whole() {
        assert!(DOCUMENT.len() + SCRIPT.len() + STYLE.len() <= BYTES_MAX);
        for elsewhere in ["http://", "https://", "//cdn", "@import"] {
            let script = SCRIPT.replace("http://www.w3.org/2000/svg", "");
            for text in [
                DOCUMENT.replace("http://www.w3.org/2000/svg", ""),
                script,
                STYLE.to_owned(),
            ] {
                assert!(!text.contains(elsewhere), "{elsewhere}");
            }
        }
        // The policy would forbid them, and text must stay text.
        for risky in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(risky), "{risky}");
        }
        for within in ["<style", "style=", "onclick", "onload"] {
            assert!(!DOCUMENT.contains(within), "{within}");
        }
    }
}
