//! How often what broke off is tried again, and when.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use super::compare::Observer;
use crate::error::Error;
use crate::pull::Event;

/// The longest wait that a server's `Retry-After` is followed for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Attempts at requests of one comparison. Those that are left are for failures in a row.
pub(crate) struct Patience {
    retries: ExponentialBuilder,
    delays: ExponentialBackoff,
    observer: Observer,
}

impl Patience {
    pub(crate) fn new(retries: ExponentialBuilder, observer: Observer) -> Self {
        Self {
            retries,
            delays: retries.build(),
            observer,
        }
    }

    /// Waits before another attempt. Without attempts left, or where none can help, the error is returned.
    pub(super) async fn wait(&mut self, error: Error) -> Result<(), Error> {
        let delay = if error.is_retryable() {
            self.delays.next()
        } else {
            None
        };
        let Some(delay) = delay else {
            return Err(error);
        };
        let delay = error.delay(delay, RETRY_AFTER_MAX);
        (self.observer)(Event::Retrying { error: &error, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Something was answered.
    pub(super) fn renew(&mut self) {
        self.delays = self.retries.build();
    }
}
