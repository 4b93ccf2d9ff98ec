//! The offline store: one SQLite file that this process writes and any program may read.
//!
//! [`open`] takes the lock and refuses what is not a store, [`look`] reads beside a writer,
//! [`schema`] knows the store's own tables, [`page`] applies pages, [`checkpoint`] copies the log beside it, [`renew`] ends
//! the renewal of an entity, [`value`] converts. [`view`] is what is compared with the source, [`printed`] converts back for
//! that, and [`mend`] replaces what was found to be wrong. [`past`] knows where the store stood before.

mod block;
mod checkpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod image;
mod look;
mod mend;
mod no_room;
mod objects;
mod open;
mod page;
mod past;
mod printed;
mod renew;
mod reset;
mod row;
mod schema;
mod staged;
mod status;
mod sync_helpers;
mod table;
mod table_sql;
#[cfg(test)]
mod tests;
mod trailer;
mod unique_index;
mod value;
mod view;
mod views;

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use highwater_shared::{EntityName, PageError, PageParser};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::image::{ImageContents, SeedImage, check_image, write_image};
pub(crate) use self::mend::{Mending, MendingPiece, MovesFrom, Standing};
use self::open::{OpenStore, Place};
pub(crate) use self::open::{Vacant, beside, is_store};
use self::page::PageWriter;
pub(crate) use self::past::KeysOf;
#[cfg(test)]
pub(crate) use self::past::PastCursor;
pub use self::reset::{Reset, reset};
pub use self::row::HeldRow;
pub(crate) use self::row::{RowLook, look_for};
pub use self::status::{EntityStatus, StoreStatus, status};
pub(crate) use self::value::key_value;
pub(crate) use self::view::{Compared, Look, RowHashes, View};
use crate::applied::PageApplied;
use crate::error::Error;
use crate::meter::Meter;
use crate::pull::{Order, PageBody, Replica};
use crate::sync_helper::{SourceId, State, SyncHelper};

/// Chunks of a body that wait for SQLite; the network pauses beyond that.
const CHUNKS_WAITING_MAX: usize = 16;

/// An offline copy in one SQLite file, open for writing.
///
/// There is one writer at a time: as long as this value or a clone of it lives, other processes
/// are refused. Readers are never blocked; they may open the file with any SQLite library, and
/// read through this process or beside it.
#[derive(Clone)]
pub struct Store {
    place: Place,
    inner: Arc<Mutex<OpenStore>>,
    /// Held by a pull, so that two of this process do not cross.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What goes from the network to the task that writes.
enum Piece {
    Chunk(Bytes),
    /// The body ended properly. Without this, whatever came is not kept.
    End,
}

impl Store {
    /// Opens the store at `path`; a missing or empty file becomes one.
    ///
    /// Fails without touching the file when it is not a store of this program, when it comes from a
    /// newer version, when it is damaged or cannot be written, or when another process writes to it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        open::open(path.as_ref()).map(Self::new)
    }

    /// Opens the store in a place that was vacant.
    pub(crate) fn begin(place: Vacant) -> Result<Self, Error> {
        Ok(Self::new(place.open()?))
    }

    fn new(open: OpenStore) -> Self {
        Self {
            place: open.place.clone(),
            inner: Arc::new(Mutex::new(open)),
            turn: Arc::default(),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Whether nothing was ever pulled into it. Waits for no page, as [`Store::sync_helpers`] does not.
    pub fn is_new(&self) -> Result<bool, Error> {
        Ok(self.sync_helpers()?.is_empty())
    }

    /// What it remembers of each entity, by name, as of the last page that was committed: it is read beside the writer
    /// and waits for none, so an observer of a pull may ask too.
    pub fn sync_helpers(&self) -> Result<Vec<SyncHelper>, Error> {
        self.place.check()?;
        let helpers = look::at(self.path(), sync_helpers::load)?;
        Ok(helpers.into_values().collect())
    }

    /// Removes the rows of the entities (of all, where none are named) and their SyncHelper rows,
    /// so that their next pull is a full one. Their tables stay, with the indexes on them; a table
    /// that no longer takes the entity's rows is made anew.
    ///
    /// Fails with [`Error::Damaged`] where the file is damaged, and [`reset`] knows what to do then; and with
    /// [`Error::Locked`] while this store is pulled into, whose pages would be taken for all that there is.
    pub fn reset(&self, entities: &[EntityName]) -> Result<Reset, Error> {
        let _turn = self.turn.try_lock().map_err(|_| Error::Locked {
            store: self.place.path.clone(),
        })?;
        self.with(|open| reset::in_place(&mut open.connection, entities))
    }

    /// Waits until no other pull of this process is under way, or for `stop`.
    pub(crate) async fn turn(
        &self,
        stop: &CancellationToken,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::Stopped),
            turn = self.turn.lock() => Ok(turn),
        }
    }

    /// Runs `work` on the open file, and puts the path into SQLite's errors.
    fn with<T>(&self, work: impl FnOnce(&mut OpenStore) -> Result<T, Error>) -> Result<T, Error> {
        // A panic in the middle of a page has rolled its transaction back; the file is whole.
        let mut open = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.place.check()?;
        work(&mut open).map_err(|error| error.in_store(&self.place.path))
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut OpenStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.with(work))
            .await
            .map_err(|error| Error::Task(Box::new(error)))?
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.place.path)
            .finish_non_exhaustive()
    }
}

impl Replica for Store {
    async fn helpers(&self) -> Result<Vec<SyncHelper>, Error> {
        self.blocking(|open| Ok(sync_helpers::load(&open.connection)?.into_values().collect()))
            .await
    }

    async fn apply<B: PageBody + Send>(
        &self,
        order: Order,
        body: B,
        meter: &Meter,
    ) -> Result<PageApplied, Error> {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let meter = meter.clone();
        let mut writing = pin!(self.blocking(move |open| write(open, &order, receiver, &meter)));
        let fed = tokio::select! {
            biased;
            // Done before the body has ended: the writer has failed, and nothing more is wanted.
            applied = &mut writing => return applied,
            fed = feed(body, sender) => fed,
        };
        match (writing.await, fed) {
            // The store saw a page without an end; why there was none, the network knows.
            (Err(Error::Incomplete), Err(error)) => Err(error),
            (applied, _) => applied,
        }
    }

    async fn begin_anew(&self, entity: &EntityName) -> Result<(), Error> {
        let entity = entity.clone();
        self.blocking(move |open| {
            let transaction = open.connection.transaction()?;
            if let Some(helper) = sync_helpers::load(&transaction)?.get_mut(&entity) {
                helper.cursor = None;
                helper.state = State::Waiting;
                sync_helpers::save(&transaction, helper)?;
            }
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    fn other_source(&self, kept: &SourceId, offered: &SourceId) -> Error {
        Error::OtherSource {
            store: self.place.path.clone(),
            kept: kept.as_str().to_owned(),
            offered: offered.as_str().to_owned(),
        }
    }
}

/// Passes a body on, piece by piece, until it ends or nobody wants it any more.
async fn feed<B: PageBody + Send>(mut body: B, sender: mpsc::Sender<Piece>) -> Result<(), Error> {
    while let Some(chunk) = body.chunk().await? {
        if sender.send(Piece::Chunk(chunk)).await.is_err() {
            return Ok(());
        }
    }
    // Whoever no longer listens has failed, and says so.
    let _ = sender.send(Piece::End).await;
    Ok(())
}

/// Parses and applies what arrives, in one transaction.
fn write(
    open: &mut OpenStore,
    order: &Order,
    mut pieces: mpsc::Receiver<Piece>,
    meter: &Meter,
) -> Result<PageApplied, Error> {
    let mut parser = PageParser::new();
    let mut writer = PageWriter::new(&open.connection, order, meter);
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Chunk(chunk)) => parser.push(&chunk, &mut writer).map_err(from_page)?,
            Some(Piece::End) => break,
            None => return Err(Error::Incomplete),
        }
    }
    open.checkpoint.end();
    let applied = writer.finish(&parser.finish().map_err(from_page)?)?;
    if applied.more {
        open.checkpoint.begin(&open.connection, &open.place.path);
    }
    Ok(applied)
}

/// The error that stands for a page, or the like of one, that cannot be used.
pub(crate) fn from_page(error: PageError<Error>) -> Error {
    match error {
        PageError::Incomplete => Error::Incomplete,
        PageError::Sink(error) => error,
        PageError::Malformed(what) => Error::Malformed(what),
        PageError::Version(version) => Error::Malformed(format!(
            "it is in version {version} of the page form, which needs a newer highwater"
        )),
    }
}
