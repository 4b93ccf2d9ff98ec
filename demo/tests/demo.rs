//! The demo runs to its end with nothing set up before, and whatever way it ends, what it has
//! started ends too.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use highwater_testbed::Process;
use highwater_testbed::process::Signal;

/// Enough for a build of both programs; a run itself takes seconds.
const PATIENCE: Duration = Duration::from_mins(10);
/// Enough for a Postgres to end.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);
const EXIT_INTERRUPTED: i32 = 130;

/// A demo that writes into a folder of its own, and keeps its store there.
struct Demo {
    process: Process,
    folder: PathBuf,
}

impl Demo {
    fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-demo"));
        command
            .args(arguments)
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("out"))?)
            .stderr(File::create(folder.join("err"))?);
        let process = Process::spawn(command)?;
        Ok(Self { process, folder })
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("out"))?)
    }

    /// Waits until the demo has said `text`.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.said()?.contains(text) {
            let ended = self.process.try_wait()?;
            ensure!(ended.is_none(), "it ended before it said {text}: {}", self.all()?);
            ensure!(Instant::now() < deadline, "it never said {text}: {}", self.all()?);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn exit_code(&mut self) -> Result<i32> {
        let status = self.process.wait_up_to(PATIENCE)?;
        let status = status.with_context(|| format!("it did not end: {:?}", self.all()))?;
        status.code().context("it was killed")
    }

    /// Waits until nothing listens where the demo said that something did.
    fn assert_nothing_listens(&self) -> Result<()> {
        let said = self.said()?;
        let mut ports = vec![port(&said, "http://127.0.0.1:")?];
        if std::env::var_os("DATABASE_URL").is_none_or(|url| url.is_empty()) {
            ports.push(port(&said, "postgres://postgres@127.0.0.1:")?);
        }
        let deadline = Instant::now() + STOP_WAIT_MAX;
        for port in ports {
            // A demo that was interrupted leaves the end of its Postgres to a helper.
            while TcpStream::connect(("127.0.0.1", port)).is_ok() {
                ensure!(Instant::now() < deadline, "something still listens on {port}");
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<String> {
        let err = fs::read_to_string(self.folder.join("err"))?;
        Ok(format!("{}\n{err}", self.said()?))
    }
}

fn port(said: &str, before: &str) -> Result<u16> {
    let (_, after) = said.split_once(before).context("it named no port")?;
    let digits = after.split(|letter: char| !letter.is_ascii_digit()).next();
    Ok(digits.unwrap_or_default().parse()?)
}

#[test]
fn demo_ends_with_both_sides_equal_every_time() -> Result<()> {
    for run in ["first", "second"] {
        let mut demo = Demo::start(run, &[])?;
        let code = demo.exit_code()?;
        assert_eq!(code, 0, "{}", demo.all()?);
        let said = demo.said()?;
        assert!(said.contains("both sides are equal"), "{said}");
        // A reader of dates misses what highwater delivers.
        assert!(said.contains("finds 0 of the 31:"), "{said}");
        assert!(said.contains("committed late, the file has 31."), "{said}");
        assert!(said.contains("331 rows, 54 deleted"), "{said}");
        assert!(said.contains("nothing new"), "{said}");
        demo.assert_nothing_listens()?;
    }
    Ok(())
}

#[test]
fn interrupted_demo_leaves_nothing_running() -> Result<()> {
    let mut demo = Demo::start("interrupted", &[])?;
    demo.wait_for("serving on")?;
    demo.process.signal(Signal::Interrupt)?;
    assert_eq!(demo.exit_code()?, EXIT_INTERRUPTED);
    demo.assert_nothing_listens()
}

#[test]
fn kept_demo_runs_until_it_is_interrupted() -> Result<()> {
    let mut demo = Demo::start("kept", &["--keep"])?;
    demo.wait_for("until Ctrl-C")?;
    let said = demo.said()?;
    assert!(TcpStream::connect(("127.0.0.1", port(&said, "http://127.0.0.1:")?)).is_ok());
    demo.process.signal(Signal::Interrupt)?;
    assert_eq!(demo.exit_code()?, 0, "{}", demo.all()?);
    demo.assert_nothing_listens()
}
