//! What can be chosen of a server.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Authenticator;
use crate::page::{PAGE_TIME_MAX, SEND_WAIT_MAX};

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
    /// How long a reader may stand still in the middle of a page before it is cut off.
    pub send_wait_max: Duration,
    /// Tells who callers are. Without one, nobody is asked, and everybody may read everything.
    pub authenticator: Option<Arc<Authenticator>>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            requests_max: 1_024,
            waiting_max: 20_000,
            page_time_max: PAGE_TIME_MAX,
            send_wait_max: SEND_WAIT_MAX,
            authenticator: None,
        }
    }
}
