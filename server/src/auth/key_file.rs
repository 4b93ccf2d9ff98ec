//! Adds a key to the file, beside servers that read it and others who add to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use highwater_shared::Timestamp;

use super::keys::{self, Entry};
use super::watched::FileFault;
use super::{AuthError, KEY_FILE_BYTES_MAX};
use crate::caller::Grant;

/// For its owner alone.
const MODE: u32 = 0o600;

/// How a new file begins.
const HEAD: &str = "# The API keys of highwater-server, one a line. Who may read all entities has no \"entities\".\n\
    # A line that is changed or removed counts from the next second on.\n";

/// The key that is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it grants, and to whom.
    pub grant: Grant,
    /// When it expires; `None` for never.
    pub expires: Option<Timestamp>,
}

/// Adds a key to a file, which is made where it is missing, and returns the key. The file holds no
/// more than a hash of it, so this is the only time that it can be seen. Whoever reads the file
/// meanwhile finds the old one or the new one whole.
pub fn add_key(path: &Path, new: &NewKey) -> Result<String, AuthError> {
    let refused = |what: &str| Err(AuthError::Option(what.to_owned()));
    if new.grant.name.is_empty() || new.grant.name.contains(char::is_control) {
        return refused("a key needs a name without control characters");
    }
    let Ok((entry, key)) = Entry::new(&new.grant, new.expires) else {
        return refused("the system has no random numbers");
    };
    add(path, &entry).map_err(|fault| AuthError::File {
        path: path.to_owned(),
        fault,
    })?;
    Ok(key)
}

fn add(path: &Path, entry: &Entry) -> Result<(), FileFault> {
    let (mut file, path) = lock(path)?;
    let mut text = Vec::new();
    (&mut file).take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    // A file that no server would take must not grow.
    keys::read(&text)?;
    if text.is_empty() {
        text.extend_from_slice(HEAD.as_bytes());
    } else if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    serde_json::to_writer(&mut text, entry).map_err(io::Error::from)?;
    text.push(b'\n');
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(FileFault::TooLarge(KEY_FILE_BYTES_MAX));
    }
    Ok(replace(&path, &file, &text)?)
}

/// Opens the file, and waits until nobody else writes it. The lock goes with the file that is
/// replaced, so whoever has waited for it looks for the new one.
fn lock(path: &Path) -> io::Result<(File, std::path::PathBuf)> {
    loop {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        file.lock()?;
        // Where the path is a link, the file that it leads to is replaced, and not the link.
        let path = fs::canonicalize(path)?;
        let (now, locked) = (fs::metadata(&path)?, file.metadata()?);
        if (now.dev(), now.ino()) == (locked.dev(), locked.ino()) {
            return Ok((file, path));
        }
    }
}

/// Puts a new file in the place of the old one, with its owner and mode.
fn replace(path: &Path, old: &File, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    // Left by one that was killed: the lock says that nobody writes it now.
    match fs::remove_file(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&name)?;
    let (was, is) = (old.metadata()?, new.metadata()?);
    if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
        fchown(&new, Some(was.uid()), Some(was.gid()))?;
    }
    new.set_permissions(fs::Permissions::from_mode(was.mode() & 0o777))?;
    new.write_all(text)?;
    new.sync_all()?;
    fs::rename(&name, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn new_key() -> NewKey {
        NewKey {
            grant: Grant {
                name: "till".to_owned(),
                ..Grant::default()
            },
            expires: None,
        }
    }

    fn lines(path: &Path) -> usize {
        let text = fs::read_to_string(path).unwrap();
        keys::read(text.as_bytes()).unwrap();
        text.lines().filter(|line| line.starts_with('{')).count()
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_a_mode_that_was_chosen_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        add_key(&path, &new_key()).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        add_key(&path, &new_key()).unwrap();
        assert_eq!((mode(), lines(&path)), (0o640, 2));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn of_many_who_add_at_once_none_is_lost_and_no_reader_sees_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..5 {
                        add_key(&path, &new_key()).unwrap();
                        lines(&path);
                    }
                });
            }
        });
        assert_eq!(lines(&path), 40);
    }

    #[test]
    fn what_people_wrote_stays_and_a_wrong_file_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("keys"), folder.path().join("link"));
        fs::write(&path, "# ours").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        add_key(&link, &new_key()).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("# ours\n{"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        fs::write(&path, "{}\n").unwrap();
        let error = add_key(&path, &new_key()).unwrap_err();
        let AuthError::File { fault, .. } = error else {
            panic!("{error}")
        };
        assert!(fault.to_string().starts_with("line 1: "), "{fault}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }
}
