//! Answers a request for changes: by a page, or, where nothing is new, from what the watcher
//! knows, at once or after a wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::page::{self, OpenPage, Opened, PageRequest, Pieces, ReadError, WholePage};
use crate::scope::Limits;
use crate::share::{Handed, SharedPages};
use crate::turns::Turn;
use crate::watch::Watcher;

/// What a request is answered with.
#[derive(Debug)]
pub enum Answer {
    /// A page that is still to be read.
    Page(Box<OpenPage>),
    /// A page that is being read.
    UnderWay(Pieces),
    /// A page that others get as well.
    Shared(Arc<WholePage>),
    /// Nothing is new: a page with no changes.
    Nothing(Arc<WholePage>),
}

/// Answers a request, and holds it for up to `wait` while nothing is new, without its turn. `stop`
/// ends waits at once.
pub async fn answer(
    node: &Arc<Node>,
    watcher: &Arc<Watcher>,
    pages: &SharedPages,
    request: PageRequest,
    wait: Duration,
    turn: &mut Turn,
    stop: &CancellationToken,
) -> Result<Answer, ReadError> {
    let until = Instant::now() + wait;
    turn.resume().await;
    let (mut view, mut is_fresh) = match watcher.latest() {
        // The next look is near, and wakes.
        Some(latest) if !wait.is_zero() => (Some(latest), false),
        // Begun after the request arrived: who commits and then asks, finds the commit.
        _ => (watcher.fresh().await, true),
    };
    // What asks Postgres is boxed: thousands may wait here, and each would hold the room for it.
    loop {
        // Where nothing is known of the source there is nothing to wait for.
        let is_over = view.is_none() || stop.is_cancelled() || Instant::now() >= until;
        let limits = match &view {
            Some(view) if !request.caller.is_unrestricted() => {
                Box::pin(node.limits(view.entities(), &request.caller, None)).await?
            }
            _ => Limits::default(),
        };
        // What the watcher knows and what others asked for says nothing of other cursors.
        let can_share = request.held.is_empty();
        let known = match &view {
            Some(view) if can_share => view.nothing_new(&request, &limits, &watcher.samples)?,
            _ => None,
        };
        if let Some(page) = known {
            if is_over {
                return Ok(Answer::Nothing(page));
            }
        } else {
            let shared = match &view {
                Some(view) if can_share => Box::pin(pages.get(node, watcher, &request, view, &limits)).await,
                _ => None,
            };
            match shared {
                Some(Handed::UnderWay(pieces)) => return Ok(Answer::UnderWay(pieces)),
                Some(Handed::Whole(page)) if is_over || !page.is_empty => return Ok(Answer::Shared(page)),
                Some(Handed::Whole(_)) => {}
                None => match Box::pin(page::open(node, request.clone())).await? {
                    Opened::Page(page) if is_over || !page.is_empty() => return Ok(Answer::Page(page)),
                    Opened::Page(page) => Box::pin(page.let_go()).await?,
                    Opened::Behind(trailer) if is_over => {
                        let page = WholePage::empty(request.format, &trailer)?;
                        return Ok(Answer::Nothing(Arc::new(page)));
                    }
                    Opened::Behind(_) => {}
                },
            }
        }
        if let Err(refused) = turn.rest() {
            // Unless it was not the latest that it has been told, there is nothing to tell it.
            if is_fresh {
                return Err(refused);
            }
            (view, is_fresh) = (watcher.fresh().await, true);
            continue;
        }
        view = match view {
            None => None,
            Some(seen) => tokio::select! {
                biased;
                () = stop.cancelled() => Some(seen),
                changed = watcher.changed(&seen, &request.entities, &limits, until) => changed,
            },
        };
        turn.resume().await;
    }
}
