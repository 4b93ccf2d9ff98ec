//! A Chromium without a window, for tests of pages: what a page holds, what it looks like, and keys pressed on it.
//!
//! It is spoken to over two pipes by the `DevTools` protocol, of which a handful of commands is enough: JSON texts with
//! a zero byte after each.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::debian::Wanted;
use crate::process::POLL;
use crate::{Process, Result};

static PROGRAM: Wanted = Wanted {
    packages: &["chromium-headless-shell"],
    path: "usr/lib/chromium/chromium-headless-shell",
    names: &[
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ],
    variable: "HIGHWATER_TESTBED_CHROMIUM",
    advice: "no Chromium was found. Install one (Debian: apt-get install chromium); fetching one with apt-get failed too",
    found: OnceLock::new(),
};

/// What takes longer than this has failed.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// A browser that has a page open. It ends, and what it has kept goes, when this is dropped.
#[derive(Debug)]
pub struct Chromium {
    process: Process,
    commands: ChildStdin,
    answers: mpsc::Receiver<Value>,
    /// Of the page that is open.
    session: Option<String>,
    number: u64,
    // Last: the browser writes to it until it has ended.
    _profile: TempDir,
}

/// How large a page is shown, and in which colours.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Its width, in CSS pixels.
    pub width: u32,
    /// Its height, in CSS pixels.
    pub height: u32,
    /// Whether dark colours are preferred.
    pub is_dark: bool,
}

impl Chromium {
    /// Opens a page. `None` where no Chromium is installed and none can be fetched: the test is then left out, and is
    /// to say so.
    pub fn open(url: &str) -> Result<Option<Self>> {
        let Some(program) = PROGRAM.find()? else {
            return Ok(None);
        };
        let profile = TempDir::new()?;
        let mut folder = OsString::from("--user-data-dir=");
        folder.push(profile.path());
        let browser = program.command();
        // The pipes are its third and fourth file, and of the rest it says nothing that matters.
        let mut command = Command::new("sh");
        command.env_clear().envs(
            browser
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh"])
            .arg(browser.get_program())
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
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                "about:blank",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command).context("cannot run Chromium")?;
        let commands = process.stdin.take().context("there is a pipe")?;
        let answers = listen(process.stdout.take().context("there is a pipe")?);
        let mut browser = Self {
            process,
            commands,
            answers,
            session: None,
            number: 0,
            _profile: profile,
        };
        browser.attach()?;
        browser.go(url)?;
        Ok(Some(browser))
    }

    /// Opens another page in the place of this one.
    pub fn go(&mut self, url: &str) -> Result<()> {
        self.ask("Page.navigate", &json!({ "url": url })).map(drop)
    }

    /// Shows the page so.
    pub fn show(&mut self, screen: Screen) -> Result<()> {
        let size = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1, "mobile": screen.width < 600,
        });
        self.ask("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if screen.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// What a JavaScript expression is worth in the page.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.ask("Runtime.evaluate", &asked)?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(answer
            .pointer_mut("/result/value")
            .map(Value::take)
            .unwrap_or_default())
    }

    /// Waits until an expression is true in the page.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + ANSWER_MAX;
        // In between a page may be another, in which the expression has no meaning yet.
        while self.evaluate(expression).ok() != Some(Value::Bool(true)) {
            if Instant::now() > deadline {
                let text = self.evaluate("document.body.innerText")?;
                bail!("not so in time: {expression}; the page holds: {text}");
            }
            thread::sleep(POLL * 4);
        }
        Ok(())
    }

    /// Presses a key, such as `Tab` or `Enter`.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            _ => bail!("what {key} is to a keyboard is not known here"),
        };
        let event = |kind: &str| {
            let text = if key == "Enter" && kind == "keyDown" {
                "\r"
            } else {
                ""
            };
            json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text })
        };
        self.ask("Input.dispatchKeyEvent", &event("keyDown"))?;
        self.ask("Input.dispatchKeyEvent", &event("keyUp")).map(drop)
    }

    /// Types a text where the focus is.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.ask("Input.insertText", &json!({ "text": text })).map(drop)
    }

    /// Writes a picture of the whole page to a file, as PNG.
    pub fn picture(&mut self, file: &Path) -> Result<()> {
        let asked = json!({ "captureBeyondViewport": true, "format": "png" });
        let mut answer = self.ask("Page.captureScreenshot", &asked)?;
        let data = answer.get_mut("data").map(Value::take).unwrap_or_default();
        let data = data.as_str().context("there is no picture")?;
        // As it comes it is text, which the system can read as well as a library.
        let mut decoder = Command::new("base64");
        decoder.arg("--decode").stdin(Stdio::piped());
        let mut decoder = decoder.stdout(std::fs::File::create(file)?).spawn()?;
        let mut into = decoder.stdin.take().context("there is a pipe")?;
        into.write_all(data.as_bytes())?;
        drop(into);
        ensure!(decoder.wait()?.success(), "the picture cannot be read");
        Ok(())
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Speaks to the page from now on.
    fn attach(&mut self) -> Result<()> {
        let targets = self.ask("Target.getTargets", &json!({}))?;
        let all = targets
            .get("targetInfos")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let page = all
            .filter(|target| target.get("type") == Some(&"page".into()))
            .find_map(|target| target.get("targetId"));
        let page = page.context("no page is open")?;
        let attached = self.ask(
            "Target.attachToTarget",
            &json!({ "targetId": page, "flatten": true }),
        )?;
        let session = attached
            .get("sessionId")
            .and_then(Value::as_str)
            .map(str::to_owned);
        self.session = Some(session.context("the page does not answer")?);
        Ok(())
    }

    /// Sends a command, and waits for what comes of it.
    fn ask(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.number += 1;
        let command = match &self.session {
            Some(session) => {
                json!({ "id": self.number, "method": method, "params": parameters, "sessionId": session })
            }
            None => json!({ "id": self.number, "method": method, "params": parameters }),
        };
        let mut command = command.to_string().into_bytes();
        command.push(0);
        self.commands
            .write_all(&command)
            .context("the browser has ended")?;
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut answer = self.answers.recv_timeout(left);
            let answer = answer
                .as_mut()
                .map_err(|error| anyhow::anyhow!("{method}: {error}"))?;
            if answer.get("id") != Some(&self.number.into()) {
                // An event, which nobody asked for.
                continue;
            }
            if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(answer.get_mut("result").map(Value::take).unwrap_or_default());
        }
    }
}

/// Reads what the browser says, until it has ended.
fn listen(said: ChildStdout) -> mpsc::Receiver<Value> {
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        let mut said = BufReader::new(said);
        let mut text = Vec::new();
        while said.read_until(0, &mut text).is_ok_and(|bytes| bytes > 0) {
            text.pop();
            if let Ok(answer) = serde_json::from_slice(&text)
                && sender.send(answer).is_err()
            {
                return;
            }
            text.clear();
        }
    });
    answers
}
