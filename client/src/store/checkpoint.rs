//! Copies the log of a store into its file beside the page that is written next.
//!
//! SQLite calls it a checkpoint, and makes one at the end of a commit, which waits for it. In a pull of many pages that is
//! a good part of the time, most of it spent in waits for the disk. Any connection may make one while another writes.

use std::path::Path;
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OpenFlags};

use super::schema;

/// Pages of the log after which it is copied into the file: 4 MiB, about what SQLite chooses.
pub(super) const PAGES: i64 = 4 * 1_024 * 1_024 / schema::PAGE_BYTES;

/// The same for a commit in the middle of a pull, which waits: 64 MiB. Where the log has been copied up to the page before,
/// little is left to be done, and the log can begin again.
pub(super) const PAGES_BULK: i64 = 64 * 1_024 * 1_024 / schema::PAGE_BYTES;

/// A checkpoint in a thread of its own, or none.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    under_way: Option<JoinHandle<()>>,
}

impl Checkpoint {
    /// Begins one of what `connection` has committed to the file at `path`, where that is much.
    pub(super) fn begin(&mut self, connection: &Connection, path: &Path) {
        self.end();
        // What fails here or in the thread, the next commit meets as well, and tells.
        if pages_to_copy(connection).is_ok_and(|pages| pages >= PAGES) {
            let path = path.to_owned();
            let thread = thread::Builder::new().name("checkpoint".to_owned());
            self.under_way = thread.spawn(move || drop(copy(&path))).ok();
        }
    }

    /// Waits for the one that is under way. A commit beside it would go without its own, and behind a slow disk the log would
    /// grow and grow.
    pub(super) fn end(&mut self) {
        if let Some(copying) = self.under_way.take() {
            // A panic in it has left the log as it was.
            let _ = copying.join();
        }
    }
}

/// It has the file open, and nobody expects that of a store that is closed.
impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.end();
    }
}

/// The pages of the log that are not in the file yet.
pub(super) fn pages_to_copy(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("pragma wal_checkpoint(noop)", [], |row| {
        Ok(row.get::<_, i64>("log")? - row.get::<_, i64>("checkpointed")?)
    })
}

fn copy(path: &Path) -> rusqlite::Result<()> {
    // Not the default flags, which would make a file where there is none any more.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)?.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    struct Log {
        folder: TempDir,
        connection: Connection,
    }

    impl Log {
        /// A file whose log is copied by nobody, and holds so many pages.
        fn of(pages: i64) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let connection = Connection::open(store_in(&folder)).expect("a file");
            schema::choose_pages(&connection).expect("empty");
            connection
                .execute_batch(
                    "pragma journal_mode = wal; pragma wal_autocheckpoint = 0; create table t (bytes blob)",
                )
                .expect("a table");
            connection
                .execute("insert into t select zeroblob(?1)", [pages * schema::PAGE_BYTES])
                .expect("room");
            Self { folder, connection }
        }

        fn checkpoint_of(&self, path: &Path) -> Checkpoint {
            let mut checkpoint = Checkpoint::default();
            checkpoint.begin(&self.connection, path);
            checkpoint
        }

        fn checkpoint(&self) -> Checkpoint {
            self.checkpoint_of(&store_in(&self.folder))
        }
    }

    fn store_in(folder: &TempDir) -> PathBuf {
        folder.path().join("store.db")
    }

    fn files_in(folder: &TempDir) -> usize {
        folder.path().read_dir().expect("a folder").count()
    }

    #[test]
    fn much_is_copied_to_the_last_page() {
        let log = Log::of(PAGES);
        assert!(pages_to_copy(&log.connection).expect("a log") >= PAGES);
        log.checkpoint().end();
        assert_eq!(pages_to_copy(&log.connection), Ok(0));
    }

    /// Each would wait for the disk, and the next commit for it.
    #[test]
    fn little_is_left_for_later() {
        let log = Log::of(PAGES / 2);
        assert!(log.checkpoint().under_way.is_none());
    }

    #[test]
    fn who_closes_the_file_leaves_no_log_beside_it() {
        let log = Log::of(PAGES);
        let checkpoint = log.checkpoint();
        assert_eq!(files_in(&log.folder), 3);
        drop(checkpoint);
        assert_eq!(pages_to_copy(&log.connection), Ok(0), "it is not waited for");
        let Log { folder, connection } = log;
        drop(connection);
        assert_eq!(files_in(&folder), 1);
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_again() {
        let log = Log::of(PAGES);
        let elsewhere = log.folder.path().join("elsewhere.db");
        let files = files_in(&log.folder);
        log.checkpoint_of(&elsewhere).end();
        assert_eq!(files_in(&log.folder), files);
    }
}
