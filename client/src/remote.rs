//! Talks HTTP to the server. Everything that comes from there is bounded and mistrusted.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use highwater_shared::{COPY_MEDIA_TYPE, Code, EntityList, Problem, SOURCE_HEADER};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, redirect};
use url::{Host, Url};

use crate::error::Error;
use crate::plan::Ask;
use crate::pull::{Answer, Outcome, PageBody, Remote};
use crate::sync_helper::SourceId;

/// How long to wait for a connection.
const CONNECT_SECONDS_MAX: u64 = 10;

/// How long the server may be silent, before its answer or within it. Longer than a long poll.
const SILENCE_SECONDS_MAX: u64 = 90;

/// The largest page that is taken.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// The largest problem that is read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// The largest list of entities that is read.
const ENTITIES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Redirects within the server's own host that are followed.
const REDIRECTS_MAX: usize = 5;

/// A server, as the pull sees it.
#[derive(Debug)]
pub(crate) struct HttpRemote {
    http: reqwest::Client,
    server: Url,
    limit: Option<u64>,
}

impl HttpRemote {
    pub(crate) fn new(server: &str, token: Option<&str>, limit: Option<u64>) -> Result<Self, Error> {
        let server = address(server)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .read_timeout(Duration::from_secs(SILENCE_SECONDS_MAX))
            .redirect(redirects())
            // Pages shrink to a fifth, for less time than most networks need for the rest.
            // Within one machine the bytes cost nothing.
            .zstd(!is_this_machine(&server));
        if server.scheme() == "http" {
            // Reading the system's certificates takes longer than a pull with nothing new.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build().map_err(|error| Error::Http(Box::new(error)))?,
            server,
            limit,
        })
    }

    /// What the server has for this caller.
    pub(crate) async fn entities(&self) -> Result<EntityList, Error> {
        let mut response = self.get(self.url("entities"), "application/json").await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let body = self.read(&mut response, ENTITIES_BYTES_MAX).await?;
        serde_json::from_slice(&body)
            .map_err(|error| self.not_highwater(format!("its list of entities cannot be read ({error})")))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(path);
        }
        url
    }

    async fn get(&self, url: Url, accept: &'static str) -> Result<Response, Error> {
        self.http
            .get(url)
            .header(ACCEPT, accept)
            .send()
            .await
            .map_err(|error| self.unreachable(error))
    }

    /// The error that a response without success stands for.
    async fn refused(&self, mut response: Response) -> Error {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = match self.read(&mut response, PROBLEM_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) if error.is_retryable() => return error,
            Err(_) => Vec::new(),
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.code == Code::ResyncRequired => Error::Resync(problem.reason),
            Ok(problem) => Error::Refused {
                status: status.as_u16(),
                code: Some(problem.code),
                detail: problem.detail,
                retry_after,
            },
            // A proxy in front of the server that cannot reach it, most likely.
            Err(_) if status.is_server_error() || status.as_u16() == 429 => Error::Refused {
                status: status.as_u16(),
                code: None,
                detail: "whatever stands before the server gave no reason".to_owned(),
                retry_after,
            },
            Err(_) => self.not_highwater(format!("status {status}, {}", media_type(response.headers()))),
        }
    }

    /// The whole body, which must be small.
    async fn read(&self, response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.cut(error))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(self.not_highwater(format!("more than {bytes_max} bytes where few were due")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn server_name(&self) -> String {
        self.server.as_str().trim_end_matches('/').to_owned()
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let server = self.server_name();
        if error.is_redirect() {
            return Error::Redirected {
                server,
                reason: reason(&error),
            };
        }
        Error::Unreachable {
            server,
            reason: reason(&error),
            source: Box::new(error),
        }
    }

    fn cut(&self, error: reqwest::Error) -> Error {
        cut(&self.server_name(), error)
    }

    fn not_highwater(&self, found: String) -> Error {
        Error::NotHighwater {
            server: self.server_name(),
            found,
        }
    }
}

impl Remote for HttpRemote {
    type Body = HttpBody;

    async fn changes(&self, ask: &Ask) -> Result<Answer<HttpBody>, Error> {
        let mut url = self.url("changes");
        {
            let mut query = url.query_pairs_mut();
            if let Some(since) = &ask.since {
                query.append_pair("since", since.as_str());
            }
            for entity in ask.entities.iter().flatten() {
                query.append_pair("entity", entity.as_str());
            }
            if let Some(limit) = self.limit {
                query.append_pair("limit", &limit.to_string());
            }
            if !ask.wait.is_zero() {
                query.append_pair("wait", &ask.wait.as_secs().to_string());
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let response = self.get(url, COPY_MEDIA_TYPE).await?;
        let source = source(response.headers());
        let is_page = response.status().is_success();
        if is_page && !media_type(response.headers()).starts_with(COPY_MEDIA_TYPE) {
            return Err(self.not_highwater(format!("a page of {}", media_type(response.headers()))));
        }
        let outcome = if is_page {
            Outcome::Page(HttpBody {
                response,
                server: self.server_name(),
                bytes_left: PAGE_BYTES_MAX,
            })
        } else {
            match self.refused(response).await {
                Error::Resync(reason) => Outcome::Resync(reason),
                error => return Err(error),
            }
        };
        match source {
            Some(source) => Ok(Answer { source, outcome }),
            None => Err(self.not_highwater(format!("the header {SOURCE_HEADER} is missing"))),
        }
    }
}

/// A page that is being received.
#[derive(Debug)]
pub(crate) struct HttpBody {
    response: Response,
    server: String,
    bytes_left: u64,
}

impl PageBody for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self
            .response
            .chunk()
            .await
            .map_err(|error| cut(&self.server, error))?;
        let bytes = chunk.as_ref().map_or(0, Bytes::len) as u64;
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => {
                return Err(Error::Malformed(format!(
                    "it is larger than {PAGE_BYTES_MAX} bytes"
                )));
            }
        }
        Ok(chunk)
    }
}

/// The address that requests go to.
fn address(server: &str) -> Result<Url, Error> {
    let refuse = |reason: &str| Error::ServerAddress {
        address: server.to_owned(),
        reason: reason.to_owned(),
    };
    let url: Url = server
        .trim()
        .parse()
        .map_err(|error: url::ParseError| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it does not begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::ServerAddress {
            address: format!("{}://...", url.scheme()),
            reason: "it carries a password; use a token instead".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it carries a query"));
    }
    Ok(url)
}

/// Whether requests to this address stay within the machine.
fn is_this_machine(server: &Url) -> bool {
    match server.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Redirects are followed within the host only, and never from https to http: the request may
/// carry a token.
fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let Some(first) = attempt.previous().first() else {
            return attempt.stop();
        };
        let next = attempt.url();
        let same_origin = first.origin() == next.origin();
        let upgraded = first.scheme() == "http"
            && next.scheme() == "https"
            && first.host() == next.host()
            && next.port().is_none();
        if !(same_origin || upgraded) {
            let target = format!("to {}://{}", next.scheme(), next.authority());
            return attempt.error(target);
        }
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("in circles");
        }
        attempt.follow()
    })
}

fn source(headers: &HeaderMap) -> Option<SourceId> {
    let id = headers.get(SOURCE_HEADER)?.to_str().ok()?.trim();
    (!id.is_empty()).then(|| SourceId::new(id))
}

fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("no content type")
}

/// `Retry-After` in seconds, or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    date.signed_duration_since(chrono::Utc::now()).to_std().ok()
}

fn cut(server: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    Error::Cut {
        server: server.to_owned(),
        reason: reason(&error),
        source: Box::new(error),
    }
}

/// What lies at the bottom of an error of the HTTP client, since its own words say little.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let seconds = if error.is_connect() {
            CONNECT_SECONDS_MAX
        } else {
            SILENCE_SECONDS_MAX
        };
        return format!("no answer within {seconds} seconds");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_host_or_with_secrets_are_refused() {
        for bad in [
            "",
            "localhost:8080",
            "ftp://host",
            "http://",
            "http://user:secret@host",
            "http://host?x=1",
        ] {
            let error = address(bad).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        for good in ["http://127.0.0.1:8080", "https://example.org/highwater/"] {
            assert!(address(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn only_an_address_of_this_machine_is_taken_for_one() {
        for (server, expected) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example.org", false),
        ] {
            assert_eq!(
                is_this_machine(&server.parse().expect("a URL")),
                expected,
                "{server}"
            );
        }
    }

    #[test]
    fn a_path_before_the_routes_is_kept() {
        for base in ["https://example.org/sync", "https://example.org/sync/"] {
            let remote = HttpRemote::new(base, None, None).expect("a remote");
            assert_eq!(remote.url("changes").as_str(), "https://example.org/sync/changes");
        }
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
    fn a_token_that_no_header_can_carry_is_refused_without_being_shown() {
        let error = HttpRemote::new("http://h", Some("se\ncret"), None).expect_err("a bad token");
        assert!(!error.to_string().contains("cret"));
    }
}
