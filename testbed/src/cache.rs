//! The folder where fetched programs and data are kept, so that each is fetched once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::{Result, kernel};

/// The folder `name` of the cache, made first where it is missing.
///
/// `fill` is given a folder for what it needs meanwhile, and the empty one that it is to fill.
pub(crate) fn kept(name: &str, fill: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join(name);
    if folder.exists() {
        return Ok(folder);
    }
    // Made aside and then renamed: whoever finds the folder finds all of it.
    let aside = tempfile::Builder::new().prefix("fetching-").tempdir_in(&cache)?;
    let filled = aside.path().join("unpacked");
    fs::create_dir(&filled)?;
    fill(aside.path(), &filled)?;
    open_to_all(&filled)?;
    match fs::rename(&filled, &folder) {
        // Another process was faster; its files are as good.
        Err(_) if folder.exists() => Ok(folder),
        renamed => renamed.map(|()| folder).context("cannot keep what was fetched"),
    }
}

/// Where it is: for root a place that the unprivileged server can reach too.
fn cache() -> Result<PathBuf> {
    let folder = if kernel::is_root() {
        PathBuf::from("/var/cache/highwater")
    } else {
        let below = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
        let cache = below("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| below("HOME").map(|home| Path::new(&home).join(".cache")));
        cache
            .context("neither HOME nor XDG_CACHE_HOME says where to keep what is fetched")?
            .join("highwater")
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if kernel::is_root() {
        // Programs are run from here, so nobody else may write to it, whatever the umask.
        ensure!(
            fs::metadata(&folder)?.uid() == 0,
            "{} is not root's",
            folder.display()
        );
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

/// Lets everyone read and run what is in `path`: an archive keeps no modes that can be relied on.
fn open_to_all(path: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        // It has no mode of its own, and may lead out of here.
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}
