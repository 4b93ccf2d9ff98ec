//! Pages read as `curl` reads them: bytes as they come, without decoding or keeping them.

use anyhow::{Context as _, Result, ensure};
use highwater_shared::{COPY_MEDIA_TYPE, JSON_MEDIA_TYPE, Trailer};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING};

/// More than the trailer of a page is long.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// The form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Copy,
    Json,
}

/// How a page is compressed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY blocks",
            Self::Json => "JSON",
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Copy => COPY_MEDIA_TYPE,
            Self::Json => JSON_MEDIA_TYPE,
        }
    }
}

impl Encoding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Asks a server for pages, and counts their bytes.
#[derive(Debug)]
pub(crate) struct Reader {
    http: reqwest::Client,
    server: String,
}

impl Reader {
    /// `server` is a URL such as `http://127.0.0.1:8080`.
    pub(crate) fn new(server: &str) -> Result<Self> {
        // Neither proxies nor certificates: all of it stays on this machine.
        let http = reqwest::Client::builder()
            // Bodies are wanted as they travel.
            .no_zstd()
            .no_proxy()
            .tls_certs_only([])
            .build()?;
        Ok(Self {
            http,
            server: server.to_owned(),
        })
    }

    /// The paths of all pages from `since` on, and where they end: the next `since`. As long as
    /// nothing changes in the database, the same paths bring the same pages.
    pub(crate) async fn paths(
        &self,
        since: Option<String>,
        limit: Option<u64>,
    ) -> Result<(Vec<String>, String)> {
        let mut since = since;
        let mut paths = Vec::new();
        loop {
            let path = path(since.as_deref(), limit);
            let trailer = self.trailer(&path).await?;
            paths.push(path);
            if !trailer.more {
                return Ok((paths, trailer.next));
            }
            since = Some(trailer.next);
        }
    }

    /// Reads a page into nothing and returns how many bytes have arrived.
    pub(crate) async fn read(&self, path: &str, form: Form, encoding: Encoding) -> Result<u64> {
        let mut bytes = 0;
        let mut response = self.ask(path, form, encoding).await?;
        while let Some(chunk) = response.chunk().await? {
            bytes += chunk.len() as u64;
        }
        Ok(bytes)
    }

    /// A request that bears an id of its own, by which the server's log has it.
    pub(crate) async fn mark(&self, id: &str) -> Result<()> {
        let url = format!("{}/healthz", self.server);
        let request = self.http.get(url).header("x-request-id", id);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// The end of a page in COPY blocks.
    async fn trailer(&self, path: &str) -> Result<Trailer> {
        let mut response = self.ask(path, Form::Copy, Encoding::Identity).await?;
        let mut tail = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            tail.extend_from_slice(&chunk);
            let surplus = tail.len().saturating_sub(TAIL_BYTES_MAX);
            tail.drain(..surplus);
        }
        trailer(&tail)
    }

    async fn ask(&self, path: &str, form: Form, encoding: Encoding) -> Result<reqwest::Response> {
        let request = self
            .http
            .get(format!("{}{path}", self.server))
            .header(ACCEPT, form.media_type())
            .header(ACCEPT_ENCODING, encoding.name());
        let response = request.send().await?.error_for_status()?;
        let sent = response.headers().get(CONTENT_ENCODING);
        let sent = sent.map_or(Ok("identity"), |sent| sent.to_str())?;
        ensure!(
            sent == encoding.name(),
            "asked for {}, the server sent {sent}",
            encoding.name()
        );
        Ok(response)
    }
}

/// The last line of a page in COPY blocks.
pub(crate) fn trailer(page: &[u8]) -> Result<Trailer> {
    let last = page.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    serde_json::from_slice(last.unwrap_or_default()).context("a page without its trailer")
}

/// The path of one page; a cursor needs no escaping.
pub(crate) fn path(since: Option<&str>, limit: Option<u64>) -> String {
    let since = since.map(|since| format!("since={since}"));
    let limit = limit.map(|limit| format!("limit={limit}"));
    let query: Vec<String> = since.into_iter().chain(limit).collect();
    match query.as_slice() {
        [] => "/changes".to_owned(),
        query => format!("/changes?{}", query.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_what_is_asked_for() {
        assert_eq!(path(None, None), "/changes");
        assert_eq!(path(Some("a"), Some(3)), "/changes?since=a&limit=3");
    }
}
