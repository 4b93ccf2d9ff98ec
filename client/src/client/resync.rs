//! A resync by what differs: where a cursor is worth nothing any more, the store is compared with the source, and
//! only the rows that differ travel.
//!
//! Where an earlier cursor of the store is still served, only what was written since can differ. Otherwise all is
//! compared with the source as it is now.

use highwater_shared::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Client;
use super::verify::page;
use crate::applied::PageApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Refused, Shortcut, Taking};
use crate::remote::HttpRemote;
use crate::store::{KeysOf, MovesFrom, Standing};
use crate::sync_helper::{Cursor, SourceId, State};
use crate::verify::{Depth, EntityVerified};

/// An entity with so many rows is compared with the source where it is to begin anew. One with fewer comes
/// in a page.
const ROWS_MIN: u64 = 50_000;

/// The shortcut of a pull over HTTP.
pub(super) struct Difference<'a> {
    pub(super) client: &'a Client,
    pub(super) stop: &'a CancellationToken,
}

/// Where the store is to go on from, and what of it is not as it was there.
struct Found {
    cursor: Cursor,
    entities: Vec<EntityVerified>,
    from: MovesFrom,
}

impl Shortcut for Difference<'_> {
    fn take<'a>(&'a self, refused: Refused, meter: &'a Meter) -> Taking<'a> {
        Box::pin(async move {
            match self.fetch(refused, meter).await {
                Err(error @ (Error::Stopped | Error::OtherSource { .. } | Error::Task(_))) => Err(error),
                // It has been asked often enough, and has other things to do: pages it shares among many.
                Err(Error::Refused { .. }) => Ok(None),
                Err(error) if error.is_retryable() => Err(error),
                // Whatever stands in the way, to begin anew is always right.
                Err(error) => {
                    tracing::debug!(%error, "the store cannot be compared");
                    Ok(None)
                }
                fetched => fetched,
            }
        })
    }

    fn rows_min(&self) -> u64 {
        ROWS_MIN
    }
}

impl Difference<'_> {
    async fn fetch(&self, refused: Refused, meter: &Meter) -> Result<Option<PageApplied>, Error> {
        let client = self.client;
        let helpers = client.store.sync_helpers()?;
        // What was withdrawn may be none of the caller's business any more, which only a page tells.
        let is_withdrawn = helpers.iter().any(|helper| helper.state == State::Withdrawn);
        if client.keep_deleted || refused.scope_changed && is_withdrawn {
            return Ok(None);
        }
        let Some(source) = helpers.into_iter().find_map(|helper| helper.source) else {
            return Ok(None);
        };
        let remote = client.remote.to_patient()?;
        let mut found = None;
        if refused.earlier {
            found = self.since_the_past(&remote, meter).await?;
        }
        if found.is_none() {
            found = self.since_now(&remote, meter).await?;
        }
        match found {
            Some(found) => self.replace(found, source, meter).await.map(Some),
            None => Ok(None),
        }
    }

    /// What was written since the latest cursor of the store's past that is still served, and is not as it was there.
    async fn since_the_past(&self, remote: &HttpRemote, meter: &Meter) -> Result<Option<Found>, Error> {
        let client = self.client;
        let verification = client.verification(remote, Depth::Values, meter, self.stop);
        let mut written = KeysOf::new();
        for past in client.store.past()? {
            for (entity, keys) in &past.keys {
                written
                    .entry(entity.clone())
                    .or_default()
                    .extend(keys.iter().cloned());
            }
            match verification.against_past(&past.cursor, &written).await {
                Ok(found) => {
                    return Ok(found.map(|(cursor, entities)| Found {
                        cursor,
                        entities,
                        from: MovesFrom::Past(past),
                    }));
                }
                Err(Error::PullFirst { reason }) => tracing::debug!(reason, "an earlier cursor is asked for"),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What is not as it is at the source now.
    async fn since_now(&self, remote: &HttpRemote, meter: &Meter) -> Result<Option<Found>, Error> {
        // Values may have changed without a write, which a comparison of dates would pass over.
        let verification = self.client.verification(remote, Depth::Values, meter, self.stop);
        let found = verification.against_now().await?;
        Ok(found.map(|(cursor, entities)| Found {
            cursor,
            entities,
            from: MovesFrom::Now,
        }))
    }

    /// Replaces what differs, and moves the store to the cursor.
    async fn replace(&self, found: Found, source: SourceId, meter: &Meter) -> Result<PageApplied, Error> {
        let client = self.client;
        let Found {
            cursor,
            entities,
            from,
        } = found;
        let standing = Standing::MovesTo {
            cursor: cursor.clone(),
            entities: entities.iter().map(|found| found.entity.clone()).collect(),
            source,
            from,
        };
        let differing: Vec<EntityVerified> = entities.into_iter().filter(|found| !found.is_equal()).collect();
        let applied = client.replace(&differing, &standing, meter).await?;
        let helpers = client.store.sync_helpers()?;
        let stands = helpers.into_iter().find(|helper| helper.state == State::Pulling);
        let cursor = stands.and_then(|helper| helper.cursor).unwrap_or(cursor);
        Ok(page(cursor, true, Timestamp::EPOCH, applied))
    }
}
