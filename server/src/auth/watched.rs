//! A file that is read again when it changes, and when told so.

use std::error::Error;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::AuthError;

/// How often it is looked whether the file is another one by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A file that was written so lately may be written again without looking different: times of
/// files stand still for some milliseconds, on some file systems for two seconds.
const SETTLES_AFTER: Duration = Duration::from_secs(3);

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It is larger than such a file can be.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// A line is not what it should be.
    #[error("line {number}: {what}")]
    Line {
        /// From 1.
        number: usize,
        /// What is wrong with it.
        what: String,
    },
    /// All of it is not what it should be.
    #[error("{0}")]
    Content(String),
}

/// Makes something of what a file holds.
type Parse<T> = fn(&[u8]) -> Result<T, FileFault>;

/// What a file holds, as it was read last.
pub(super) struct Watched<T> {
    path: PathBuf,
    bytes_max: u64,
    parse: Parse<T>,
    now: RwLock<Arc<T>>,
    first: (Stamp, Digest),
    wanted: Notify,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When it was changed, or what is said of it; no program can choose that.
    changed: SystemTime,
    /// Whether that was long enough ago to be told from the next change.
    is_settled: bool,
}

type Digest = [u8; 32];

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the file.
    pub(super) async fn open(path: PathBuf, bytes_max: u64, parse: Parse<T>) -> Result<Self, AuthError> {
        let read = read(&path, bytes_max, parse).await;
        let (stamp, digest, content) = read.map_err(|fault| AuthError::File {
            path: path.clone(),
            fault,
        })?;
        Ok(Self {
            path,
            bytes_max,
            parse,
            now: RwLock::new(Arc::new(content)),
            first: (stamp, digest),
            wanted: Notify::new(),
        })
    }

    /// What it held when it was last read and found in order.
    pub(super) fn now(&self) -> Arc<T> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has it read at once.
    pub(super) fn reload(&self) {
        self.wanted.notify_one();
    }

    /// Reads it whenever it has changed, until told to stop.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        let (mut known, mut digest) = (Some(self.first.0), self.first.1);
        let mut wrong = None;
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let stamp = tokio::fs::metadata(&self.path).await;
            let stamp = stamp.ok().and_then(|metadata| Stamp::of(&metadata));
            if !is_asked && stamp == known && stamp.is_some_and(|stamp| stamp.is_settled) {
                continue;
            }
            match read(&self.path, self.bytes_max, self.parse).await {
                Ok((read, found, content)) => {
                    if is_asked || found != digest || wrong.is_some() {
                        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
                        tracing::info!(file = %self.path.display(), "read again");
                    }
                    (known, digest, wrong) = (Some(read), found, None);
                }
                Err(fault) => {
                    let said = causes(&fault);
                    if is_asked || wrong.as_ref() != Some(&said) {
                        tracing::error!(
                            file = %self.path.display(),
                            fault = said,
                            "cannot be used; what the file held before stays in force"
                        );
                    }
                    (known, wrong) = (stamp, Some(said));
                }
            }
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    /// The path alone: what the file holds is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.path).finish()
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Option<Self> {
        let seconds = u64::try_from(metadata.ctime()).ok()?;
        let nanos = u32::try_from(metadata.ctime_nsec()).ok()?;
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        let age = SystemTime::now().duration_since(changed);
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed,
            is_settled: age.is_ok_and(|age| age > SETTLES_AFTER),
        })
    }
}

/// An error with its causes, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

/// Reads a file beside the runtime: one with very many keys takes a moment.
async fn read<T: Send + 'static>(
    path: &Path,
    bytes_max: u64,
    parse: Parse<T>,
) -> Result<(Stamp, Digest, T), FileFault> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let file = File::open(path)?;
        // Before the content: what is written meanwhile looks like another state.
        let stamp = Stamp::of(&file.metadata()?).ok_or_else(|| io::Error::other("its date is none"))?;
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(FileFault::TooLarge(bytes_max));
        }
        Ok((stamp, Sha256::digest(&bytes).into(), parse(&bytes)?))
    });
    reading.await.map_err(io::Error::other)?
}
