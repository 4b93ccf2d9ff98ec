//! Answers a request for changes: by a page, or, where nothing is new, from what the watcher
//! knows, at once or after a wait.

use std::sync::Arc;
use std::time::Duration;

use highwater_shared::Trailer;
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::page::{self, OpenPage, PageRequest, ReadError, Since};
use crate::share::{SharedPage, SharedPages};
use crate::watch::Watcher;

/// What a request is answered with.
#[derive(Debug)]
pub enum Answer {
    /// A page that is still to be read.
    Page(Box<OpenPage>),
    /// A page that others get as well.
    Shared(Arc<SharedPage>),
    /// Nothing is new: a page with no changes and a fresh cursor.
    Nothing(Trailer),
}

/// Answers a request, and holds it for up to `wait` while nothing is new. `stop` ends waits at
/// once.
pub async fn answer(
    pool: &PgPool,
    watcher: &Watcher,
    pages: &SharedPages,
    request: PageRequest,
    wait: Duration,
    stop: &CancellationToken,
) -> Result<Answer, ReadError> {
    let until = Instant::now() + wait;
    // Begun after the request arrived: who commits and then asks, finds the commit. A first pull
    // needs no more of it than the sample, without which its date would lag.
    let mut view = watcher.fresh().await;
    if request.since == Since::Nothing {
        view = None;
    }
    // What reads a page is boxed: thousands may wait here, and each would hold the room for it.
    loop {
        let is_over = stop.is_cancelled() || Instant::now() >= until;
        let Some(seen) = view else {
            // Nothing is known of the source, or nothing needs to be.
            return Ok(Answer::Page(Box::new(Box::pin(page::open(pool, request)).await?)));
        };
        match seen.nothing_new(&request, &watcher.samples) {
            Some(trailer) if is_over => return Ok(Answer::Nothing(trailer)),
            Some(_) => {}
            None => match Box::pin(pages.get(pool, watcher, &request, &seen)).await {
                Some(page) if is_over || !page.is_empty => return Ok(Answer::Shared(page)),
                Some(_) => {}
                None => {
                    let page = Box::pin(page::open(pool, request.clone())).await?;
                    if is_over || !page.is_empty() {
                        return Ok(Answer::Page(Box::new(page)));
                    }
                    Box::pin(page.let_go()).await?;
                }
            },
        }
        view = tokio::select! {
            biased;
            () = stop.cancelled() => Some(seen),
            changed = watcher.changed(&seen, request.entities.as_deref(), until) => changed,
        };
    }
}
