//! A PgBouncer of one's own, before a Postgres.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cluster::{Profile, free_port};
use crate::debian::Wanted;
use crate::folder::{Account, Folder};
use crate::process::{self, POLL, Signal};
use crate::{Cluster, Result};

static PROGRAM: Wanted = Wanted {
    packages: &["pgbouncer"],
    path: "usr/sbin/pgbouncer",
    names: &[],
    variable: "HIGHWATER_TESTBED_PGBOUNCER",
    advice: "no pgbouncer was found. Install one (Debian and Ubuntu: apt-get install pgbouncer)",
    found: OnceLock::new(),
};

const START_SECONDS_MAX: u64 = 30;

/// A PgBouncer that belongs to this value: it ends, and its folder goes, when this is dropped, or when our process
/// ends in whatever way.
#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    port: u16,
    // Last, so that the reaper looks only when the rest has ended.
    folder: Folder,
}

impl PgBouncer {
    /// Starts one before all databases of a cluster, with `pool_mode` and at most `connections` to each.
    /// Everything else is as it comes, but that whoever logs in is `postgres`.
    ///
    /// `None` where there is no PgBouncer and none can be fetched: the test is then left out, and is to say so.
    pub fn start(cluster: &Cluster, pool_mode: &str, connections: u32) -> Result<Option<Self>> {
        let Some(program) = PROGRAM.find()? else {
            return Ok(None);
        };
        // It does not run as root.
        let account = Account::unprivileged()?;
        let folder = Folder::create(Profile::Fast, account)?;
        let port = free_port()?;
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = {connections}\nmax_client_conn = 500\n",
            cluster.port()
        );
        fs::write(&configuration, text).context("cannot write the configuration")?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = program.command();
        if let Some(account) = account {
            account.run(&mut command);
        }
        // The reaper knows what belongs to the folder by where it works.
        command.arg(&configuration).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0);
        let child = process::spawn(command, Signal::Kill).context("cannot run pgbouncer")?;
        let mut bouncer = Self { child, port, folder };
        bouncer.wait_until_ready()?;
        Ok(Some(bouncer))
    }

    /// The URL of one of the cluster's databases, through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("pgbouncer ended, {status}:\n{}", self.log()?);
            }
            if Instant::now() > deadline {
                bail!(
                    "pgbouncer was not ready in {START_SECONDS_MAX} s:\n{}",
                    self.log()?
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Both fail only where it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
