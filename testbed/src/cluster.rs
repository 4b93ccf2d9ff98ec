//! A Postgres of one's own: made, started, stopped, crashed, started again, and gone at the end.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

use crate::binaries::Binaries;
use crate::folder::{Account, Folder};
use crate::process::{self, POLL, Signal};
use crate::{Result, kernel};

const START_SECONDS_MAX: u64 = 60;
const STOP_SECONDS_MAX: u64 = 60;
/// How many ports to try: between our look and Postgres' bind another process may take one.
const PORT_TRIES_MAX: u32 = 10;
/// Below the ports that systems give to outgoing connections: a client that tries again and again to
/// reach a stopped Postgres would else one day be given that very port, and talk to itself.
const PORTS: std::ops::Range<u16> = 15_000..30_000;
const LOG_BYTES_SHOWN_MAX: usize = 4_000;

/// What a cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For tests: in memory where there is room, and nothing is flushed. A crash of Postgres loses
    /// nothing all the same, since the operating system keeps what was written.
    Fast,
    /// For demo and benches: on disk, and flushed as a Postgres is in production.
    Durable,
}

/// A Postgres that belongs to this value: it ends, and its folder goes, when this is dropped, or when
/// our process ends in whatever way.
///
/// Its superuser is `postgres`, without a password, from this machine only. It takes 300 connections
/// and 64 prepared transactions, and its time zone is `America/New_York`, to show who relies on UTC.
#[derive(Debug)]
pub struct Cluster {
    postmaster: Option<Child>,
    port: u16,
    binaries: Binaries,
    account: Option<Account>,
    // Last, so that the reaper looks only when the rest has ended.
    folder: Folder,
}

impl Cluster {
    /// Makes and starts a cluster.
    pub fn start(profile: Profile) -> Result<Self> {
        Self::start_with(profile, &[])
    }

    /// Makes and starts a cluster with further settings, as in `postgresql.conf`.
    pub fn start_with(profile: Profile, settings: &[(&str, &str)]) -> Result<Self> {
        let cluster = Self::prepare(profile)?;
        let locale = if cfg!(target_os = "linux") { "C.UTF-8" } else { "C" };
        let mut initdb = cluster.command("initdb");
        initdb.arg("-D").arg(cluster.data_dir());
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale",
            locale,
            "--no-sync",
        ]);
        run(initdb)?;
        cluster.configure(profile, settings)?;
        cluster.started()
    }

    /// Starts a standby of this cluster, which streams from it and answers reading queries.
    pub fn start_standby(&self, profile: Profile, settings: &[(&str, &str)]) -> Result<Self> {
        let standby = Self::prepare(profile)?;
        let mut copy = standby.command("pg_basebackup");
        copy.arg("-D").arg(standby.data_dir());
        copy.args(["-R", "-c", "fast", "--no-sync", "-d", &self.url("postgres")]);
        run(copy)?;
        standby.configure(profile, settings)?;
        standby.started()
    }

    /// The URL of one of the cluster's databases; `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port, the same after a stop or a crash.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The file that Postgres logs to.
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The folder of the server's programs; [`Cluster::command`] runs them.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.folder
    }

    /// The process id of the postmaster, or `None` while it is stopped.
    pub fn postmaster(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// One of the server's programs, to be run as the cluster's owner and in its folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        // Variables such as PGPORT, LC_ALL or TZ would have a say otherwise.
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("HOME", self.folder.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        if let Some(libraries) = &self.binaries.libraries {
            command
                .env("LD_LIBRARY_PATH", libraries)
                .env("DYLD_LIBRARY_PATH", libraries);
        } else {
            command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
        }
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Stops the cluster in order: sessions are cut off, everything is written. Does nothing to one
    /// that is not running.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::Interrupt)
    }

    /// Kills every process of the cluster at once, as a crash of the machine would.
    pub fn crash(&mut self) -> Result<()> {
        let Some(postmaster) = &mut self.postmaster else {
            bail!("the cluster is not running")
        };
        let id = postmaster.id();
        // Frozen, it can neither start more processes nor tidy up after those that die.
        kernel::send_signal(id, Signal::Stop.number())?;
        let children: Vec<u32> = process::living()?
            .into_iter()
            .filter_map(|(child, parent)| (parent == id).then_some(child))
            .collect();
        for &child in &children {
            // One that has ended meanwhile is as good as killed.
            let _ = kernel::send_signal(child, Signal::Kill.number());
        }
        postmaster.kill()?;
        postmaster.wait()?;
        self.postmaster = None;
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while process::living()?
            .iter()
            .any(|(living, _)| children.contains(living))
        {
            ensure!(Instant::now() < deadline, "killed backends have not ended");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts the cluster after a stop or a crash, on the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.postmaster.is_none(), "the cluster is running");
        // What a killed backend held may take a moment to be given back.
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX / 6);
        loop {
            match self.try_start() {
                Err(_) if Instant::now() < deadline => thread::sleep(POLL),
                outcome => return outcome,
            }
        }
    }

    fn prepare(profile: Profile) -> Result<Self> {
        let binaries = Binaries::find()?;
        let account = Account::unprivileged()?;
        let folder = Folder::create(profile, account)?;
        Ok(Self {
            postmaster: None,
            port: 0,
            binaries,
            account,
            folder,
        })
    }

    /// Adds our settings to `postgresql.conf`; of two lines for one setting the later one holds.
    fn configure(&self, profile: Profile, settings: &[(&str, &str)]) -> Result<()> {
        let socket = self.folder.path().to_string_lossy();
        let common: &[(&str, &str)] = &[
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &socket),
            ("max_connections", "300"),
            ("max_prepared_transactions", "64"),
            ("shared_buffers", "128MB"),
            ("wal_level", "replica"),
            // A named region of shared memory would stay behind after a kill; a file in the folder goes with it.
            ("dynamic_shared_memory_type", "mmap"),
            ("timezone", "America/New_York"),
            ("log_timezone", "UTC"),
            ("logging_collector", "off"),
        ];
        let own: &[(&str, &str)] = match profile {
            // `synchronous_commit` stays on: tests of what a crash forgets turn it off themselves.
            Profile::Fast => &[
                ("fsync", "off"),
                ("full_page_writes", "off"),
                ("max_wal_size", "512MB"),
            ],
            Profile::Durable => &[],
        };
        let path = self.data_dir().join("postgresql.conf");
        let mut text = fs::read_to_string(&path)?;
        for (name, value) in [common, own, settings].concat() {
            write!(text, "\n{name} = '{}'\n", value.replace('\'', "''"))?;
        }
        fs::write(&path, text).context("cannot write the settings")
    }

    /// The first start, on whichever port is free.
    fn started(mut self) -> Result<Self> {
        let mut tries = 1;
        loop {
            self.port = free_port()?;
            match self.try_start() {
                Err(_) if tries < PORT_TRIES_MAX && self.log()?.contains("could not bind") => {}
                outcome => return outcome.map(|()| self),
            }
            tries += 1;
        }
    }

    fn try_start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port.to_string()]);
        // A group of its own: Ctrl-C is for us, and then the kernel or the reaper ends Postgres.
        command.process_group(0).stdout(log.try_clone()?).stderr(log);
        let mut postmaster = process::spawn(command, Signal::Quit).context("cannot run postgres")?;
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while !self.is_ready(postmaster.id()) {
            let problem = match postmaster.try_wait()? {
                Some(status) => anyhow!("postgres ended, {status}"),
                None if Instant::now() > deadline => {
                    anyhow!("postgres was not ready in {START_SECONDS_MAX} s")
                }
                None => {
                    thread::sleep(POLL);
                    continue;
                }
            };
            postmaster.kill()?;
            postmaster.wait()?;
            bail!("{problem}; its log ends:\n{}", self.log()?);
        }
        self.postmaster = Some(postmaster);
        Ok(())
    }

    /// Whether the postmaster `id` has written that it takes connections.
    fn is_ready(&self, id: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data_dir().join("postmaster.pid")) else {
            return false;
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // After a crash the file of the dead postmaster is still there, and says ready as well.
        lines.first() == Some(&id.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    /// The end of the server's log.
    fn log(&self) -> Result<String> {
        let text = fs::read(self.log_file())?;
        let shown = text.len().saturating_sub(LOG_BYTES_SHOWN_MAX);
        Ok(String::from_utf8_lossy(text.get(shown..).unwrap_or_default()).into_owned())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(postmaster) = &mut self.postmaster else {
            return Ok(());
        };
        kernel::send_signal(postmaster.id(), signal.number())?;
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while postmaster.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "postgres did not stop in {STOP_SECONDS_MAX} s"
            );
            thread::sleep(POLL);
        }
        self.postmaster = None;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // At once, since nobody will read the data again. Where this fails the reaper does it.
        let _ = self.end(Signal::Quit);
    }
}

/// Runs one of the server's programs to its end; what it had to say is in the error.
fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = process::spawn(command, Signal::Kill).with_context(|| format!("cannot run {program}"))?;
    let ended = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        ended.status.success(),
        "{program} failed, {}: {}",
        ended.status,
        said.trim()
    );
    Ok(())
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    (0..PORT_TRIES_MAX * 10)
        .map(|_| rand::random_range(PORTS))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port was found")
}
