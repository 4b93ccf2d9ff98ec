//! A resync by what differs: where a cursor is worth nothing any more, the store is compared with the source
//! as it is now, and only the rows that differ travel.

use highwater_shared::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Client;
use super::verify::page;
use crate::applied::PageApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Shortcut, Taking};
use crate::store::Standing;
use crate::sync_helper::State;
use crate::verify::{Depth, EntityVerified};

/// An entity with so many rows is compared with the source where it is to begin anew. One with fewer comes
/// in a page.
const ROWS_MIN: u64 = 50_000;

/// The shortcut of a pull over HTTP.
pub(super) struct Difference<'a> {
    pub(super) client: &'a Client,
    pub(super) stop: &'a CancellationToken,
}

impl Shortcut for Difference<'_> {
    fn take<'a>(&'a self, scope_changed: bool, meter: &'a Meter) -> Taking<'a> {
        Box::pin(async move {
            match self.fetch(scope_changed, meter).await {
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
    async fn fetch(&self, scope_changed: bool, meter: &Meter) -> Result<Option<PageApplied>, Error> {
        let client = self.client;
        let helpers = client.store.sync_helpers()?;
        // What was withdrawn may be none of the caller's business any more, which only a page tells.
        let is_withdrawn = helpers.iter().any(|helper| helper.state == State::Withdrawn);
        if client.keep_deleted || scope_changed && is_withdrawn {
            return Ok(None);
        }
        let remote = client.remote.to_patient()?;
        // Values may have changed without a write, which a comparison of dates would pass over.
        let verification = client.verification(&remote, Depth::Values, meter, self.stop);
        let Some((cursor, found)) = verification.against_now().await? else {
            return Ok(None);
        };
        let source = helpers.iter().find_map(|helper| helper.source.clone());
        let Some(source) = source else { return Ok(None) };
        let standing = Standing::MovesTo {
            cursor: cursor.clone(),
            entities: found.iter().map(|found| found.entity.clone()).collect(),
            source,
        };
        let differing: Vec<EntityVerified> = found.into_iter().filter(|found| !found.is_equal()).collect();
        let applied = client.replace(&differing, &standing, meter).await?;
        let helpers = client.store.sync_helpers()?;
        let stands = helpers.into_iter().find(|helper| helper.state == State::Pulling);
        let cursor = stands.and_then(|helper| helper.cursor).unwrap_or(cursor);
        Ok(Some(page(cursor, true, Timestamp::EPOCH, applied)))
    }
}
