//! Seeds: a store as one compressed file that any web server can hand out, so that a first pull
//! need not come from Postgres.
//!
//! A seed holds rows, cursors and the source, and nothing of the device that it was made on. A
//! store that begins with one goes on from its cursors. Until the server has confirmed these, the
//! store lies beside its place, where no reader sees it: a seed of another database or for another
//! scope never becomes visible.

mod download;
mod format;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Seek as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use highwater_shared::{EntityName, ResyncReason, Timestamp};
use reqwest::Certificate;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::applied::PullReport;
use crate::error::{Cause, Error};
use crate::pull::Event;
use crate::store::{self, SeedImage, Vacant};
use crate::sync_helper::SourceId;

use self::format::Failure;
pub(crate) use self::format::Header;

/// Where a seed is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedLocation {
    /// A file of this machine.
    File(PathBuf),
    /// A file that a web server hands out. Nothing secret is sent there.
    Url(Url),
}

impl FromStr for SeedLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("name a file, or an address that begins with http:// or https://".to_owned());
        }
        if !(text.starts_with("http://") || text.starts_with("https://")) {
            return match text.split_once("://") {
                Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => Err(format!(
                    "{scheme}:// is not fetched; name a file, or an address that begins with http:// or https://"
                )),
                _ => Ok(Self::File(PathBuf::from(text))),
            };
        }
        Url::parse(text)
            .map(Self::Url)
            .map_err(|error| format!("it is not an address ({error})"))
    }
}

impl fmt::Display for SeedLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// What is in a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeedReport {
    /// The own id of the database that its rows come from.
    pub source: SourceId,
    /// The oldest time of the pulls that its rows come from.
    pub pulled_at: Option<Timestamp>,
    /// Its entities and their rows.
    pub entities: Vec<(EntityName, u64)>,
    /// The size of the seed.
    pub bytes: u64,
    /// The size of the store that it becomes.
    pub store_bytes: u64,
}

impl SeedReport {
    fn new(header: &Header) -> Self {
        Self {
            source: header.source.clone(),
            pulled_at: header.pulled_at,
            entities: header
                .entities
                .iter()
                .map(|entity| (entity.entity.clone(), entity.rows))
                .collect(),
            bytes: header.compressed_bytes,
            store_bytes: header.bytes,
        }
    }

    /// The rows of all entities.
    pub fn rows(&self) -> u64 {
        let rows = self.entities.iter().map(|(_, rows)| *rows);
        // A seed may say anything.
        rows.fold(0, u64::saturating_add)
    }
}

/// How a store that was to begin with a seed has begun.
#[derive(Debug)]
#[non_exhaustive]
pub enum Seeding {
    /// The store was there already.
    NotNeeded,
    /// With the seed, and then with what has changed since.
    Began {
        /// What came with the seed.
        seed: SeedReport,
        /// What the pull brought that followed.
        pull: PullReport,
    },
    /// Empty, since the seed cannot be used.
    Refused(Error),
}

/// Writes a seed of the store at `store` to `out`, beside a client that writes to the store.
///
/// The store is read in one transaction and must not be in the middle of a pull. A seed at `out` is
/// replaced at once when the new one is complete; any other file there is refused, the store above all. Blocks for
/// as long as it takes.
pub fn write_seed(store: impl AsRef<Path>, out: impl AsRef<Path>) -> Result<SeedReport, Error> {
    let (store, out) = (store.as_ref(), out.as_ref());
    let failed =
        |what: &str, error: std::io::Error| refused(out.display(), format!("{what} ({error})"), error);
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A store is told by what stands beside it, and not opened: whoever closes a file that this process has open as a
    // database loses the locks on it.
    let is_seed = !is_of_store(out, store)
        && !store::is_store(out)
        && format::may_replace(out).map_err(|error| failed("it cannot be read", error))?;
    if !is_seed {
        let reason = "another file is there, which is no seed; name one that is not there yet, or a seed";
        return Err(refused_for(&out.display().to_string(), reason.to_owned()));
    }
    // In the folder of the seed, so that the last step is a rename; gone however this ends.
    let work = Scratch::new(folder, out).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => failed("another process is making it", error),
        _ => failed("its folder cannot be written to", error),
    })?;
    let contents = store::write_image(store, &work.image())?;
    let header = format::pack(&work.image(), &contents, &work.seed())
        .map_err(|error| failed("it cannot be written", error))?;
    fs::rename(work.seed(), out).map_err(|error| failed("it cannot be put in its place", error))?;
    Ok(SeedReport::new(&header))
}

/// Whether the file is the store's, or one that stands beside it while it is written.
fn is_of_store(file: &Path, store: &Path) -> bool {
    let files = ["", "-wal", "-shm", "-journal", ".lock"].map(|suffix| store::beside(store, suffix));
    let Ok(file) = fs::canonicalize(file) else {
        return false;
    };
    files
        .iter()
        .any(|other| fs::canonicalize(other).is_ok_and(|other| other == file))
}

/// A store made of a seed, not yet in its place.
pub(crate) struct Unpacked {
    pub(crate) report: SeedReport,
    image: SeedImage,
    /// What was downloaded; it has served its purpose once the store is in its place.
    downloaded: Option<PathBuf>,
}

impl Unpacked {
    /// The path of the store for now.
    pub(crate) fn path(&self) -> &Path {
        self.image.path()
    }

    /// Puts the store, which nothing may have open, in its place.
    pub(crate) fn install(self, store: &Path) -> Result<SeedReport, Error> {
        self.image.install(store)?;
        if let Some(part) = self.downloaded {
            // It would only take room.
            let _ = fs::remove_file(part);
        }
        Ok(self.report)
    }

    /// Removes it all, since the server cannot go on from it.
    pub(crate) fn discard(self) {
        if let Some(part) = &self.downloaded {
            let _ = fs::remove_file(part);
        }
    }
}

/// Refuses a file that is not there, and a store: that is a slip, and not a seed that has gone bad.
pub(crate) fn check_location(location: &SeedLocation) -> Result<(), Error> {
    match location {
        SeedLocation::File(path) if !path.exists() => Err(refused_for(
            &location.to_string(),
            "there is no such file".to_owned(),
        )),
        SeedLocation::File(path) if store::is_store(path) => Err(refused_for(
            &location.to_string(),
            "it is a store; `highwater seed` makes a seed of it".to_owned(),
        )),
        SeedLocation::File(_) | SeedLocation::Url(_) => Ok(()),
    }
}

/// The error for a seed that the server does not go on from.
pub(crate) fn not_served(location: &SeedLocation, reason: Option<ResyncReason>) -> Error {
    let reason = match reason {
        Some(ResyncReason::ScopeChanged) => "it was made for another scope than this caller's",
        Some(ResyncReason::SourceChanged) => "the database was restored or replaced after it was made",
        None => "the server cannot go on from its cursor",
    };
    refused_for(&location.to_string(), reason.to_owned())
}

/// The error for a seed that turned out to be useless.
pub(crate) fn not_usable(location: &SeedLocation, error: Error) -> Error {
    let reason = match &error {
        Error::OtherSource { .. } => "it was made from another database than the server's".to_owned(),
        other => other.to_string(),
    };
    refused(location, reason, error)
}

/// Fetches a seed and unpacks it beside the place of `store`. A download that was cut off is gone
/// on with, also by a later call.
pub(crate) async fn unpack(
    location: &SeedLocation,
    place: &Vacant,
    authorities: Vec<Certificate>,
    stop: &CancellationToken,
    observer: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<Unpacked, Error> {
    let store = place.path();
    let (path, downloaded) = match location {
        SeedLocation::File(path) => (path.clone(), None),
        SeedLocation::Url(url) => {
            let part = store::beside(store, ".seed-part");
            download::fetch(url, &part, authorities, stop, observer).await?;
            (part.clone(), Some(part))
        }
    };
    let image = SeedImage::new(store);
    let name = location.to_string();
    // Who waits for it no longer stops it, and the place is taken until it has stopped.
    let stop = stop.child_token();
    let _stopping = stop.clone().drop_guard();
    let held = place.hold()?;
    let unpacking = {
        let downloaded = downloaded.clone();
        tokio::task::spawn_blocking(move || {
            let _held = held;
            let unpacked = unpack_file(&name, &path, image.path(), &stop);
            if let (Err(Error::Seed { source: None, .. }), Some(part)) = (&unpacked, &downloaded) {
                // What is wrong is what is in it, and the same bytes will not do the next time.
                let _ = fs::remove_file(part);
            }
            unpacked.map(|header| (header, image))
        })
    };
    let (header, image) = unpacking.await.map_err(|error| Error::Task(Box::new(error)))??;
    Ok(Unpacked {
        report: SeedReport::new(&header),
        image,
        downloaded,
    })
}

fn unpack_file(name: &str, seed: &Path, image: &Path, stop: &CancellationToken) -> Result<Header, Error> {
    let unreadable = |error: std::io::Error| refused(name, format!("it cannot be read ({error})"), error);
    let mut file = BufReader::new(File::open(seed).map_err(unreadable)?);
    let header = format::read_header(&mut file).map_err(|reason| refused_for(name, reason))?;
    let start = file.stream_position().map_err(unreadable)?;
    let length = file.get_ref().metadata().map_err(unreadable)?.len();
    if length != start.saturating_add(header.compressed_bytes) {
        let reason = format!(
            "it is {length} bytes long instead of {}: it was cut off or added to",
            start.saturating_add(header.compressed_bytes)
        );
        return Err(refused_for(name, reason));
    }
    format::unpack(file, &header, image, stop).map_err(|failure| match failure {
        Failure::Seed(reason) => refused_for(name, reason),
        Failure::Store(error) => Error::Open {
            store: image.to_owned(),
            reason: format!("the store cannot be made of the seed there ({error})"),
            source: Some(Box::new(error)),
        },
        Failure::Stopped => Error::Stopped,
    })?;
    store::check_image(image).map_err(|reason| refused_for(name, reason))?;
    Ok(header)
}

fn refused_for(seed: &str, reason: String) -> Error {
    Error::Seed {
        seed: seed.to_owned(),
        reason,
        source: None,
    }
}

fn refused(seed: impl fmt::Display, reason: String, source: impl Into<Cause>) -> Error {
    Error::Seed {
        seed: seed.to_string(),
        reason,
        source: Some(source.into()),
    }
}

/// A folder for what is under way; it goes with this value. One that was left by a process that was killed is taken over.
struct Scratch {
    path: PathBuf,
    /// Held, never read: the lock ends when the file is closed.
    _lock: File,
}

impl Scratch {
    fn new(folder: &Path, out: &Path) -> std::io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".part");
        let path = folder.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::create(path.join("lock"))?;
        lock.try_lock()?;
        for left in fs::read_dir(&path)? {
            let left = left?;
            if left.file_name() != "lock" {
                fs::remove_file(left.path())?;
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// The place of the store's image.
    fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    /// The place of the seed, until it is whole.
    fn seed(&self) -> PathBuf {
        self.path.join("seed")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
