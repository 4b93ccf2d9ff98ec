//! Comparing the store with its source, and mending it, as the library's front has it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use highwater_shared::{EntityName, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Client, ClientBuilder, PULL_RETRIES_MAX, retries};
use crate::applied::{EntityApplied, PageApplied};
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Event, Writing};
use crate::remote::HttpRemote;
use crate::store::Standing;
use crate::sync_helper::Cursor;
use crate::verify::{Depth, EntityVerified, Patience, Repair, Verification, VerifyReport};

impl ClientBuilder {
    /// As [`Client::verify`], for the store at `path`, which another process may write to meanwhile.
    /// The writer's lock is not taken, and nothing is written.
    pub async fn verify(
        self,
        path: impl AsRef<Path>,
        depth: Depth,
        stop: &CancellationToken,
    ) -> Result<VerifyReport, Error> {
        let remote = HttpRemote::patient(&self.server, &self.access)?;
        let verification = Verification {
            remote: &remote,
            store: path.as_ref(),
            wanted: self.entities.as_deref(),
            depth,
            retries: retries().with_max_times(PULL_RETRIES_MAX),
            observer: self.observer,
            meter: Meter::default(),
            stop,
        };
        verification.run(None).await
    }
}

impl Client {
    /// Compares the store with its source, row by row, and names the rows that differ.
    ///
    /// It is exact while both are in use: what changed at the source after the store's last pull
    /// is left out on both sides. What can be tried again is tried again, for about half a minute.
    ///
    /// ```no_run
    /// use highwater_client::{Client, Depth};
    /// # async fn example() -> Result<(), highwater_client::Error> {
    /// let client = Client::builder("http://127.0.0.1:8080").open("shop.db")?;
    /// let report = client.verify(Depth::Dates, &Default::default()).await?;
    /// for entity in report.entities.iter().filter(|entity| !entity.is_equal()) {
    ///     println!("{}: {} rows are missing", entity.entity, entity.missing.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::PullFirst`] where there is nothing to compare yet, or not in this state.
    pub async fn verify(&self, depth: Depth, stop: &CancellationToken) -> Result<VerifyReport, Error> {
        let remote = self.remote.to_patient()?;
        let meter = Meter::default();
        self.verification(&remote, depth, &meter, stop).run(None).await
    }

    /// Compares as [`Client::verify`] does, replaces the rows that differ, and compares these entities
    /// again. Pulls of this store wait meanwhile.
    ///
    /// Only rows that differ are fetched. They are replaced in one transaction, as of the store's cursor,
    /// which does not move; subscribers are told as of a page.
    ///
    /// # Errors
    ///
    /// As of [`Client::verify`], and [`Error::UniqueIndex`] where a row meets a unique index of the user's.
    pub async fn repair(&self, depth: Depth, stop: &CancellationToken) -> Result<VerifyReport, Error> {
        let _turn = self.store.turn(stop).await?;
        let begun = Instant::now();
        let mut report = self.verify(depth, stop).await?;
        report.repaired = Some(true);
        let differing: Vec<EntityVerified> = report
            .entities
            .iter()
            .filter(|entity| !entity.is_equal())
            .cloned()
            .collect();
        if differing.is_empty() {
            return Ok(report);
        }
        let meter = Meter::default();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopped),
            mended = self.mend(&differing, &meter) => mended?,
        }
        let remote = self.remote.to_patient()?;
        let entities: Vec<EntityName> = differing.iter().map(|found| found.entity.clone()).collect();
        let verification = Verification {
            wanted: Some(&entities),
            ..self.verification(&remote, depth, &meter, stop)
        };
        let after = verification.run(Some(&differing)).await?;
        report.repaired = Some(after.is_equal());
        report.bytes += after.bytes;
        report.elapsed = begun.elapsed();
        Ok(report)
    }

    /// A comparison of this client's entities.
    pub(super) fn verification<'a>(
        &'a self,
        remote: &'a HttpRemote,
        depth: Depth,
        meter: &Meter,
        stop: &'a CancellationToken,
    ) -> Verification<'a> {
        Verification {
            remote,
            store: self.store.path(),
            wanted: self.entities.as_deref(),
            depth,
            retries: retries().with_max_times(PULL_RETRIES_MAX),
            observer: Arc::clone(&self.observer),
            meter: meter.clone(),
            stop,
        }
    }

    /// Replaces what differs, as of the cursors of the entities.
    async fn mend(&self, differing: &[EntityVerified], meter: &Meter) -> Result<(), Error> {
        let cursors = differing
            .iter()
            .filter_map(|found| Some((found.entity.clone(), found.cursor.clone()?)));
        let standing = Standing::At(cursors.collect());
        let applied = self.replace(differing, &standing, meter).await?;
        let helpers = self.store.sync_helpers()?;
        let stands = helpers.iter().find(|helper| helper.cursor.is_some());
        if let Some((helper, cursor)) = stands.and_then(|helper| Some((helper, helper.cursor.clone()?))) {
            let page = page(cursor, false, helper.last_sync_date, applied);
            (self.observer)(Event::Applied(&page));
            // Nobody may be listening, which is fine.
            let _ = self.applied.send(Arc::new(page));
        }
        Ok(())
    }

    /// Fetches what differs and has the store write it; what can be tried again is.
    pub(super) async fn replace(
        &self,
        differing: &[EntityVerified],
        standing: &Standing,
        meter: &Meter,
    ) -> Result<Vec<EntityApplied>, Error> {
        let remote = self.remote.to_patient()?;
        let helpers = self.store.sync_helpers()?;
        let source = helpers.iter().find_map(|helper| helper.source.as_ref());
        let mut repair = Repair {
            remote: &remote,
            store: &self.store,
            source,
            patience: Patience::new(
                retries().with_max_times(PULL_RETRIES_MAX),
                Arc::clone(&self.observer),
            ),
            meter,
        };
        let mut writing = Writing::InPlace;
        loop {
            match repair.mend(differing, standing.clone(), writing).await {
                Err(Error::UniqueIndex { .. }) if writing == Writing::InPlace => {
                    writing = Writing::DeletesFirst;
                }
                mended => return mended,
            }
        }
    }
}

/// What was written, as a page that was applied.
pub(super) fn page(
    cursor: Cursor,
    more: bool,
    last_sync_date: Timestamp,
    entities: Vec<EntityApplied>,
) -> PageApplied {
    PageApplied {
        cursor,
        more,
        last_sync_date,
        rows: entities.iter().map(|entity| entity.upserts).sum(),
        deleted: entities.iter().map(|entity| entity.deletes).sum(),
        entities,
        withdrawn: Vec::new(),
    }
}
