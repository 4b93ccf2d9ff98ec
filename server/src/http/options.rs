//! What can be chosen of a server.

use std::sync::Arc;
use std::time::Duration;

use super::browsers::Origin;
use super::tls::TlsFiles;
use crate::auth::Authenticator;
use crate::page::{DIGESTS_TIME_MAX, PAGE_TIME_MAX, SEND_WAIT_MAX};

/// What can be chosen of a server. The default is what `highwater-server serve` does without options.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How often the source is looked at while somebody waits: a change reaches those who wait that
    /// much later at most.
    pub tick: Duration,
    /// The most requests that are answered at one time; those who wait are not among them.
    pub requests_max: usize,
    /// The most callers who may wait.
    pub waiting_max: usize,
    /// A page ends where it stands after this time.
    pub page_time_max: Duration,
    /// How long digests may take, from the snapshot until the last of them is sent.
    pub digests_time_max: Duration,
    /// How long a reader may stand still in the middle of a page before it is cut off.
    pub send_wait_max: Duration,
    /// Tells who callers are. Without one, nobody is asked, and everybody may read everything.
    pub authenticator: Option<Arc<Authenticator>>,
    /// The certificate to show and its key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// The most connections that are open at one time; further ones wait to be accepted. Not fewer
    /// than requests and callers who wait together, or these limits cannot be reached.
    pub connections_max: usize,
    /// How long a caller may take until its first request has come, with TLS and all.
    pub header_time_max: Duration,
    /// The largest head of a request, address and headers together. Addresses have a limit of 64 KiB
    /// besides.
    pub header_bytes_max: usize,
    /// How long a connection may stay open on which nothing is asked.
    pub idle_time_max: Duration,
    /// The origins whose pages may ask.
    pub cors_origins: Vec<Origin>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            requests_max: 1_024,
            waiting_max: 20_000,
            page_time_max: PAGE_TIME_MAX,
            digests_time_max: DIGESTS_TIME_MAX,
            send_wait_max: SEND_WAIT_MAX,
            authenticator: None,
            tls: None,
            connections_max: 32_000,
            header_time_max: Duration::from_secs(10),
            header_bytes_max: 96 * 1024,
            idle_time_max: Duration::from_secs(75),
            cors_origins: Vec::new(),
        }
    }
}
