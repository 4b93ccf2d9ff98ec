//! What can be chosen of a server.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use highwater_shared::digests::DIGESTS_BODY_BYTES_MAX;

use super::browsers::Origin;
use super::tls::TlsFiles;
use crate::auth::Authenticator;
use crate::coalescing::Coalescing;
use crate::limit::{PageBounds, TransactionBounds};

/// What can be chosen of a server. The default is what `highwater-server serve` does without options.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How often the source is looked at while somebody waits: a change reaches those who wait that
    /// much later at most.
    pub tick: Duration,
    /// The most requests that are answered at one time; those who wait are not among them.
    pub requests_max: usize,
    /// How long a request may take until its answer begins, beside the wait that its caller wishes.
    pub request_time_max: Duration,
    /// The most callers who may wait.
    pub waiting_max: usize,
    /// The most requests of one caller that may wait; as many as there is room for where `None`. For
    /// callers who were asked who they are.
    pub caller_waiting_max: Option<usize>,
    /// The most requests a second of one caller, and as many at once; without a bound where `None`. For
    /// callers who were asked who they are.
    pub caller_requests_per_second: Option<NonZeroU32>,
    /// The most rows of a page.
    pub page_rows_max: u64,
    /// What bounds a page besides.
    pub page: PageBounds,
    /// What bounds the transactions in Postgres.
    pub transaction: TransactionBounds,
    /// The most requests for digests that are answered at one time: each is a scan, and holds a connection for as
    /// long.
    pub digests_max: usize,
    /// How long digests may take, from the snapshot until the last of them is sent.
    pub digests_time_max: Duration,
    /// Whether the pool leads to a pooler that lends connections to Postgres for one transaction each; see
    /// [`crate::pooler`].
    pub is_pooled: bool,
    /// Knows while long pages pass: the threads of the runtime pause by it, see [`Coalescing::pause`].
    pub coalescing: Coalescing,
    /// Tells who callers are. Without one, nobody is asked, and everybody may read everything.
    pub authenticator: Option<Arc<Authenticator>>,
    /// The certificate to show and its key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// The most connections that are open at one time; further ones wait to be accepted. Not fewer
    /// than requests and callers who wait together, or these limits cannot be reached.
    pub connections_max: usize,
    /// How long a caller may take until its first request has come, with TLS and all.
    pub header_time_max: Duration,
    /// The largest head of a request, address and headers together.
    pub header_bytes_max: usize,
    /// The longest address. The HTTP library takes none that is longer than [`URL_BYTES_MAX`].
    pub url_bytes_max: usize,
    /// The largest body that a request may announce. None is read.
    pub body_bytes_max: u64,
    /// How long a connection may stay open on which nothing is asked.
    pub idle_time_max: Duration,
    /// The most devices that are remembered; none are where it is 0.
    pub devices_max: usize,
    /// The origins whose pages may ask.
    pub cors_origins: Vec<Origin>,
}

/// The longest address that can be taken, in bytes.
pub const URL_BYTES_MAX: usize = 65_534;

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            requests_max: 1_024,
            request_time_max: Duration::from_mins(1),
            waiting_max: 20_000,
            caller_waiting_max: None,
            caller_requests_per_second: None,
            page_rows_max: 100_000,
            page: PageBounds::default(),
            transaction: TransactionBounds::default(),
            digests_max: 4,
            digests_time_max: Duration::from_mins(10),
            is_pooled: false,
            coalescing: Coalescing::default(),
            authenticator: None,
            tls: None,
            connections_max: 32_000,
            header_time_max: Duration::from_secs(10),
            header_bytes_max: 96 * 1024,
            url_bytes_max: URL_BYTES_MAX,
            body_bytes_max: DIGESTS_BODY_BYTES_MAX as u64,
            idle_time_max: Duration::from_secs(75),
            devices_max: 10_000,
            cors_origins: Vec::new(),
        }
    }
}

impl ServeOptions {
    /// What is wrong with options that contradict each other, and what to do.
    pub fn contradiction(&self) -> Option<String> {
        let (page, transaction) = (self.page, self.transaction);
        let statement_min = page.time_max.saturating_add(page.send_wait_max);
        if transaction.statement_time_max <= statement_min {
            return Some(format!(
                "--statement-time-max ({:?}) must be longer than --page-time-max ({:?}) and --send-wait-max ({:?}) \
                 together: while the reader of a page is slow, its statement goes on; without that, pages of slow \
                 readers would break off",
                transaction.statement_time_max, page.time_max, page.send_wait_max
            ));
        }
        (transaction.idle_time_max <= page.send_wait_max).then(|| {
            format!(
                "--transaction-idle-time-max ({:?}) must be longer than --send-wait-max ({:?}): while a reader \
                 stands still, the transaction of its page may too",
                transaction.idle_time_max, page.send_wait_max
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_may_last_as_long_as_a_slow_reader_and_the_defaults_agree() {
        assert_eq!(ServeOptions::default().contradiction(), None);
        let mut options = ServeOptions::default();
        options.transaction.statement_time_max = options.page.time_max + options.page.send_wait_max;
        assert!(options.contradiction().unwrap().contains("--statement-time-max"));
        let mut options = ServeOptions::default();
        options.page.send_wait_max = options.transaction.idle_time_max;
        options.transaction.statement_time_max = Duration::from_hours(1);
        assert!(
            options
                .contradiction()
                .unwrap()
                .contains("--transaction-idle-time-max")
        );
    }
}
