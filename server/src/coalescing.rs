//! Has threads stand still for a moment before they listen again, while many rows pass, so that more of them have come.
//!
//! Postgres sends rows in pieces of 8 KiB, each of which wakes a thread, and to fall asleep and be woken is a good part of
//! what it costs to pass such a piece on. Network cards spare the processor in the same way, which is called interrupt
//! coalescing. Who is answered beside such a page may wait [`PAUSE`] longer for each thing that is asked of Postgres; where
//! no page is long, nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How long a thread stands still. What Postgres sends in that time, the buffers of its socket hold.
const PAUSE: Duration = Duration::from_micros(900);

/// The bytes of a page from which on many rows pass. A shorter one has come before a pause would be over.
pub(crate) const BULK_BYTES_MIN: u64 = 64 * 1024;

/// How many pages pass many rows on. Clones count the same pages.
#[derive(Clone, Debug, Default)]
pub struct Coalescing {
    passing: Arc<AtomicUsize>,
}

impl Coalescing {
    /// Stands still for a moment, while many rows pass. For
    /// [`on_thread_park`](tokio::runtime::Builder::on_thread_park) of the runtime that serves; where nothing calls it,
    /// threads are woken for each piece.
    pub fn pause(&self) {
        if self.is_passing() {
            thread::sleep(PAUSE);
        }
    }

    /// Many rows pass until what is returned is dropped.
    pub(crate) fn pass(&self) -> Passing {
        self.passing.fetch_add(1, Ordering::Relaxed);
        Passing(self.clone())
    }

    fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Relaxed) > 0
    }
}

/// Many rows pass on a page.
#[derive(Debug)]
pub(crate) struct Passing(Coalescing);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_pause_until_the_last_page_has_passed() {
        let coalescing = Coalescing::default();
        assert!(!coalescing.is_passing());
        let (one, other) = (coalescing.pass(), coalescing.clone().pass());
        drop(one);
        assert!(coalescing.is_passing());
        drop(other);
        assert!(!coalescing.is_passing());
    }
}
