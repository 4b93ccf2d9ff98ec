//! Talks HTTP to the server. Everything that comes from there is bounded and mistrusted.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use highwater_shared::{
    CLIENT_HEADER, COPY_MEDIA_TYPE, Code, DigestsRequest, EntityList, EntityName, Problem, SOURCE_HEADER, Why,
};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use crate::address::{address, is_this_machine, redirects};
use crate::error::Error;
use crate::introduction::Introduction;
use crate::network::{CONNECT_SECONDS_MAX, SCAN_SECONDS_MAX, SILENCE_SECONDS_MAX, cut, unanswered};
use crate::plan::Ask;
use crate::pull::{Answer, Outcome, PageBody, Remote};
use crate::sync_helper::SourceId;
use crate::token::{Bearer, Token};
use crate::trust;

/// The largest page that is taken, unpacked. A server ends one with the row that reaches 32 MiB, and
/// no row is longer than 256 MiB.
const PAGE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The largest problem that is read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// The largest list of entities that is read.
const ENTITIES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest answer to why a row is there or not; a key in it is as long as an address may be.
const WHY_BYTES_MAX: usize = 1024 * 1024;

/// What is said for an error that comes without a problem.
const NO_REASON: &str = "whatever stands before the server gave no reason";

/// How a server is reached, and as whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) token: Option<Token>,
    /// Whether the token may travel where others can read it.
    pub(crate) token_over_http: bool,
    /// The only authorities that are believed; those of the system where there is none.
    pub(crate) ca_cert: Option<PathBuf>,
    /// What the server is told of this device.
    pub(crate) introduction: Introduction,
}

/// A server, as the pull sees it.
#[derive(Debug)]
pub(crate) struct HttpRemote {
    http: reqwest::Client,
    server: Url,
    bearer: Option<Bearer>,
    limit: Option<u64>,
    access: Access,
}

impl HttpRemote {
    pub(crate) fn new(server: &str, access: &Access, limit: Option<u64>) -> Result<Self, Error> {
        Self::with_silence(server, access, limit, SILENCE_SECONDS_MAX)
    }

    /// The same for questions whose answers take as long as a scan of a table.
    pub(crate) fn patient(server: &str, access: &Access) -> Result<Self, Error> {
        Self::with_silence(server, access, None, SCAN_SECONDS_MAX)
    }

    /// The same server, for such questions.
    pub(crate) fn to_patient(&self) -> Result<Self, Error> {
        Self::patient(self.server.as_str(), &self.access)
    }

    fn with_silence(
        server: &str,
        access: &Access,
        limit: Option<u64>,
        silence_seconds_max: u64,
    ) -> Result<Self, Error> {
        let server = address(server)?;
        let is_plain = server.scheme() == "http";
        let is_near = is_this_machine(&server);
        if access.token.is_some() && is_plain && !is_near && !access.token_over_http {
            return Err(Error::TokenOverHttp {
                server: server_name(&server),
            });
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .read_timeout(Duration::from_secs(silence_seconds_max))
            .redirect(redirects())
            .referer(false)
            // Pages shrink to a fifth, for less time than most networks need for the rest.
            // Within one machine the bytes cost nothing.
            .zstd(!is_near);
        if is_near {
            // A proxy would be another machine, and read the token.
            builder = builder.no_proxy();
        }
        // Looked at in any case, so that a mistake does not wait for the day of https.
        let authorities = access.ca_cert.as_deref().map(trust::authorities).transpose()?;
        if is_plain {
            // Reading the system's certificates takes longer than a pull with nothing new.
            builder = builder.tls_certs_only([]);
        } else if let Some(authorities) = authorities {
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self {
            http: builder.build().map_err(|error| Error::Http(Box::new(error)))?,
            server,
            bearer: access.token.as_ref().map(Bearer::read).transpose()?,
            limit,
            access: access.clone(),
        })
    }

    /// What the server has for this caller.
    pub(crate) async fn entities(&self) -> Result<EntityList, Error> {
        let (entities, _) = self
            .json(self.url("entities"), ENTITIES_BYTES_MAX, "list of entities")
            .await?;
        Ok(entities)
    }

    /// Why a device with this cursor, or date, has a row or lacks it; and which source says so.
    pub(crate) async fn why(
        &self,
        entity: &EntityName,
        key: &str,
        since: &str,
    ) -> Result<(Why, SourceId), Error> {
        let mut url = self.url("why");
        url.query_pairs_mut()
            .append_pair("entity", entity.as_str())
            .append_pair("key", key)
            .append_pair("since", since);
        let (why, source) = self.json(url, WHY_BYTES_MAX, "answer").await?;
        Ok((why, source.ok_or_else(|| self.without_source())?))
    }

    /// Asks for a small document, and tells which source it comes from, where it says so.
    async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        bytes_max: usize,
        what: &str,
    ) -> Result<(T, Option<SourceId>), Error> {
        let mut response = self.get(url, "application/json").await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let source = source(response.headers());
        let body = self.read(&mut response, bytes_max).await?;
        let document = serde_json::from_slice(&body)
            .map_err(|error| self.not_highwater(format!("its {what} cannot be read ({error})")))?;
        Ok((document, source))
    }

    /// What the server is told of this device.
    pub(crate) fn introduction(&self) -> &Introduction {
        &self.access.introduction
    }

    /// Whether the server is on the host of this address.
    pub(crate) fn is_host_of(&self, url: &Url) -> bool {
        self.server.host() == url.host()
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(path);
        }
        url
    }

    /// Asks for digests.
    pub(crate) async fn digests(&self, asked: &DigestsRequest) -> Result<Answer<HttpBody>, Error> {
        let request = || {
            let request = self.http.post(self.url("digests")).json(asked);
            request.header(ACCEPT, COPY_MEDIA_TYPE)
        };
        let response = self.send(request).await?;
        self.answer(response).await
    }

    async fn get(&self, url: Url, accept: &'static str) -> Result<Response, Error> {
        self.send(|| self.http.get(url.clone()).header(ACCEPT, accept))
            .await
    }

    /// Asks, and once more where the token is refused and its file holds another one by now.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Error> {
        let introduction = self.access.introduction.header();
        let request = || match &introduction {
            Some(header) => request().header(CLIENT_HEADER, header.clone()),
            None => request(),
        };
        let unanswered = |error| unanswered(self.server_name(), error);
        let Some(bearer) = &self.bearer else {
            return request().send().await.map_err(unanswered);
        };
        let token = bearer.header();
        let with = |token: &HeaderValue| request().header(AUTHORIZATION, token.clone()).send();
        let response = with(&token).await.map_err(unanswered)?;
        if response.status() == StatusCode::UNAUTHORIZED && bearer.renew(&token)? {
            return with(&bearer.header()).await.map_err(unanswered);
        }
        Ok(response)
    }

    /// What a response is that should hold blocks, and which source it comes from.
    async fn answer(&self, response: Response) -> Result<Answer<HttpBody>, Error> {
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
                Error::Resync { reason, earlier } => Outcome::Resync { reason, earlier },
                error => return Err(error),
            }
        };
        match source {
            Some(source) => Ok(Answer { source, outcome }),
            None => Err(self.without_source()),
        }
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
        let problem = serde_json::from_slice::<Problem>(&body);
        if status == StatusCode::UNAUTHORIZED {
            return self.unauthenticated(problem.ok());
        }
        match problem {
            Ok(problem) if problem.code == Some(Code::ResyncRequired) => Error::Resync {
                reason: problem.reason,
                earlier: problem.earlier,
            },
            Ok(problem) => Error::Refused {
                status: status.as_u16(),
                code: problem.code,
                detail: problem.detail,
                retry_after,
            },
            // A proxy in front of the server that cannot reach it, most likely.
            Err(_) if status.is_server_error() || status.as_u16() == 429 => Error::Refused {
                status: status.as_u16(),
                code: None,
                detail: NO_REASON.to_owned(),
                retry_after,
            },
            Err(_) => self.not_highwater(format!("status {status}, {}", media_type(response.headers()))),
        }
    }

    /// The error for a caller that the server does not know.
    fn unauthenticated(&self, problem: Option<Problem>) -> Error {
        Error::Unauthenticated {
            server: self.server_name(),
            detail: problem.map_or(NO_REASON.to_owned(), |problem| problem.detail),
            remedy: self.bearer.as_ref().map_or_else(
                || {
                    "no token was sent; --token-file names a file with one, or HIGHWATER_TOKEN holds it"
                        .to_owned()
                },
                Bearer::remedy,
            ),
        }
    }

    /// The whole body, which must be small.
    async fn read(&self, response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        let cut = |error| cut(&self.server_name(), error);
        while let Some(chunk) = response.chunk().await.map_err(cut)? {
            if body.len() + chunk.len() > bytes_max {
                return Err(self.not_highwater(format!("more than {bytes_max} bytes where few were due")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn server_name(&self) -> String {
        server_name(&self.server)
    }

    fn without_source(&self) -> Error {
        self.not_highwater(format!("the header {SOURCE_HEADER} is missing"))
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
                query.append_pair("purged", "keys");
                if ask.takes_rescoped {
                    query.append_pair("rescoped", "rows");
                }
            }
            for held in &ask.held {
                query.append_pair("held", held.as_str());
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
        self.answer(response).await
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

fn server_name(server: &Url) -> String {
    server.as_str().trim_end_matches('/').to_owned()
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
