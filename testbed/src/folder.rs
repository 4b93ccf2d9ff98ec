//! The folder that holds a cluster or an nginx, and the reaper that removes both at the end.
//!
//! Statics are never dropped, and neither Ctrl-C nor `SIGKILL` unwinds anything. So a small shell
//! waits beside us on a pipe that only we hold: when we end, in whatever way, it reads end of file,
//! ends what works in the folder and removes it. Dropping the [`Folder`] goes the same way.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::cluster::Profile;
use crate::{Result, kernel};

/// `/dev/shm` in a container often holds 64 MB, which a cluster outgrows.
const MEMORY_FREE_BYTES_MIN: u64 = 1 << 30;
/// A socket's path may be 103 bytes at most, of which `/.s.PGSQL.54321` are 15.
const PATH_BYTES_MAX: usize = 80;

/// Ends what works in the folder `$1` and removes the folder, once standard input has ended.
const REAPER: &str = r#"
trap '' HUP INT QUIT TERM
read -r _
folder=$1
file=$folder/data/postmaster.pid
ask=QUIT
# To nginx that signal means to wait for all its callers.
if [ -f "$folder/nginx.pid" ]; then file=$folder/nginx.pid ask=TERM; fi

# The processes that work in the folder; where there is no /proc, the first of them alone. A number may
# have been given to another process meanwhile, so each is looked at.
workers() {
    if [ -d /proc/self ]; then
        ls -l /proc/[0-9]*/cwd | grep -F -- " -> $folder" | sed 's:.*/proc/\([0-9]*\)/cwd .*:\1:'
    else
        pid=$(head -n 1 "$file") && ps -ww -o command= -p "$pid" | grep -qF -- "$folder/" && echo "$pid"
    fi 2>/dev/null
}

# The first process is asked. The others end by themselves when they have lost whom they work for, and
# tidy up, as the servers do that initdb starts. Then there is no more asking: a postmaster that was
# sent SIGQUIT while it started never listens again.
tries=0
while pids=$(workers) && [ -n "$pids" ] && [ "$tries" -lt 200 ]; do
    first=$(head -n 1 "$file" 2>/dev/null)
    for pid in $pids; do
        if [ "$tries" -ge 40 ]; then kill -KILL "$pid"; elif [ "$pid" = "$first" ]; then kill -"$ask" "$pid"; fi
    done 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done

# A Postgres that was killed leaves its file, and a small block of shared memory that the file names.
block=$(sed -n '7s/.* //p' "$file" 2>/dev/null)
if [ -n "$block" ]; then ipcrm -m "$block" 2>/dev/null; fi
rm -rf "$folder"
"#;

/// The unprivileged account that a server runs as where we are root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `postgres`, or else `nobody`, where we are root; nobody in particular where we are not.
    pub(crate) fn unprivileged() -> Result<Option<Self>> {
        if !kernel::is_root() {
            return Ok(None);
        }
        let number = |flag: &str, name: &str| -> Option<u32> {
            let answer = Command::new("id").args([flag, name]).output().ok()?;
            String::from_utf8_lossy(&answer.stdout).trim().parse().ok()
        };
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| {
                Some(Self {
                    uid: number("-u", name)?,
                    gid: number("-g", name)?,
                })
            })
            .map(Some)
            .context("servers are not run as root here, and there is neither a user postgres nor nobody")
    }

    /// Has `command` run as this account, in none of our groups.
    pub(crate) fn run(self, command: &mut Command) {
        // The standard library drops the supplementary groups of a root that changes its user.
        command.gid(self.gid).uid(self.uid);
    }
}

/// A folder of its own, removed at the end together with the server in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    reaper: Child,
}

impl Folder {
    pub(crate) fn create(profile: Profile, owner: Option<Account>) -> Result<Self> {
        let parent = parent_for(profile);
        let folder = tempfile::Builder::new().prefix("highwater-").tempdir_in(&parent);
        let folder = folder.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        // Postgres refuses a data directory that others can read.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
        if let Some(Account { uid, gid }) = owner {
            chown(folder.path(), Some(uid), Some(gid)).context("cannot give the folder away")?;
        }
        let mut reaper = Command::new("sh");
        reaper.args(["-c", REAPER, "highwater-reaper"]).arg(folder.path());
        // A group of its own, so that Ctrl-C at a terminal does not reach it; no outputs, so that
        // whoever reads ours does not wait for it; and not inside the folder.
        reaper.process_group(0).current_dir("/");
        reaper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(account) = owner {
            // In a container root may not see where another user's processes work.
            account.run(&mut reaper);
        }
        let reaper = reaper
            .spawn()
            .context("cannot start the shell that clears up at the end")?;
        Ok(Self {
            path: folder.keep(),
            reaper,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // Nothing can be done about a reaper that was killed.
        let _ = self.reaper.wait();
    }
}

fn parent_for(profile: Profile) -> PathBuf {
    let memory = Path::new("/dev/shm");
    if profile == Profile::Fast && kernel::free_bytes(memory).is_ok_and(|free| free >= MEMORY_FREE_BYTES_MIN)
    {
        return memory.to_owned();
    }
    // Not the temporary directory on Linux, which is memory on many systems and may be private to us.
    let disk = Path::new("/var/tmp");
    if cfg!(target_os = "linux") && disk.is_dir() {
        return disk.to_owned();
    }
    let temporary = std::env::temp_dir();
    let room = PATH_BYTES_MAX.saturating_sub("/highwater-123456".len());
    if temporary.as_os_str().len() <= room && !kernel::is_root() {
        temporary
    } else {
        PathBuf::from("/tmp")
    }
}
