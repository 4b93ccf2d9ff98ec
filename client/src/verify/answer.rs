//! The answer to a question for digests on its way: from the network, and to whoever reads it where that may
//! block.

use std::path::Path;

use bytes::Bytes;
use highwater_shared::{Code, DigestsRequest, PageParser, Trailer};
use tokio::sync::mpsc;

use super::received::Received;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Event, Outcome, PageBody as _};
use crate::remote::{HttpBody, HttpRemote};
use crate::store::from_page;
use crate::sync_helper::{Cursor, SourceId};

/// Chunks of a body that wait to be read; the network pauses beyond that.
pub(super) const CHUNKS_WAITING_MAX: usize = 16;

/// What the source answers a request with; an error where the store has to be pulled first.
pub(super) async fn answer(
    remote: &HttpRemote,
    store: &Path,
    source: Option<&SourceId>,
    request: &DigestsRequest,
    is_named: bool,
) -> Result<HttpBody, Error> {
    let answer = match remote.digests(request).await {
        // It was withdrawn since the store was pulled, which the next pull will find.
        Err(Error::Refused {
            status: 403 | 404,
            code: Some(Code::ForbiddenEntity | Code::UnknownEntity),
            detail,
            ..
        }) if !is_named => return Err(pull_first(detail)),
        answer => answer?,
    };
    match source {
        Some(kept) if *kept != answer.source => Err(Error::OtherSource {
            store: store.to_owned(),
            kept: kept.as_str().to_owned(),
            offered: answer.source.as_str().to_owned(),
        }),
        _ => match answer.outcome {
            Outcome::Page(body) => Ok(body),
            Outcome::Resync { .. } => Err(pull_first("the server can no longer serve its cursor".to_owned())),
        },
    }
}

/// Reads an answer while it arrives. More than `keys_max` keys are refused.
pub(super) async fn receive(
    body: HttpBody,
    keys_max: u64,
    meter: &Meter,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<Received, Error> {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let reading = blocking(move || read(receiver, keys_max));
    let feeding = feed(body, sender, meter, observer);
    match tokio::join!(reading, feeding) {
        // Why there was no end, the network knows.
        (Err(Error::Incomplete), Err(error)) => Err(error),
        (read, _) => read,
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Task(Box::new(error)))?
}

/// The error for a store that does not stand where it can be compared.
pub(super) fn pull_first(reason: String) -> Error {
    Error::PullFirst { reason }
}

/// Passes a body on, chunk by chunk. Its end is the end of the channel only where it ended properly.
async fn feed(
    mut body: HttpBody,
    sender: mpsc::Sender<Option<Bytes>>,
    meter: &Meter,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<(), Error> {
    loop {
        let chunk = body.chunk().await?;
        let is_end = chunk.is_none();
        if let Some(chunk) = &chunk {
            meter.bytes(chunk.len());
            observer(Event::Progress(meter.read()));
        }
        // Whoever no longer listens has failed, and says so.
        if sender.send(chunk).await.is_err() || is_end {
            return Ok(());
        }
    }
}

fn read(mut chunks: mpsc::Receiver<Option<Bytes>>, keys_max: u64) -> Result<Received, Error> {
    let mut received = Received::new(usize::try_from(keys_max).unwrap_or(usize::MAX))?;
    let mut parser = PageParser::new();
    loop {
        match chunks.blocking_recv() {
            Some(Some(chunk)) => parser.push(&chunk, &mut received).map_err(from_page)?,
            Some(None) => {
                let trailer: Trailer = parser.finish().map_err(from_page)?;
                received.next = Some(Cursor::new(trailer.next));
                return Ok(received);
            }
            None => return Err(Error::Incomplete),
        }
    }
}
