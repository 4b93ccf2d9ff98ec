//! Pages that many callers share: those who ask with the same cursor for the same get the same
//! page, read once.
//!
//! Small pages are shared from the first: those of callers who were up to date a moment ago.
//! Larger ones, of first pulls, are kept only where the same was asked a moment before, as by a
//! fleet that starts at once. Whoever asks first gets the page while it is read, the others when
//! it is whole. It is handed to whoever asks later only where nothing has changed since that it
//! does not hold; in the middle of a pull, whose target stands, it always is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use moka::future::Cache;
use moka::ops::compute::Op;
use tokio::sync::{mpsc, oneshot};

use crate::node::Node;
use crate::page::{
    self, Asked, Format, OpenPage, Opened, Output, PageRequest, Piece, Pieces, ReadError, Since, Takes,
    WholePage,
};
use crate::scope::Limits;
use crate::snapshot::Snapshot;
use crate::watch::{View, Watcher};

/// The largest page that is shared from the first.
const SMALL_PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The largest page that is shared.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Memory for all of them.
const PAGES_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How long a page is kept. Callers who wait ask within moments of each other.
const PAGE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long it is remembered that something was asked, and for how many questions.
const QUESTION_AGE_MAX: Duration = Duration::from_secs(10);
const QUESTIONS_MAX: u64 = 10_000;

/// Times that a page which has grown old is read again.
const ATTEMPTS_MAX: usize = 2;

/// Pieces that wait to be gathered, and that wait for whoever gets the page first: there all of a page
/// that is shared, so that nobody waits for a slow reader.
const PIECES_WAITING_MAX: usize = 4;
const PIECES_HANDED_ON_MAX: usize = 40;

/// The pages.
#[derive(Debug)]
pub struct SharedPages {
    pages: Cache<Question, Arc<SharedPage>>,
    /// Questions whose pages are kept once they are asked again.
    asked: Cache<Question, ()>,
}

/// A page that is kept.
#[derive(Debug)]
struct SharedPage {
    page: Arc<WholePage>,
    snapshot: Snapshot,
}

/// A page that a caller shares with others.
#[derive(Debug)]
pub enum Handed {
    /// It was read before, or for another caller.
    Whole(Arc<WholePage>),
    /// It is read for this caller first, and holds changes.
    UnderWay(Pieces),
}

/// What callers who share a page have asked alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    /// A cursor; nothing for a first pull.
    since: Option<String>,
    takes: Takes,
    entities: Asked,
    /// Who is limited shares with those alone who are limited alike.
    is_unrestricted: bool,
    limits: Limits,
    limit: u64,
    format: Format,
}

impl Default for SharedPages {
    fn default() -> Self {
        let weight = |_: &Question, shared: &Arc<SharedPage>| {
            u32::try_from(shared.page.body.len()).unwrap_or(u32::MAX)
        };
        let pages = Cache::builder()
            .weigher(weight)
            .max_capacity(PAGES_BYTES_MAX)
            .time_to_live(PAGE_AGE_MAX);
        let asked = Cache::builder()
            .max_capacity(QUESTIONS_MAX)
            .time_to_live(QUESTION_AGE_MAX);
        Self {
            pages: pages.build(),
            asked: asked.build(),
        }
    }
}

impl SharedPages {
    /// How many pages are kept, and their bytes, more or less.
    pub fn kept(&self) -> [u64; 2] {
        [self.pages.entry_count(), self.pages.weighted_size()]
    }

    /// The page for a request, as of `view` or later. `None` where it cannot be shared, or not be
    /// read; a page of the caller's own tells why.
    pub async fn get(
        &self,
        node: &Arc<Node>,
        watcher: &Arc<Watcher>,
        request: &PageRequest,
        view: &View,
        limits: &Limits,
    ) -> Option<Handed> {
        let since = match &request.since {
            Since::Nothing => None,
            Since::Date(_) => return None,
            Since::Cursor(cursor) => Some(cursor.encode()),
        };
        let is_midway = request.since.is_midway();
        let is_small = since.is_some() && !is_midway;
        let bytes_max = if is_small {
            SMALL_PAGE_BYTES_MAX
        } else {
            PAGE_BYTES_MAX
        };
        let question = Question {
            since,
            takes: request.takes,
            entities: request.entities.clone(),
            is_unrestricted: request.caller.is_unrestricted(),
            limits: limits.clone(),
            limit: request.limit,
            format: request.format,
        };
        if !is_small && !self.asked.contains_key(&question) {
            self.asked.insert(question, ()).await;
            return None;
        }
        for _ in 0..ATTEMPTS_MAX {
            let (first, led) = oneshot::channel();
            let was_at_hand = Arc::new(AtomicBool::new(true));
            let read = {
                let (node, watcher) = (Arc::clone(node), Arc::clone(watcher));
                let (request, limits) = (request.clone(), limits.clone());
                let was_at_hand = Arc::clone(&was_at_hand);
                async move {
                    was_at_hand.store(false, Ordering::Relaxed);
                    node.metrics.shared(false);
                    // Boxed when it begins, which it does for one of all who ask: thousands may at one moment, and
                    // each would hold the room for it.
                    Box::pin(read(node, watcher, request, limits, bytes_max, first)).await
                }
            };
            let (pages, asked) = (self.pages.clone(), question.clone());
            let mut reading = Box::pin(async move { pages.try_get_with(asked, read).await });
            let shared = tokio::select! {
                biased;
                Ok(pieces) = led => {
                    // The others wait for the end of it, whatever becomes of this caller.
                    tokio::spawn(reading);
                    return Some(Handed::UnderWay(pieces));
                }
                shared = &mut reading => shared.ok()?,
            };
            if is_midway || view.is_seen_by(&shared.snapshot, &request.entities, limits) {
                if was_at_hand.load(Ordering::Relaxed) {
                    node.metrics.shared(true);
                }
                return Some(Handed::Whole(Arc::clone(&shared.page)));
            }
            // Another caller may have put a newer one in its place.
            let stale = |entry: Option<moka::Entry<_, Arc<SharedPage>>>| {
                let is_stale = entry.is_some_and(|entry| Arc::ptr_eq(entry.value(), &shared));
                std::future::ready(if is_stale { Op::Remove } else { Op::Nop })
            };
            self.pages.entry(question.clone()).and_compute_with(stale).await;
        }
        None
    }
}

/// Reads a page to its end, where that is near, and hands what it reads to who asked first as it
/// comes.
async fn read(
    node: Arc<Node>,
    watcher: Arc<Watcher>,
    request: PageRequest,
    limits: Limits,
    bytes_max: usize,
    first: oneshot::Sender<Pieces>,
) -> Result<Arc<SharedPage>, ReadError> {
    let (format, send_wait_max) = (request.format, request.bounds.send_wait_max);
    let page: OpenPage = match page::open(&node, request).await? {
        Opened::Page(page) => *page,
        Opened::Behind(_) => return Err(ReadError::Abandoned),
    };
    if *page.limits() != limits {
        // An entity or a scope came or went meanwhile, and those who share may differ in it.
        page.let_go().await?;
        return Err(ReadError::Abandoned);
    }
    let (is_empty, snapshot) = (page.is_empty(), page.snapshot().clone());
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let output = Output::new(format, sender, send_wait_max);
    tokio::spawn(async move { page.send(&node, &watcher.samples, output).await });
    let (handed_on, to_first) = mpsc::channel(PIECES_HANDED_ON_MAX);
    if !is_empty {
        // Where it is gone, the others still want the page.
        let _ = first.send(to_first);
    }
    let mut body = BytesMut::new();
    while let Some(piece) = pieces.recv().await {
        let more = piece.as_ref().map_or(usize::MAX, |piece| piece.bytes().len());
        if more > bytes_max - body.len() {
            tokio::spawn(async move {
                let mut next = Some(piece);
                while let Some(piece) = next
                    && handed_on.send(piece).await.is_ok()
                {
                    next = pieces.recv().await;
                }
            });
            return Err(ReadError::Abandoned);
        }
        let piece = piece?;
        body.extend_from_slice(piece.bytes());
        let is_last = matches!(piece, Piece::Last(_));
        let _ = handed_on.send(Ok(piece)).await;
        if is_last {
            let page = Arc::new(WholePage::new(body.freeze(), is_empty));
            return Ok(Arc::new(SharedPage { page, snapshot }));
        }
    }
    Err(ReadError::Abandoned)
}
