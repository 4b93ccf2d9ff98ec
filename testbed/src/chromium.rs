//! A Chromium without a window, for tests of pages.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::{Process, Result};

/// The variable that has tests which need Chromium fail where there is none.
const VARIABLE: &str = "HIGHWATER_TESTBED_CHROMIUM";

/// What it is called where it is installed.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// A browser that has a page open. It ends, and what it has kept goes, when this is dropped.
#[derive(Debug)]
pub struct Chromium {
    process: Process,
    // Last: the browser writes to it until it has ended.
    _profile: TempDir,
}

impl Chromium {
    /// Opens a page. `None` where no Chromium is installed: the test is then left out, and is to say so.
    /// None is fetched, since it comes with a hundred libraries.
    pub fn open(url: &str) -> Result<Option<Self>> {
        let Some(program) = find()? else { return Ok(None) };
        let profile = TempDir::new()?;
        let mut folder = OsString::from("--user-data-dir=");
        folder.push(profile.path());
        let mut command = Command::new(program);
        command
            .env("HOME", profile.path())
            .arg(folder)
            // The page is our own. Root and containers have no sandbox.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
                url,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(command).context("cannot run Chromium")?;
        Ok(Some(Self {
            process,
            _profile: profile,
        }))
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }
}

fn find() -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    let is_needed = std::env::var(VARIABLE).is_ok_and(|value| value == "1");
    ensure!(
        found.is_some() || !is_needed,
        "no Chromium was found (Debian: apt-get install chromium)"
    );
    Ok(found)
}
