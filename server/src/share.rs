//! Pages that many callers share: those who ask with the same cursor for the same get the same
//! page, read once.
//!
//! Only pages that go on from a cursor are shared, and only small ones: those of callers who were
//! up to date a moment ago. A page is handed to whoever asks later only where nothing has changed
//! since that it does not hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use highwater_shared::EntityName;
use moka::future::Cache;
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::page::{self, Format, Output, PageRequest, ReadError, Since};
use crate::snapshot::Snapshot;
use crate::watch::{View, Watcher};

/// The largest page that is shared.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Memory for all of them.
const PAGES_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How long a page is kept. Callers who wait ask within moments of each other.
const PAGE_AGE_MAX: Duration = Duration::from_secs(30);

/// Times that a page which has grown old is read again.
const ATTEMPTS_MAX: usize = 2;

/// Chunks of a page that is being read.
const CHUNKS_WAITING_MAX: usize = 4;

/// The pages.
#[derive(Debug)]
pub struct SharedPages(Cache<Question, Arc<SharedPage>>);

/// A page that was read to its end.
#[derive(Debug)]
pub struct SharedPage {
    /// The whole body.
    pub body: Bytes,
    /// Whether it holds no changes.
    pub is_empty: bool,
    snapshot: Snapshot,
}

/// What callers who share a page have asked alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    since: String,
    entities: Option<Vec<EntityName>>,
    limit: u64,
    format: Format,
}

impl Default for SharedPages {
    fn default() -> Self {
        let weight =
            |_: &Question, page: &Arc<SharedPage>| u32::try_from(page.body.len()).unwrap_or(u32::MAX);
        let pages = Cache::builder()
            .weigher(weight)
            .max_capacity(PAGES_BYTES_MAX)
            .time_to_live(PAGE_AGE_MAX);
        Self(pages.build())
    }
}

impl SharedPages {
    /// The page for a request, as of `view` or later. `None` where it cannot be shared, or not be
    /// read; a page of the caller's own tells why.
    pub async fn get(
        &self,
        pool: &PgPool,
        watcher: &Watcher,
        request: &PageRequest,
        view: &View,
    ) -> Option<Arc<SharedPage>> {
        let Since::Cursor(cursor) = &request.since else {
            return None;
        };
        if cursor.pull.is_some() {
            return None;
        }
        let question = Question {
            since: cursor.encode(),
            entities: request.entities.clone(),
            limit: request.limit,
            format: request.format,
        };
        for _ in 0..ATTEMPTS_MAX {
            let read = read(pool, watcher, request);
            let page = self.0.try_get_with_by_ref(&question, read).await.ok()?;
            if view.is_seen_by(&page.snapshot, request.entities.as_deref()) {
                return Some(page);
            }
            self.0.invalidate(&question).await;
        }
        None
    }
}

/// Reads a page to its end, where that is near.
async fn read(pool: &PgPool, watcher: &Watcher, request: &PageRequest) -> Result<Arc<SharedPage>, ReadError> {
    let page = page::open(pool, request.clone()).await?;
    let (is_empty, snapshot) = (page.is_empty(), page.snapshot().clone());
    let (sender, mut chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    let sent = page.send(pool, &watcher.samples, Output::new(request.format, sender));
    let gathered = async move {
        let mut body = BytesMut::new();
        while let Some(chunk) = chunks.recv().await {
            body.extend_from_slice(&chunk?);
            if body.len() > PAGE_BYTES_MAX {
                return Err(ReadError::Abandoned);
            }
        }
        Ok(body.freeze())
    };
    let ((), body) = tokio::join!(sent, gathered);
    Ok(Arc::new(SharedPage {
        body: body?,
        is_empty,
        snapshot,
    }))
}
