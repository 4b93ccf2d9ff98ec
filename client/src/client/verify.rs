//! Comparing the store with its source, and mending it, as the library's front has it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use highwater_shared::EntityName;
use tokio_util::sync::CancellationToken;

use super::{Client, ClientBuilder, PULL_RETRIES_MAX, retries};
use crate::applied::PageApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Event, Writing};
use crate::remote::HttpRemote;
use crate::verify::{Depth, EntityVerified, Observer, Verification, VerifyReport, mend};

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
        verify(
            &remote,
            path.as_ref(),
            self.entities.as_deref(),
            depth,
            &self.observer,
            stop,
        )
        .await
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
        let entities = self.entities.as_deref();
        verify(&remote, self.store.path(), entities, depth, &self.observer, stop).await
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
        let _turn = self.store.turn().await;
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
        let entities: Vec<EntityName> = differing.into_iter().map(|found| found.entity).collect();
        let mended = Self {
            entities: Some(entities),
            ..self.clone()
        };
        let after = mended.verify(depth, stop).await?;
        report.repaired = Some(after.is_equal());
        report.bytes += meter.read().bytes + after.bytes;
        report.elapsed = begun.elapsed();
        Ok(report)
    }

    /// Replaces what differs; what can be tried again is.
    async fn mend(&self, differing: &[EntityVerified], meter: &Meter) -> Result<(), Error> {
        use backon::BackoffBuilder as _;
        let remote = self.remote.to_patient()?;
        let helpers = self.store.sync_helpers()?;
        let source = helpers.iter().find_map(|helper| helper.source.as_ref());
        let mut delays = retries().with_max_times(PULL_RETRIES_MAX).build();
        let mut writing = Writing::InPlace;
        let applied = loop {
            match mend(&remote, &self.store, source, differing, writing, meter).await {
                Ok(applied) => break applied,
                Err(Error::UniqueIndex { .. }) if writing == Writing::InPlace => {
                    writing = Writing::DeletesFirst;
                }
                Err(error) if error.is_retryable() => {
                    let Some(delay) = delays.next() else {
                        return Err(error);
                    };
                    (self.observer)(Event::Retrying { error: &error, delay });
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
        };
        let stands = helpers.iter().find(|helper| helper.cursor.is_some());
        if let Some((helper, cursor)) = stands.and_then(|helper| Some((helper, helper.cursor.clone()?))) {
            let page = PageApplied {
                cursor,
                more: false,
                last_sync_date: helper.last_sync_date,
                rows: applied.iter().map(|entity| entity.upserts).sum(),
                deleted: applied.iter().map(|entity| entity.deletes).sum(),
                entities: applied,
            };
            (self.observer)(Event::Applied(&page));
            // Nobody may be listening, which is fine.
            let _ = self.applied.send(Arc::new(page));
        }
        Ok(())
    }
}

async fn verify(
    remote: &HttpRemote,
    store: &Path,
    wanted: Option<&[EntityName]>,
    depth: Depth,
    observer: &Observer,
    stop: &CancellationToken,
) -> Result<VerifyReport, Error> {
    let verification = Verification {
        remote,
        store,
        wanted,
        depth,
        retries: retries().with_max_times(PULL_RETRIES_MAX),
        observer: Arc::clone(observer),
        stop,
    };
    verification.run().await
}
