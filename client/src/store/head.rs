//! The first bytes of a damaged file, read without SQLite: whose it is, where SQLite cannot say.
//!
//! Only what SQLite has refused is read so. Closing a file ends every lock that this process holds
//! on it, and with them those of connections that know nothing of it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::open::{io_error, is_store};
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
    let was_a_store = is_store(path);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::open::beside;
    use super::*;

    /// The header of a database with this version and application.
    fn header(version: i32, application: i32) -> Vec<u8> {
        let mut header = [&MAGIC[..], &[7; HEADER_BYTES - 16]].concat();
        header[VERSION_AT..][..4].copy_from_slice(&version.to_be_bytes());
        header[APPLICATION_AT..][..4].copy_from_slice(&application.to_be_bytes());
        header
    }

    #[test]
    fn a_file_is_known_by_its_header_or_by_the_lock_beside_it() {
        let newest = i32::try_from(schema::newest()).expect("a small number");
        let us = schema::APPLICATION_ID;
        let no_database = vec![b'x'; HEADER_BYTES];
        let cut = header(newest, us)[..HEADER_BYTES - 1].to_vec();
        for (what, bytes, with_lock, without) in [
            ("ours", header(newest, us), Owner::Us, Owner::Us),
            (
                "newer",
                header(newest + 1, us),
                Owner::Newer(schema::newest() + 1),
                Owner::Newer(schema::newest() + 1),
            ),
            ("another's", header(newest + 1, 7), Owner::Another, Owner::Another),
            ("of no mark", header(0, 0), Owner::Us, Owner::Another),
            ("no database", no_database, Owner::Us, Owner::Nobody),
            ("cut off", cut, Owner::Us, Owner::Nobody),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("store.db");
            fs::write(&path, bytes).expect("a file");
            assert_eq!(owner(&path).expect("a look"), without, "{what}");
            fs::write(beside(&path, ".lock"), "").expect("a lock");
            assert_eq!(owner(&path).expect("a look"), with_lock, "{what}, with a lock");
        }
        let folder = tempfile::tempdir().expect("a folder");
        assert!(owner(folder.path()).is_err(), "a folder cannot be read");
    }
}
