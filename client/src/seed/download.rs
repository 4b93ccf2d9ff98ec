//! Fetches a seed over HTTP into a file beside the store, and goes on where it was cut off.

use std::fs::{self, File};
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Certificate, Response, StatusCode, redirect};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::format::{self, HEADER_BYTES_MAX};
use super::{refused, refused_for};
use crate::error::Error;
use crate::network::{is_passing, reason};
use crate::pull::Event;

/// How long to wait for a connection.
const CONNECT_SECONDS_MAX: u64 = 10;

/// How long the server may be silent.
const SILENCE_SECONDS_MAX: u64 = 60;

/// Redirects that are followed; whoever hands out large files likes to send one elsewhere.
const REDIRECTS_MAX: usize = 10;

/// Attempts after the first, each of which goes on where the last was cut off.
const RETRIES_MAX: usize = 5;

/// Has the seed at `url` in the file `part`, whole by what its first line says.
pub(super) async fn fetch(
    url: &Url,
    part: &Path,
    authorities: Vec<Certificate>,
    stop: &CancellationToken,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<(), Error> {
    let http = client(url, authorities).map_err(|error| Error::Http(Box::new(error)))?;
    let mut delays = ExponentialBuilder::new()
        .with_jitter()
        .with_max_times(RETRIES_MAX)
        .build();
    loop {
        let attempt = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopped),
            attempt = go_on(&http, url, part, observer) => attempt,
        };
        match attempt {
            Ok(()) => return Ok(()),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) => {
                let may_pass = is_passing(&error);
                let error = refused(url, format!("it cannot be fetched ({})", reason(&error)), error);
                let Some(delay) = delays.next().filter(|_| may_pass) else {
                    return Err(error);
                };
                observer(Event::Retrying { error: &error, delay });
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(Error::Stopped),
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

/// Why an attempt failed, and whether another can do better.
enum Failure {
    Passing(reqwest::Error),
    Final(Error),
}

/// One attempt: asks for what is missing.
async fn go_on(
    http: &reqwest::Client,
    url: &Url,
    part: &Path,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<(), Failure> {
    let unwritable = |error: std::io::Error| {
        let reason = format!("{} cannot be written ({error})", part.display());
        Failure::Final(refused(url, reason, error))
    };
    let have = start(http, url, part).await?;
    let mut request = http.get(url.clone());
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let mut response = request.send().await.map_err(Failure::Passing)?;
    let from = match response.status() {
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        // Nothing is missing.
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(()),
        _ => {
            response = response.error_for_status().map_err(failure(url))?;
            0
        }
    };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(part)
        .map_err(unwritable)?;
    file.set_len(from).map_err(unwritable)?;
    file.seek(SeekFrom::Start(from)).map_err(unwritable)?;
    let mut bytes = from;
    let bytes_total = response
        .content_length()
        .map(|missing| from.saturating_add(missing));
    let refuse = |reason| {
        // It is no part of a seed, and nobody would go on with it.
        let _ = fs::remove_file(part);
        Failure::Final(refused_for(url.as_str(), reason))
    };
    let mut bytes_max = None;
    while let Some(chunk) = response.chunk().await.map_err(Failure::Passing)? {
        file.write_all(&chunk).map_err(unwritable)?;
        bytes = bytes.saturating_add(chunk.len() as u64);
        if bytes_max.is_none() && (from > 0 || chunk.contains(&b'\n') || bytes > HEADER_BYTES_MAX) {
            bytes_max = Some(told_bytes(part).map_err(refuse)?);
        }
        if bytes_max.is_some_and(|bytes_max| bytes > bytes_max) {
            return Err(refuse("it goes on behind its end".to_owned()));
        }
        observer(Event::SeedDownload { bytes, bytes_total });
    }
    Ok(())
}

/// How long a seed is by its first line, which is there.
fn told_bytes(part: &Path) -> Result<u64, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read ({error})", part.display());
    let mut file = BufReader::new(File::open(part).map_err(unreadable)?);
    let header = format::read_header(&mut file)?;
    let begins = file.stream_position().map_err(unreadable)?;
    Ok(begins.saturating_add(header.compressed_bytes))
}

/// How much of the file is there already, and of the same seed: the first line, which holds the
/// checksum of all that follows, tells one seed from another.
async fn start(http: &reqwest::Client, url: &Url, part: &Path) -> Result<u64, Failure> {
    let Ok(file) = File::open(part) else { return Ok(0) };
    let mut file = BufReader::new(file);
    let (Ok(_), Ok(header), Ok(have)) = (
        format::read_header(&mut file),
        file.stream_position(),
        fs::metadata(part).map(|metadata| metadata.len()),
    ) else {
        return Ok(0);
    };
    let mut kept = Vec::new();
    if file.rewind().is_err() || file.take(header).read_to_end(&mut kept).is_err() {
        return Ok(0);
    }
    let request = http
        .get(url.clone())
        .header(RANGE, format!("bytes=0-{}", header.saturating_sub(1)));
    let mut response = request.send().await.map_err(Failure::Passing)?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let mut offered = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Failure::Passing)? {
        offered.extend_from_slice(&chunk);
        if offered.len() as u64 > HEADER_BYTES_MAX {
            return Ok(0);
        }
    }
    Ok(if kept == offered { have } else { 0 })
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// A refusal that may pass, such as 503, and one that will not, such as 404.
fn failure(url: &Url) -> impl Fn(reqwest::Error) -> Failure {
    move |error| {
        let passing = error
            .status()
            .is_some_and(|status| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS);
        if passing {
            return Failure::Passing(error);
        }
        let status = error
            .status()
            .map_or("no status".to_owned(), |status| status.to_string());
        Failure::Final(refused_for(url.as_str(), format!("its server answered {status}")))
    }
}

/// A client without the token: whoever hands out seeds need not know it.
fn client(url: &Url, authorities: Vec<Certificate>) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .read_timeout(Duration::from_secs(SILENCE_SECONDS_MAX))
        .redirect(redirect::Policy::limited(REDIRECTS_MAX))
        // The address may hold a signature that is not for whoever is redirected to.
        .referer(false);
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    if url.scheme() == "https" {
        // A redirect to plain HTTP would let anyone on the way put another seed in its place.
        builder = builder.https_only(true);
    }
    builder.build()
}
