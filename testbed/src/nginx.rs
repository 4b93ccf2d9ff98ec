//! An nginx of one's own, with the configuration that users are given.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

use crate::cluster::{Profile, free_port};
use crate::debian::{Program, Wanted};
use crate::folder::{Account, Folder};
use crate::process::{self, POLL, Signal};
use crate::{Result, kernel};

/// The configuration in `deploy/`.
pub const NGINX_CONF: &str = include_str!("../../deploy/nginx.conf");

static PROGRAM: Wanted = Wanted {
    packages: &["nginx", "nginx-light", "nginx-core"],
    path: "usr/sbin/nginx",
    names: &[],
    variable: "HIGHWATER_TESTBED_NGINX",
    advice: "no nginx was found. Install one (Debian and Ubuntu: apt-get install nginx; \
             Fedora: dnf install nginx; macOS: brew install nginx); fetching one with apt-get failed too",
    found: OnceLock::new(),
};

const START_SECONDS_MAX: u64 = 30;
const STOP_SECONDS_MAX: u64 = 30;
/// How many ports to try: between our look and nginx' bind another process may take one.
const PORT_TRIES_MAX: u32 = 10;
/// What the configuration in `deploy/` asks for.
const FILES_MAX: u64 = 131_072;
const LOG_BYTES_SHOWN_MAX: usize = 4_000;

/// An nginx that belongs to this value: it ends, and its folder goes, when this is dropped, or when
/// our process ends in whatever way.
///
/// It listens on 127.0.0.1, and runs as an unprivileged user where we are root.
#[derive(Debug)]
pub struct Nginx {
    master: Option<Child>,
    port: u16,
    program: Program,
    account: Option<Account>,
    // Last, so that the reaper looks only when the rest has ended.
    folder: Folder,
}

impl Nginx {
    /// Starts an nginx with `conf`, in which `upstreams` take the place of its servers, and addresses
    /// and folders of our own that of the rest; `conf` is [`NGINX_CONF`], or made of it.
    ///
    /// `None` where there is no nginx and none can be fetched: the test is then left out, and is to
    /// say so.
    pub fn start(conf: &str, upstreams: &[SocketAddr]) -> Result<Option<Self>> {
        let Some(program) = PROGRAM.find()? else {
            return Ok(None);
        };
        let account = Account::unprivileged()?;
        let mut nginx = Self {
            master: None,
            port: 0,
            program,
            account,
            // On disk: what it writes are pages for slow readers, and memory is what they must not cost.
            folder: Folder::create(Profile::Durable, account)?,
        };
        for tries in 1.. {
            nginx.port = free_port()?;
            nginx.configure(conf, upstreams)?;
            match nginx.try_start() {
                Err(_) if tries < PORT_TRIES_MAX && nginx.said()?.contains("bind()") => {}
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        Ok(Some(nginx))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The URL of what it serves.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process id of the master process, whose children do the work, or `None` while it is stopped.
    pub fn master(&self) -> Option<u32> {
        self.master.as_ref().map(Child::id)
    }

    /// The folder of its configuration, `nginx.conf`, and of all that it writes: below `pages` what it
    /// caches, below `passing` what slow readers have not fetched yet, and its two logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A line for each request that it has answered.
    pub fn access_log(&self) -> Result<String> {
        read(&self.folder().join("access.log"))
    }

    /// What went wrong since it was started.
    pub fn error_log(&self) -> Result<String> {
        read(&self.folder().join("error.log"))
    }

    /// Goes on with another configuration or other upstreams, as `nginx -s reload` does: running
    /// requests end as they began. Returns when only new workers take new ones; an error where nginx
    /// refuses the configuration, and then it goes on as before.
    pub fn reload(&mut self, conf: &str, upstreams: &[SocketAddr]) -> Result<()> {
        let master = self.master().context("nginx is not running")?;
        let before = fs::read(self.conf())?;
        self.configure(conf, upstreams)?;
        let tested = self.command().arg("-t").output()?;
        if !tested.status.success() {
            fs::write(self.conf(), before)?;
            bail!("nginx refuses it: {}", String::from_utf8_lossy(&tested.stderr));
        }
        let old = children(master)?;
        kernel::send_signal(master, Signal::Hangup.number())?;
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        loop {
            let now = children(master)?;
            let is_new = |child: &u32| !old.contains(child);
            if now.iter().any(is_new) && now.iter().all(|child| is_new(child) || is_retiring(*child)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "nginx did not take it in {START_SECONDS_MAX} s:\n{}",
                self.said()?
            );
            thread::sleep(POLL);
        }
    }

    /// Ends it at once, running requests too. Does nothing to one that is not running.
    pub fn stop(&mut self) -> Result<()> {
        let Some(master) = &mut self.master else {
            return Ok(());
        };
        // Not killed: its workers would not notice.
        kernel::send_signal(master.id(), Signal::Terminate.number())?;
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while master.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "nginx did not stop in {STOP_SECONDS_MAX} s"
            );
            thread::sleep(POLL);
        }
        self.master = None;
        Ok(())
    }

    /// Starts it after a stop, on the same port.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.master.is_none(), "nginx is running");
        self.try_start()
    }

    fn conf(&self) -> PathBuf {
        self.folder().join("nginx.conf")
    }

    fn configure(&self, conf: &str, upstreams: &[SocketAddr]) -> Result<()> {
        let text = adapted(conf, self.folder(), self.address(), upstreams)?;
        fs::write(self.conf(), text).context("cannot write the configuration")
    }

    fn command(&self) -> Command {
        let mut command = self.program.command();
        command.arg("-p").arg(self.folder()).arg("-c").arg(self.conf());
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        // The reaper knows what belongs to the folder by where it works.
        command.current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    fn try_start(&mut self) -> Result<()> {
        let log = File::create(self.folder().join("log"))?;
        let mut command = self.command();
        command.args(["-g", "daemon off;"]);
        // A group of its own: Ctrl-C is for us, and then the kernel or the reaper ends nginx.
        command.process_group(0).stdout(log.try_clone()?).stderr(log);
        self.master = Some(process::spawn(command, Signal::Terminate).context("cannot run nginx")?);
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while !self.is_ready()? {
            let ended = self.master.as_mut().map(Child::try_wait).transpose()?.flatten();
            let problem = match ended {
                Some(status) => anyhow!("nginx ended, {status}"),
                None if Instant::now() > deadline => anyhow!("nginx was not ready in {START_SECONDS_MAX} s"),
                None => {
                    thread::sleep(POLL);
                    continue;
                }
            };
            if ended.is_some() {
                self.master = None;
            }
            self.stop()?;
            bail!("{problem}; it said:\n{}", self.said()?);
        }
        Ok(())
    }

    /// Whether our process has written its id, which it does once it listens.
    fn is_ready(&self) -> Result<bool> {
        let id = read(&self.folder().join("nginx.pid"))?;
        Ok(self
            .master()
            .is_some_and(|master| id.trim() == master.to_string()))
    }

    /// The end of what it said while it started, and of its errors.
    fn said(&self) -> Result<String> {
        let text = read(&self.folder().join("log"))? + &self.error_log()?;
        let shown = text.floor_char_boundary(text.len().saturating_sub(LOG_BYTES_SHOWN_MAX));
        Ok(text.get(shown..).unwrap_or_default().to_owned())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Where this fails the reaper does it.
        let _ = self.stop();
    }
}

/// The text of a file, nothing where it is not there yet.
fn read(path: &Path) -> Result<String> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        bytes => Ok(String::from_utf8_lossy(&bytes?).into_owned()),
    }
}

/// The children of a process.
fn children(parent: u32) -> Result<Vec<u32>> {
    let living = process::living()?;
    Ok(living
        .into_iter()
        .filter_map(|(child, of)| (of == parent).then_some(child))
        .collect())
}

/// Whether a worker takes no more requests and only ends those it has, as its title then says. Where
/// there is no `/proc` it counts as one that does.
fn is_retiring(worker: u32) -> bool {
    let title = fs::read(format!("/proc/{worker}/cmdline")).unwrap_or_default();
    title.is_empty() || String::from_utf8_lossy(&title).contains("shutting down")
}

/// `conf` with addresses and folders of our own. An error where it lacks one that is to be replaced:
/// nothing of the system's may be touched.
fn adapted(conf: &str, folder: &Path, listen: SocketAddr, upstreams: &[SocketAddr]) -> Result<String> {
    let folder = folder.to_str().context("the folder's name is not UTF-8")?;
    // Those of modules that the configuration does not use are made all the same, by default where
    // only root may.
    let unused: String = ["client_body", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("\n    {module}_temp_path {folder}/{module};"))
        .concat();
    let mut text = with_upstreams(conf, upstreams)?;
    // An ordinary user may not have as many files open as nginx may where root starts it.
    let files = kernel::open_files_max()?.min(FILES_MAX);
    for (from, to) in [
        (
            &*format!("worker_rlimit_nofile {FILES_MAX}"),
            format!("worker_rlimit_nofile {files}"),
        ),
        ("listen 8080", format!("listen {listen}")),
        ("/var/cache/nginx", folder.to_owned()),
        ("/var/run/nginx.pid", format!("{folder}/nginx.pid")),
        ("/dev/stdout", format!("{folder}/access.log")),
        ("/dev/stderr", format!("{folder}/error.log")),
        ("\nhttp {", format!("\nhttp {{{unused}")),
    ] {
        ensure!(text.contains(from), "there is no {from:?} in the configuration");
        text = text.replace(from, &to);
    }
    Ok(text)
}

/// `conf` with `upstreams` as its servers, each with the settings that the first one has there; and
/// so, apart from those, the servers for the last resort.
fn with_upstreams(conf: &str, upstreams: &[SocketAddr]) -> Result<String> {
    let mut text = String::with_capacity(conf.len());
    let mut done = Vec::new();
    for line in conf.lines() {
        let settings = line
            .trim()
            .strip_prefix("server ")
            .and_then(|rest| rest.strip_suffix(';'))
            .and_then(|rest| Some(rest.split_once(' ')?.1));
        let Some(settings) = settings else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let is_last_resort = settings.ends_with("backup");
        if !done.contains(&is_last_resort) {
            done.push(is_last_resort);
            text.extend(
                upstreams
                    .iter()
                    .map(|address| format!("        server {address} {settings};\n")),
            );
        }
    }
    ensure!(!done.is_empty(), "there is no server in the configuration");
    Ok(text)
}
