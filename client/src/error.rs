//! What can go wrong, in words that say what to do about it.

mod code;

use std::path::PathBuf;
use std::time::Duration;

use highwater_shared::{Code, EntityName, ResyncReason};

/// The cause of an error, for those who want to look deeper.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not be opened, or a pull could not end.
///
/// Nothing of a page is kept when applying it fails, so the same call may be made again.
/// Whether that can help, [`Error::is_retryable`] says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of the server cannot be used.
    #[error("{address:?} is not the address of a server ({reason}); write it like http://127.0.0.1:8080")]
    ServerAddress {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be sent.
    #[error("the token holds characters that an HTTP header cannot carry, such as a line break")]
    Token,
    /// The file that holds the token cannot be used.
    #[error("the token file {} cannot be used: {reason}", file.display())]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the system said, where it said something.
        source: Option<std::io::Error>,
    },
    /// The token would travel where others can read it.
    #[error(
        "the token is not sent to {server}, where anyone on the way could read it; use https://, or say --token-over-http where the network is known to be safe"
    )]
    TokenOverHttp {
        /// The server's address.
        server: String,
    },
    /// The file with the certificates of authorities cannot be used.
    #[error("the certificate file {} cannot be used: {reason}", file.display())]
    CaCert {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the system said, where it said something.
        source: Option<std::io::Error>,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up HTTP: {0}")]
    Http(#[source] Cause),
    /// Nothing answered at the server's address.
    #[error("cannot reach {server}: {reason}; is highwater-server running?")]
    Unreachable {
        /// The server's address.
        server: String,
        /// What the attempt ended with.
        reason: String,
        /// The error of the HTTP client.
        source: Cause,
    },
    /// There is no TLS with the server, or its certificate is not believed.
    #[error("no secure connection to {server}: {reason}")]
    Tls {
        /// The server's address.
        server: String,
        /// What is wrong, and what to do.
        reason: String,
        /// Whether that may change without anyone changing anything here.
        may_pass: bool,
        /// The error of the HTTP client.
        source: Cause,
    },
    /// The server does not know the caller.
    #[error("{server} refused: {detail} (unauthenticated, status 401); {remedy}")]
    Unauthenticated {
        /// The server's address.
        server: String,
        /// What the server said.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// The response stopped before its end.
    #[error("the response of {server} broke off: {reason}; nothing of it was kept")]
    Cut {
        /// The server's address.
        server: String,
        /// What it ended with.
        reason: String,
        /// The error of the HTTP client.
        source: Cause,
    },
    /// The response ended before its trailer.
    #[error("the response ended before its trailer line; nothing of it was kept")]
    Incomplete,
    /// The server answered with a problem.
    #[error("{}", refusal(*status, *code, detail))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem's code, where the server gave one.
        code: Option<Code>,
        /// The problem's detail.
        detail: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// What answered is not a Highwater server.
    #[error("{server} does not answer like a highwater-server: {found}; is the address right?")]
    NotHighwater {
        /// The server's address.
        server: String,
        /// What was found instead.
        found: String,
    },
    /// The server sent the request elsewhere.
    #[error("{server} redirects elsewhere, which is not followed: {reason}")]
    Redirected {
        /// The server's address.
        server: String,
        /// Where to, and why not.
        reason: String,
    },
    /// The server answered with something that is not a page.
    #[error("the server sent a page that cannot be used: {0}; nothing of it was kept")]
    Malformed(String),
    /// The server's cursor does not move.
    #[error("the server keeps announcing more pages, and none of them brings the pull on")]
    Stalled,
    /// A cursor cannot be served; the pull begins anew by itself.
    #[error("the server cannot serve the cursor ({reason:?})")]
    Resync {
        /// Why not, where the server said it.
        reason: Option<ResyncReason>,
        /// Whether it may serve an earlier one.
        earlier: bool,
    },
    /// The store stands where it cannot be compared with its source.
    #[error("the store cannot be compared: {reason}; `highwater pull` first")]
    PullFirst {
        /// Why not.
        reason: String,
    },
    /// The text is no key of the entity.
    #[error("{reason}; a key is written 7, id=7, a=1,b=x, or as a JSON object")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// The store holds the copy of another database.
    #[error(
        "{} is a copy of the database {kept}, the server speaks for {offered}; use another store, or `highwater reset` to begin anew",
        store.display()
    )]
    OtherSource {
        /// The store.
        store: PathBuf,
        /// The own id of the database that the store was filled from.
        kept: String,
        /// The own id of the database behind the server.
        offered: String,
    },
    /// The columns of an entity are no longer those of its table; the pull renews it by itself.
    #[error("the columns of {entity} have changed; `highwater reset --entity {entity}` begins it anew")]
    SchemaChanged {
        /// The entity.
        entity: EntityName,
    },
    /// An entity with many rows is to begin anew; the pull compares it with the source first, by itself.
    #[error("{entity} is to begin anew")]
    BeginsAnew {
        /// The entity.
        entity: EntityName,
    },
    /// A row meets a unique index that the user added.
    #[error(
        "a row of {entity} does not fit the unique index {index} of the store; nothing was changed; drop the index or make it not unique"
    )]
    UniqueIndex {
        /// The entity.
        entity: EntityName,
        /// The index, or the columns it is over.
        index: String,
        /// The error of SQLite.
        source: Box<rusqlite::Error>,
    },
    /// The name of an entity is taken by a table or view of the user's.
    #[error(
        "the store has a {kind} called {entity} that is not Highwater's; rename it, or leave {entity} out"
    )]
    NameTaken {
        /// The entity.
        entity: EntityName,
        /// What SQLite calls the thing that has the name.
        kind: String,
    },
    /// Deleted rows of the entity cannot be kept.
    #[error("{entity} has a column called deleted of its own, so --keep-deleted cannot flag its rows")]
    KeepDeleted {
        /// The entity.
        entity: EntityName,
    },
    /// The table of an entity is gone.
    #[error(
        "the table of {entity} is missing from the store; `highwater reset --entity {entity}` begins it anew"
    )]
    TableMissing {
        /// The entity.
        entity: EntityName,
    },
    /// The table of an entity no longer takes the entity's rows.
    #[error(
        "rows of {entity} cannot be written ({source}): its table in the store, or a trigger on it, was changed; mend it, or have `highwater reset --entity {entity}` make the table anew"
    )]
    TableAltered {
        /// The entity.
        entity: EntityName,
        /// The error of SQLite.
        source: Box<rusqlite::Error>,
    },
    /// The store holds no entity of this name.
    #[error("the store holds no entity {entity}; `highwater status` lists those it holds")]
    UnknownEntity {
        /// The name that was asked for.
        entity: EntityName,
    },
    /// Another process writes to the store, or another pull of this one.
    #[error("{} is in use by another highwater; one at a time may write to a store", store.display())]
    Locked {
        /// The store.
        store: PathBuf,
    },
    /// The store cannot be opened.
    #[error("cannot open the store {}: {reason}", store.display())]
    Open {
        /// The store.
        store: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
        /// What the system said, where it said something.
        source: Option<Cause>,
    },
    /// The store's file is damaged.
    #[error(
        "the store {} is damaged ({reason}); `highwater reset` moves the file aside, and the next pull fills a new one",
        store.display()
    )]
    Damaged {
        /// The store.
        store: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The error of SQLite, where it was SQLite that noticed.
        source: Option<Box<rusqlite::Error>>,
    },
    /// SQLite failed on the store.
    #[error("the store {} cannot be used: {reason}", store.display())]
    Store {
        /// The store.
        store: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
        /// The error of SQLite.
        source: Box<rusqlite::Error>,
    },
    /// SQLite failed; becomes [`Error::Store`] where the path is known.
    #[error(transparent)]
    Sqlite(#[from] Box<rusqlite::Error>),
    /// The pull was asked to stop.
    #[error("stopped before the end; what was committed stays, and the next pull goes on from there")]
    Stopped,
    /// A seed cannot be used, or not be made.
    #[error("the seed {seed} cannot be used: {reason}")]
    Seed {
        /// The file or the address.
        seed: String,
        /// What is wrong with it.
        reason: String,
        /// What the system or the network said, where they said something.
        source: Option<Cause>,
    },
    /// A task that writes to the store ended unexpectedly.
    #[error("the task that writes to the store ended unexpectedly")]
    Task(#[source] Cause),
}

impl Error {
    /// Whether the same call may succeed later, without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } | Self::Incomplete => true,
            Self::Tls { may_pass, .. } => *may_pass,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::Store { source, .. } | Self::Sqlite(source) => is_busy(source),
            _ => false,
        }
    }

    /// Whether the pull was stopped from outside rather than by a fault.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped)
    }

    /// How long the server asks to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// How long to wait before the next attempt: as long as the server asks, up to a bound, and the jittered
    /// delay on top of it, so that a fleet does not return in one moment.
    pub(crate) fn delay(&self, jittered: Duration, retry_after_max: Duration) -> Duration {
        jittered + self.retry_after().unwrap_or_default().min(retry_after_max)
    }

    /// Whether there was no room on the disk, or too little.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Store { source, .. } | Self::Sqlite(source) => is_full(source),
            _ => false,
        }
    }

    /// The same error with the path of the store that SQLite failed on.
    pub(crate) fn in_store(self, store: &std::path::Path) -> Self {
        match self {
            Self::Sqlite(source) if is_damage(&source) => Self::Damaged {
                store: store.to_owned(),
                reason: source.to_string(),
                source: Some(source),
            },
            Self::Sqlite(source) => Self::Store {
                store: store.to_owned(),
                reason: advice(&source),
                source,
            },
            other => other,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Box::new(error))
    }
}

/// Whether another program holds the file's lock for the moment.
fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

/// Whether the file is not what SQLite, or this program, once wrote.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, InvalidColumnType};
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        || matches!(error, FromSqlConversionFailure(..) | InvalidColumnType(..))
}

/// Whether there was no room for what SQLite wanted to write.
fn is_full(error: &rusqlite::Error) -> bool {
    let Some(error) = error.sqlite_error() else {
        return false;
    };
    // Said of the log's index, which readers share: it is the one file that SQLite makes room for
    // before it is written.
    error.code == rusqlite::ErrorCode::DiskFull || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
}

/// What SQLite said, and what to do about it where something can be done.
pub(crate) fn advice(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode as Sqlite;
    let what = match error.sqlite_error_code() {
        _ if is_full(error) => "the disk is full; make room, and try again",
        Some(Sqlite::ReadOnly) => {
            "the file or its folder is read-only; give this user the right to write both"
        }
        Some(Sqlite::SystemIoFailure) => "the disk cannot be read or written; look after it, and try again",
        Some(Sqlite::DatabaseBusy | Sqlite::DatabaseLocked) => "another program is writing to it; try again",
        Some(Sqlite::CannotOpen) => {
            "the file cannot be opened; is it a file, in a folder that may be written to?"
        }
        _ => return error.to_string(),
    };
    format!("{what} ({error})")
}

fn refusal(status: u16, code: Option<Code>, detail: &str) -> String {
    let remedy = match status {
        403 => "; use a token that may, or leave out with --entity what this one may not",
        _ => "",
    };
    match code {
        Some(code) => {
            let code = code.name();
            format!("the server refused: {detail} ({code}, status {status}){remedy}")
        }
        None => format!("the server refused with status {status}: {detail}{remedy}"),
    }
}
