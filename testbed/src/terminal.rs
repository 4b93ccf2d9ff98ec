//! A terminal of one's own, for tests of what programs show to people only.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::process::{POLL, Process};
use crate::{Result, kernel};

/// The longest that something to be shown is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program on a terminal, with all that it has written there.
#[derive(Debug)]
pub struct Terminal {
    /// The program, which ends when this is dropped.
    pub process: Process,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `command` with its output, and that of its errors, on a terminal of this size.
    pub fn start(mut command: Command, lines: u16, columns: u16) -> Result<Self> {
        let (ours, theirs) = kernel::open_terminal(lines, columns).context("cannot open a terminal")?;
        command
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(theirs.try_clone()?)
            .stderr(theirs);
        let process = Process::spawn(command)?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&written);
        // It ends with the program: then there is an error to be read.
        thread::spawn(move || read(File::from(ours), &into));
        Ok(Self { process, written })
    }

    /// All that was written so far, with what moves the cursor and sets colours.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&lock(&self.written)).into_owned()
    }

    /// Waits until what was written since `from`, a number of bytes, has `text` in it, and returns it.
    pub fn wait_for(&mut self, from: usize, text: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = self.written();
            let since = written.get(from..).unwrap_or_default();
            if since.contains(text) {
                return Ok(since.to_owned());
            }
            ensure!(
                Instant::now() < deadline,
                "{text:?} was not shown, but {written:?}"
            );
            thread::sleep(POLL);
        }
    }
}

fn read(mut terminal: File, into: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4_096];
    while let Ok(length) = terminal.read(&mut chunk) {
        let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else {
            return;
        };
        lock(into).extend_from_slice(read);
    }
}

fn lock(written: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    // What a panic has left in it was written all the same.
    written.lock().unwrap_or_else(PoisonError::into_inner)
}
