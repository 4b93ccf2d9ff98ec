//! The first bytes of a damaged file, read without SQLite: whose it is, where SQLite cannot say.
//!
//! Only what SQLite has refused is read so. Closing a file ends every lock that this process holds
//! on it, and with them those of connections that know nothing of it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::open::{beside, io_error};
use super::schema;
use crate::error::Error;

/// What every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The part of the file that SQLite calls its header.
pub(super) const HEADER_BYTES: usize = 100;

/// Where the header has `user_version` and `application_id`.
const VERSION_AT: usize = 60;
const APPLICATION_AT: usize = 68;

/// Whom a file belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This program.
    Us,
    /// A version of this program that writes stores of this version.
    Newer(i64),
    /// Another program that uses SQLite.
    Another,
    /// It is not known to be SQLite's, or anybody's.
    Nobody,
}

/// Whom the damaged file at `path` belongs to.
pub(super) fn owner(path: &Path) -> Result<Owner, Error> {
    // Made before the file is written for the first time, and never removed: where the file itself
    // does not say any more what it is, this does.
    let was_a_store = beside(path, ".lock").exists();
    let mut header = [0; HEADER_BYTES];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => header = [0; HEADER_BYTES],
        Err(error) => return Err(io_error(path, "it cannot be read", error)),
    }
    if !header.starts_with(MAGIC) {
        return Ok(if was_a_store { Owner::Us } else { Owner::Nobody });
    }
    let version = i64::from(number(&header, VERSION_AT));
    Ok(match number(&header, APPLICATION_AT) {
        schema::APPLICATION_ID if version > schema::newest() => Owner::Newer(version),
        schema::APPLICATION_ID => Owner::Us,
        // The making of a store may have ended before it was marked as one.
        0 if was_a_store => Owner::Us,
        _ => Owner::Another,
    })
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> i32 {
    let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    i32::from_be_bytes(bytes.unwrap_or_default())
}
