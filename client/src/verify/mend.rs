//! Fetches the rows that differ, and has the store replace them, all in one transaction.

use std::pin::pin;

use highwater_shared::{DigestsOf, DigestsRequest, Want};
use tokio::sync::{mpsc, oneshot};

use super::answer::{CHUNKS_WAITING_MAX, answer};
use super::found::EntityVerified;
use super::patience::Patience;
use crate::applied::EntityApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{PageBody as _, Writing};
use crate::remote::HttpRemote;
use crate::store::{Mending, MendingPiece, Standing, Store};
use crate::sync_helper::{Cursor, SourceId};

/// What mends a store.
pub(crate) struct Repair<'a> {
    pub(crate) remote: &'a HttpRemote,
    pub(crate) store: &'a Store,
    /// The source that the rows must come from, where the store has one.
    pub(crate) source: Option<&'a SourceId>,
    pub(crate) patience: Patience,
    pub(crate) meter: &'a Meter,
}

impl Repair<'_> {
    /// Removes what is too much, and fetches what is missing or stale, as of the cursor that it was found with.
    /// Returns what changed for readers. An answer that breaks off is asked for again, and no other.
    pub(crate) async fn mend(
        &mut self,
        found: &[EntityVerified],
        standing: Standing,
        writing: Writing,
    ) -> Result<Vec<EntityApplied>, Error> {
        let mending = Mending {
            extra: found
                .iter()
                .map(|found| (found.entity.clone(), found.extra_lines()))
                .collect(),
            writing,
            standing,
        };
        // Whoever moves to another cursor must hear no less afterwards than each answer has known.
        let mut moves_to = match &mending.standing {
            Standing::MovesTo { cursor, .. } => Some(cursor.clone()),
            Standing::At(_) => None,
        };
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let mut mended = pin!(self.store.mend(mending, receiver));
        let fed = async {
            for mut request in requests(found) {
                if let Some(cursor) = &moves_to {
                    request.since = Some(cursor.as_str().to_owned());
                }
                let next = self.fetch(&request, &sender).await?;
                moves_to = moves_to.map(|_| next);
            }
            // Without this, nothing is kept.
            let _ = sender.send(MendingPiece::All).await;
            drop(sender);
            Ok(())
        };
        let fed: Result<(), Error> = tokio::select! {
            biased;
            // Done before all was sent: the writer has failed, and nothing more is wanted.
            mended = &mut mended => return mended,
            fed = fed => fed,
        };
        match (mended.await, fed) {
            (Err(Error::Incomplete) | Ok(_), Err(error)) => Err(error),
            (mended, _) => mended,
        }
    }

    /// Has an answer written, from as many attempts as it takes. Returns the cursor that came with it.
    async fn fetch(
        &mut self,
        request: &DigestsRequest,
        sender: &mpsc::Sender<MendingPiece>,
    ) -> Result<Cursor, Error> {
        loop {
            match self.feed(request, sender).await {
                Ok(next) => {
                    self.patience.renew();
                    return Ok(next);
                }
                Err(error) => self.patience.wait(error).await?,
            }
            send(sender, MendingPiece::Again).await?;
        }
    }

    async fn feed(
        &self,
        request: &DigestsRequest,
        sender: &mpsc::Sender<MendingPiece>,
    ) -> Result<Cursor, Error> {
        let mut body = answer(self.remote, self.store.path(), self.source, request, true).await?;
        while let Some(chunk) = body.chunk().await? {
            self.meter.bytes(chunk.len());
            send(sender, MendingPiece::Chunk(chunk)).await?;
        }
        let (told, next) = oneshot::channel();
        send(sender, MendingPiece::End(told)).await?;
        next.await.ok().flatten().ok_or(Error::Incomplete)
    }
}

/// Asks for whole rows by their keys.
fn requests(found: &[EntityVerified]) -> Vec<DigestsRequest> {
    let mut requests = Vec::new();
    for found in found {
        for keys in found.keys() {
            requests.push(DigestsRequest {
                since: found.cursor.as_ref().map(|cursor| cursor.as_str().to_owned()),
                deep: false,
                entities: vec![DigestsOf {
                    entity: found.entity.clone(),
                    want: Want::Rows,
                    bits: 0,
                    within: None,
                    keys: Some(keys),
                }],
            });
        }
    }
    requests
}

/// Whoever no longer listens has failed, and says so itself.
async fn send(sender: &mpsc::Sender<MendingPiece>, piece: MendingPiece) -> Result<(), Error> {
    sender.send(piece).await.map_err(|_| Error::Incomplete)
}
