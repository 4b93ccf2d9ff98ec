//! Counts what arrives, for progress bars. Read from any thread while a page is applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Rows that were written, deletions included.
    pub rows: u64,
    /// Bytes that arrived.
    pub bytes: u64,
}

/// The counters behind [`Progress`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn row(&self) {
        self.counters.rows.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, bytes: usize) {
        self.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Progress {
        Progress {
            rows: self.counters.rows.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes back the rows of a page that was not kept.
    pub(crate) fn set_rows(&self, rows: u64) {
        self.counters.rows.store(rows, Ordering::Relaxed);
    }
}
