//! The file: one line of JSON that says what follows, and then a store's file, compressed by zstd.
//!
//! The line holds the sizes and a checksum of what follows it, so that a seed which was cut off,
//! damaged or swapped under way is never taken for a whole one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use highwater_shared::{EntityName, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::store::ImageContents;
use crate::sync_helper::SourceId;

/// The version of the file's form.
const VERSION: u32 = 1;

/// The longest first line that is read.
pub(super) const HEADER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How hard zstd tries. Higher levels make the file little smaller and take much longer.
const LEVEL: i32 = 3;

/// The most memory that a seed may ask of the decoder: 2 to this power, in bytes.
const WINDOW_LOG_MAX: u32 = 23;

/// Bytes that are read and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// The version of the form.
    highwater_seed: u32,
    pub(crate) source: SourceId,
    pub(crate) pulled_at: Option<Timestamp>,
    pub(crate) entities: Vec<HeaderEntity>,
    /// The size of the store.
    pub(crate) bytes: u64,
    /// The size of what follows the line.
    pub(crate) compressed_bytes: u64,
    /// The checksum of what follows the line, in hexadecimal digits.
    sha256: String,
}

/// What the first line holds in every version of the form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    highwater_seed: u32,
}

/// An entity of a seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeaderEntity {
    pub(crate) entity: EntityName,
    pub(crate) rows: u64,
}

/// Writes the seed `out` from a store's file.
pub(super) fn pack(image: &Path, contents: &ImageContents, out: &Path) -> io::Result<Header> {
    let body = out.with_extension("body");
    let mut store = BufReader::with_capacity(BUFFER_BYTES, File::open(image)?);
    let mut encoder = zstd::Encoder::new(Hashed::new(File::create(&body)?), LEVEL)?;
    encoder.include_checksum(true)?;
    let bytes = io::copy(&mut store, &mut encoder)?;
    let hashed = encoder.finish()?;
    let header = Header {
        highwater_seed: VERSION,
        source: contents.source.clone(),
        pulled_at: contents.pulled_at,
        entities: contents
            .entities
            .iter()
            .map(|(entity, rows)| HeaderEntity {
                entity: entity.clone(),
                rows: *rows,
            })
            .collect(),
        bytes,
        compressed_bytes: hashed.bytes,
        sha256: hex(&hashed.hash.finalize()),
    };
    let mut seed = BufWriter::with_capacity(BUFFER_BYTES, File::create(out)?);
    serde_json::to_writer(&mut seed, &header)?;
    seed.write_all(b"\n")?;
    io::copy(&mut File::open(&body)?, &mut seed)?;
    seed.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(header)
}

/// Whether a seed may be put in this place: nothing is there, or nothing in it, or a seed of any version.
pub(super) fn may_replace(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    let mut line = Vec::new();
    BufReader::new(file)
        .take(HEADER_BYTES_MAX)
        .read_until(b'\n', &mut line)?;
    Ok(line.is_empty() || serde_json::from_slice::<Form>(&line).is_ok())
}

/// Reads the first line, or says why it is none.
pub(super) fn read_header(seed: &mut impl BufRead) -> Result<Header, String> {
    let mut line = Vec::new();
    let read = seed.take(HEADER_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| format!("it cannot be read ({error})"))?;
    if line.is_empty() {
        return Err("it is empty".to_owned());
    }
    let form: Form =
        serde_json::from_slice(&line).map_err(|_| "it is not a seed of Highwater's".to_owned())?;
    if form.highwater_seed != VERSION {
        return Err(format!(
            "it is in version {} of the form, and this highwater knows version {VERSION}",
            form.highwater_seed
        ));
    }
    serde_json::from_slice(&line).map_err(|error| format!("its first line cannot be read ({error})"))
}

/// Why no store was made of a seed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The seed is no good, and will be none the next time.
    Seed(String),
    /// The store cannot be written.
    Store(io::Error),
    /// Nobody waits for it any more.
    Stopped,
}

/// Writes the store's file that follows the first line.
pub(super) fn unpack(
    body: impl Read,
    header: &Header,
    image: &Path,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Seed(format!("it cannot be unpacked ({error})"));
    let reader = BufReader::with_capacity(BUFFER_BYTES, Hashed::new(body.take(header.compressed_bytes)));
    let mut decoder = zstd::Decoder::with_buffer(reader).map_err(failed)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
    let mut store = File::create(image).map_err(Failure::Store)?;
    // One byte more than there should be, so that more is noticed, and no disk is filled with it.
    let mut contents = decoder.by_ref().take(header.bytes.saturating_add(1));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut written = 0;
    while let read @ 1.. = contents.read(&mut buffer).map_err(failed)? {
        if stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        let piece = buffer.get(..read).unwrap_or_default();
        store.write_all(piece).map_err(Failure::Store)?;
        written += read as u64;
    }
    let mut rest = decoder.finish();
    io::copy(&mut rest, &mut io::sink()).map_err(failed)?;
    if hex(&rest.into_inner().hash.finalize()) != header.sha256 {
        let reason = "its checksum is wrong: it was damaged on its way";
        return Err(Failure::Seed(reason.to_owned()));
    }
    if written != header.bytes {
        let said = header.bytes;
        let reason = format!("it unpacks to another size than the {said} bytes that it says");
        return Err(Failure::Seed(reason));
    }
    Ok(())
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Passes bytes on and takes their checksum.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.note(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.note(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(folder: &Path, image: &[u8]) -> (Header, Vec<u8>) {
        let contents = ImageContents {
            source: SourceId::new("s"),
            pulled_at: None,
            entities: vec![(EntityName::new("product"), 3)],
        };
        std::fs::write(folder.join("image"), image).expect("an image");
        let header = pack(&folder.join("image"), &contents, &folder.join("seed")).expect("a seed");
        (header, std::fs::read(folder.join("seed")).expect("a seed"))
    }

    fn unpacked(folder: &Path, seed: &[u8], change: impl Fn(&mut Header)) -> Result<Vec<u8>, String> {
        let mut rest = seed;
        let mut header = read_header(&mut rest)?;
        change(&mut header);
        match unpack(rest, &header, &folder.join("out"), &CancellationToken::new()) {
            Err(Failure::Seed(reason)) => return Err(reason),
            unpacked => unpacked.expect("a store that can be written"),
        }
        Ok(std::fs::read(folder.join("out")).expect("a store"))
    }

    #[test]
    fn what_was_packed_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let image: Vec<u8> = (0..1_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let (header, seed) = packed(folder.path(), &image);
        assert_eq!(header.bytes, image.len() as u64);
        assert_eq!(unpacked(folder.path(), &seed, |_| {}).as_deref(), Ok(&image[..]));
    }

    /// It is not the seed's fault, and the same seed will do the next time.
    #[test]
    fn a_store_that_cannot_be_written_and_a_stop_are_told_from_a_bad_seed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (header, seed) = packed(folder.path(), &vec![7; 10_000]);
        let body = || {
            let mut rest = seed.as_slice();
            read_header(&mut rest).expect("a header");
            rest
        };
        let (going, stopped) = (CancellationToken::new(), CancellationToken::new());
        stopped.cancel();
        let nowhere = folder.path().join("no folder").join("out");
        let outcome = unpack(body(), &header, &nowhere, &going);
        assert!(matches!(outcome, Err(Failure::Store(_))), "{outcome:?}");
        let outcome = unpack(body(), &header, &folder.path().join("out"), &stopped);
        assert!(matches!(outcome, Err(Failure::Stopped)), "{outcome:?}");
    }

    #[test]
    fn any_damage_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, seed) = packed(folder.path(), &vec![7; 10_000]);
        for at in 0..seed.len() {
            let mut damaged = seed.clone();
            damaged[at] ^= 0x20;
            let outcome = unpacked(folder.path(), &damaged, |_| {});
            // What the first line says of source, rows and date is not vouched for.
            assert!(outcome.is_err() || outcome == Ok(vec![7; 10_000]), "byte {at}");
        }
        for length in 0..seed.len() {
            assert!(
                unpacked(folder.path(), &seed[..length], |_| {}).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_seed_that_unpacks_to_more_than_it_says_fills_no_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, seed) = packed(folder.path(), &vec![0; 50_000_000]);
        let outcome = unpacked(folder.path(), &seed, |header| header.bytes = 1_000);
        assert!(outcome.is_err_and(|reason| reason.contains("another size")));
        let written = std::fs::metadata(folder.path().join("out"))
            .expect("a file")
            .len();
        assert!(written <= 1_001, "{written} bytes");
    }

    #[test]
    fn what_is_no_seed_is_told_from_one_of_a_newer_version() {
        let reason = |text: &str| read_header(&mut text.as_bytes()).expect_err("no seed");
        assert!(reason("").contains("empty"));
        assert!(reason("<html>").contains("not a seed"));
        assert!(reason(&"x".repeat(5_000_000)).contains("not a seed"));
        assert!(reason("{\"highwaterSeed\":9,\"x\":1}\n").contains("version 9"));
        assert!(reason("{\"highwaterSeed\":1}\n").contains("first line"));
    }
}
