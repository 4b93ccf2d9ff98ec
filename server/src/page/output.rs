//! The body of a response while it is written: blocks or JSON, in chunks of bounded size, to a
//! reader that may be slow, but not for ever.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use highwater_shared::block::{BLOCK_VERSION, END_OF_BLOCK};
use highwater_shared::{BlockHeader, BlockKind, Change, Reason, Trailer, copy_text};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::sql::{Layout, columns};
use super::{Format, ReadError};
use crate::entity::Entity;

/// Bytes that are gathered before they are handed over, and of the first ones, so that the reader
/// can begin; each later chunk is twice as large.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
const CHUNK_BYTES_FIRST: usize = 16 * 1024;

/// What stands between two JSON changes.
const SEPARATOR: &[u8] = b",\n";

/// A page that is at hand from its first byte to its last.
#[derive(Debug)]
pub struct WholePage {
    /// All of it.
    pub body: Bytes,
    /// Whether it holds no changes.
    pub is_empty: bool,
    /// Names the body, once somebody has asked: most pages that are kept nobody asks for again.
    tag: OnceLock<String>,
}

impl WholePage {
    /// A page that was read to its end.
    pub fn new(body: Bytes, is_empty: bool) -> Self {
        Self {
            body,
            is_empty,
            tag: OnceLock::new(),
        }
    }

    /// A page without changes.
    pub fn empty(format: Format, trailer: &Trailer) -> Result<Self, ReadError> {
        let mut body = BytesMut::from(start(format));
        body.extend_from_slice(&end(format, trailer)?);
        Ok(Self::new(body.freeze(), true))
    }

    /// A name for the body.
    pub fn tag(&self) -> &str {
        self.tag.get_or_init(|| tag(&self.body))
    }
}

/// A name for a body: the same name, the same bytes, whichever server wrote them.
pub fn tag(body: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(body))
}

/// A piece of a body. The last one says so: a body whose pieces merely cease was broken off.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Others follow.
    More(Bytes),
    /// The body ends here.
    Last(Bytes),
}

impl Piece {
    /// What is in it.
    pub fn bytes(&self) -> &Bytes {
        let (Self::More(bytes) | Self::Last(bytes)) = self;
        bytes
    }
}

/// A body while it is read.
pub type Pieces = Receiver<Result<Piece, ReadError>>;

/// A body under way.
#[derive(Debug)]
pub struct Output {
    format: Format,
    sender: Sender<Result<Piece, ReadError>>,
    chunk: BytesMut,
    /// When it is full.
    chunk_bytes: usize,
    written: u64,
    send_wait_max: Duration,
    /// The header of a block that has no rows yet: a block without rows is not sent.
    header: Option<Vec<u8>>,
    /// Whether a JSON change has been written, so that a comma must come before the next.
    begun: bool,
}

impl Output {
    /// Writes to `sender`, whose reader may stand still for `send_wait_max`.
    pub fn new(format: Format, sender: Sender<Result<Piece, ReadError>>, send_wait_max: Duration) -> Self {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES_FIRST);
        chunk.extend_from_slice(start(format));
        Self {
            format,
            sender,
            chunk,
            chunk_bytes: CHUNK_BYTES_FIRST,
            written: 0,
            send_wait_max,
            header: None,
            begun: false,
        }
    }

    /// Ends when the reader has gone.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Says that the entity begins anew.
    pub(super) async fn reset(&mut self, entity: &Entity) -> Result<(), ReadError> {
        match self.format {
            Format::Copy => {
                self.write(&header(entity, BlockKind::Reset)?).await?;
                self.end_of_block().await
            }
            Format::Json => {
                let change = Change {
                    entity: entity.name.clone(),
                    key: None,
                    changed_date: None,
                    deleted: true,
                    row: None,
                    reason: Some(Reason::Reset),
                };
                self.separate();
                self.write(&json(&change)?).await
            }
        }
    }

    /// Says that of the entity's rows those are left whose scope is one of these. Only blocks can say it.
    pub(super) async fn within(&mut self, entity: &Entity, scopes: &[String]) -> Result<(), ReadError> {
        let header = BlockHeader {
            values: scopes.to_vec(),
            ..block_header(entity, BlockKind::Within)
        };
        self.write(&json_line(&header)?).await?;
        self.end_of_block().await
    }

    /// Begins the lines of a block.
    pub(super) fn begin_block(&mut self, entity: &Entity, kind: BlockKind) -> Result<(), ReadError> {
        if self.format == Format::Copy {
            self.header = Some(header(entity, kind)?);
        }
        Ok(())
    }

    /// One line of a block as Postgres sent it, with the newline at its end.
    pub(super) fn whole_line(&mut self, line: &[u8]) {
        let before = self.chunk.len();
        if let Some(header) = self.header.take() {
            self.chunk.extend_from_slice(&header);
        }
        self.chunk.extend_from_slice(line);
        self.written += (self.chunk.len() - before) as u64;
    }

    /// One line from Postgres; `kept` is what of it is not the server's alone. After some of them
    /// the chunk [is full](Output::is_full), and wants to be [handed over](Output::make_room).
    pub(super) fn line(&mut self, layout: &Layout, line: &[u8], kept: &[u8]) {
        match layout.format {
            Format::Copy => {
                let before = self.chunk.len();
                if let Some(header) = self.header.take() {
                    self.chunk.extend_from_slice(&header);
                }
                self.chunk.extend_from_slice(kept);
                self.chunk.extend_from_slice(b"\n");
                self.written += (self.chunk.len() - before) as u64;
            }
            Format::Json => {
                self.separate();
                let text = memchr::memchr(b'\t', line)
                    .and_then(|tab| line.get(..tab))
                    .unwrap_or(line);
                let text = copy_text::unescape(text);
                self.chunk.extend_from_slice(&text);
                self.written += text.len() as u64;
            }
        }
    }

    /// Whether the chunk is full. It is asked after every line, and so apart from what is awaited then.
    pub(super) fn is_full(&self) -> bool {
        self.chunk.len() >= self.chunk_bytes
    }

    /// Hands the chunk over.
    pub(super) async fn make_room(&mut self) -> Result<(), ReadError> {
        let chunk = self.chunk.split().freeze();
        self.chunk_bytes = CHUNK_BYTES_MAX.min(2 * self.chunk_bytes);
        self.chunk.reserve(self.chunk_bytes);
        self.hand_over(Piece::More(chunk)).await
    }

    /// Ends the lines of a block.
    pub(super) async fn end_block(&mut self) -> Result<(), ReadError> {
        match (self.format, self.header.take()) {
            (Format::Copy, None) => self.end_of_block().await,
            (Format::Copy, Some(_)) | (Format::Json, _) => Ok(()),
        }
    }

    /// Ends the body. A reader that does not take the end must not take what came for the whole.
    pub(super) async fn finish(mut self, trailer: &Trailer) {
        if let Err(error) = self.write_end(trailer).await {
            self.fail(error);
        }
    }

    async fn write_end(&mut self, trailer: &Trailer) -> Result<(), ReadError> {
        self.chunk.extend_from_slice(&end(self.format, trailer)?);
        let last = self.chunk.split().freeze();
        self.hand_over(Piece::Last(last)).await
    }

    /// Ends the body with an error: its reader sees it cut off, as soon as it gets there. A reader
    /// that stands still is not waited for, since whoever calls this holds a connection to Postgres.
    pub fn fail(self, error: ReadError) {
        if let Err(TrySendError::Full(failure)) = self.sender.try_send(Err(error)) {
            tokio::spawn(async move { self.sender.send(failure).await });
        }
    }

    async fn end_of_block(&mut self) -> Result<(), ReadError> {
        self.write(END_OF_BLOCK).await?;
        self.write(b"\n").await
    }

    /// A comma, where a change stands before the next one.
    fn separate(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            self.chunk.extend_from_slice(SEPARATOR);
            self.written += SEPARATOR.len() as u64;
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        self.written += bytes.len() as u64;
        self.chunk.extend_from_slice(bytes);
        if self.is_full() {
            self.make_room().await?;
        }
        Ok(())
    }

    async fn hand_over(&self, piece: Piece) -> Result<(), ReadError> {
        tokio::time::timeout(self.send_wait_max, self.sender.send(Ok(piece)))
            .await
            .map_err(|_| ReadError::Abandoned)?
            .map_err(|_| ReadError::Abandoned)
    }
}

/// What a body begins with.
fn start(format: Format) -> &'static [u8] {
    match format {
        Format::Copy => b"",
        Format::Json => b"{\"changes\":[",
    }
}

/// What a body ends with.
fn end(format: Format, trailer: &Trailer) -> Result<Vec<u8>, ReadError> {
    let mut text = match format {
        Format::Copy => json(trailer)?,
        Format::Json => {
            // The trailer's members follow the changes in the same object. There they need no
            // count: a JSON text that was cut is none.
            let Trailer {
                next,
                more,
                last_sync_date,
                rows: _,
                entities,
            } = trailer;
            let end = serde_json::json!({
                "next": next, "more": more, "lastSyncDate": last_sync_date, "entities": entities
            });
            let mut text = json(&end)?;
            text.splice(..1, *b"],");
            text
        }
    };
    text.push(b'\n');
    Ok(text)
}

/// The header line of a block.
fn header(entity: &Entity, kind: BlockKind) -> Result<Vec<u8>, ReadError> {
    json_line(&block_header(entity, kind))
}

fn block_header(entity: &Entity, kind: BlockKind) -> BlockHeader {
    BlockHeader {
        version: BLOCK_VERSION,
        entity: entity.name.clone(),
        kind,
        columns: columns(entity, kind),
        fingerprint: entity.fingerprint.clone(),
        values: Vec::new(),
    }
}

fn json_line(value: &impl serde::Serialize) -> Result<Vec<u8>, ReadError> {
    let mut line = json(value)?;
    line.push(b'\n');
    Ok(line)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, ReadError> {
    serde_json::to_vec(value).map_err(|error| ReadError::Postgres(sqlx::Error::Encode(Box::new(error))))
}
