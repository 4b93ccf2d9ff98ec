//! Packages fetched once through `pip`, pinned to a version and to the hashes of its files.
//!
//! Python is needed for nothing else: only where no Postgres is installed, or all the year's flights
//! are asked for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::{Result, kernel};

/// One version of one package, and the SHA-256 of each of its files that we may be given.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) sha256: &'static [&'static str],
}

impl Package {
    /// The folder that holds the package's unpacked files, fetched first where it is missing.
    ///
    /// `unpack` is given the downloaded file and an empty folder.
    pub(crate) fn fetch(&self, unpack: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let cache = cache()?;
        let folder = cache.join(format!("{}-{}", self.name, self.version));
        if folder.exists() {
            return Ok(folder);
        }
        // Made aside and then renamed: whoever finds the folder finds all of it.
        let aside = tempfile::Builder::new().prefix("fetching-").tempdir_in(&cache)?;
        let unpacked = aside.path().join("unpacked");
        fs::create_dir(&unpacked)?;
        unpack(&self.download(aside.path())?, &unpacked)?;
        open_to_all(&unpacked)?;
        match fs::rename(&unpacked, &folder) {
            // Another process was faster; its files are the same.
            Err(_) if folder.exists() => Ok(folder),
            renamed => renamed
                .map(|()| folder)
                .context("cannot keep the fetched package"),
        }
    }

    fn download(&self, aside: &Path) -> Result<PathBuf> {
        let list = aside.join("requirements.txt");
        let files = aside.join("files");
        let mut line = format!("{}=={}", self.name, self.version);
        for sha256 in self.sha256 {
            line.push_str(" --hash=sha256:");
            line.push_str(sha256);
        }
        fs::write(&list, line)?;
        let arguments = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check"].map(OsStr::new);
        let arguments = arguments
            .into_iter()
            .chain(["--no-deps", "--require-hashes", "-r"].map(OsStr::new));
        python(arguments.chain([list.as_os_str(), "-d".as_ref(), files.as_os_str()]))
            .with_context(|| format!("cannot fetch {} {} with pip", self.name, self.version))?;
        let file = fs::read_dir(&files)?.next().context("pip fetched nothing")??;
        Ok(file.path())
    }
}

/// Runs `python3` to its end; what it had to say is in the error.
pub(crate) fn python(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
    let ran = Command::new("python3")
        .args(arguments)
        .output()
        .context("python3 cannot be run")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if said.contains("No module named pip") {
        bail!("python3 has no pip (on Debian: apt-get install python3-pip)");
    }
    ensure!(
        ran.status.success(),
        "python3 failed, {}: {}",
        ran.status,
        said.trim()
    );
    Ok(())
}

/// Where fetched packages are kept: for root a place that the unprivileged server can reach too.
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
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}
