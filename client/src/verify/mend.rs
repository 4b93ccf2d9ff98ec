//! Fetches the rows that differ, and has the store replace them, all in one transaction.

use std::path::Path;

use highwater_shared::digests::{BITS_MAX, part};
use highwater_shared::{DigestsOf, DigestsRequest, Want, Within};
use tokio::sync::mpsc;

use super::compare::answer;
use super::found::{EntityVerified, RowKey};
use super::question::PARTS_NAMED_MAX;
use crate::applied::EntityApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{PageBody as _, Writing};
use crate::remote::HttpRemote;
use crate::store::{Mending, MendingPiece, Store};
use crate::sync_helper::SourceId;

/// Chunks of a body that wait for SQLite; the network pauses beyond that.
const CHUNKS_WAITING_MAX: usize = 16;

/// Removes what is too much, and fetches what is missing or stale, as of the cursor that it was found with.
/// Returns what changed for readers.
pub(crate) async fn mend(
    remote: &HttpRemote,
    store: &Store,
    source: Option<&SourceId>,
    found: &[EntityVerified],
    writing: Writing,
    meter: &Meter,
) -> Result<Vec<EntityApplied>, Error> {
    let mending = Mending {
        extra: found
            .iter()
            .map(|found| {
                let lines = found.extra.iter().map(|key| key.line.clone());
                (found.entity.clone(), found.cursor.clone(), lines.collect())
            })
            .collect(),
        writing,
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let mended = store.mend(mending, receiver);
    let fed = async {
        for request in requests(found) {
            feed(remote, store.path(), source, &request, &sender, meter).await?;
        }
        // Without this, nothing is kept.
        let _ = sender.send(MendingPiece::All).await;
        drop(sender);
        Ok(())
    };
    match tokio::join!(mended, fed) {
        (Err(Error::Incomplete) | Ok(_), Err(error)) => Err(error),
        (mended, _) => mended,
    }
}

/// Asks for whole rows, some thousand at a time.
fn requests(found: &[EntityVerified]) -> Vec<DigestsRequest> {
    let mut requests = Vec::new();
    for found in found {
        let mut parts: Vec<u64> = found
            .missing
            .iter()
            .chain(&found.stale)
            // So many bits name a row as good as alone; one that is named with it is right as well.
            .map(|key| part(RowKey::hash(key), BITS_MAX))
            .collect();
        parts.sort_unstable();
        parts.dedup();
        for parts in parts.chunks(PARTS_NAMED_MAX) {
            requests.push(DigestsRequest {
                since: Some(found.cursor.as_str().to_owned()),
                deep: false,
                entities: vec![DigestsOf {
                    entity: found.entity.clone(),
                    want: Want::Rows,
                    bits: 0,
                    within: Some(Within {
                        bits: BITS_MAX,
                        parts: parts.to_vec(),
                    }),
                }],
            });
        }
    }
    requests
}

async fn feed(
    remote: &HttpRemote,
    store: &Path,
    source: Option<&SourceId>,
    request: &DigestsRequest,
    sender: &mpsc::Sender<MendingPiece>,
    meter: &Meter,
) -> Result<(), Error> {
    let mut body = answer(remote, store, source, request, true).await?;
    while let Some(chunk) = body.chunk().await? {
        meter.bytes(chunk.len());
        send(sender, MendingPiece::Chunk(chunk)).await?;
    }
    send(sender, MendingPiece::End).await
}

/// Whoever no longer listens has failed, and says so itself.
async fn send(sender: &mpsc::Sender<MendingPiece>, piece: MendingPiece) -> Result<(), Error> {
    sender.send(piece).await.map_err(|_| Error::Incomplete)
}
