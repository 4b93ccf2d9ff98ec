//! Child processes that do not outlive their owner, whether it returns, panics or is killed.

use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel;

/// How often to look whether something has come about that nobody announces.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// A spawned program that is killed and waited for when this is dropped.
///
/// On Linux the kernel kills it as well when our process ends without dropping anything.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Spawns `command`.
    pub fn spawn(command: Command) -> io::Result<Self> {
        Ok(Self {
            child: spawn(command, Signal::Kill)?,
        })
    }

    /// Sends `signal` to the program, or an error where it has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // The number of a process that has been waited for may be another's.
        match self.child.try_wait()? {
            Some(_) => Err(io::Error::new(io::ErrorKind::NotFound, "the program has ended")),
            None => kernel::send_signal(self.child.id(), signal.number()),
        }
    }

    /// Waits for the program to end by itself, or answers `None` when `limit` has passed.
    pub fn wait_up_to(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < deadline => thread::sleep(POLL),
                ended => return Ok(ended),
            }
        }
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the program has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What to tell a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`, as Ctrl-C sends it.
    Interrupt,
    /// `SIGTERM`, as an orderly stop begins.
    Terminate,
    /// `SIGQUIT`, which stops Postgres at once.
    Quit,
    /// `SIGKILL`, which no process can refuse.
    Kill,
    /// `SIGHUP`, which has many servers read their configuration anew.
    Hangup,
    /// `SIGSTOP`, which freezes a process.
    Stop,
    /// `SIGCONT`, which lets a frozen process go on.
    Continue,
}

impl Signal {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
            Self::Hangup => libc::SIGHUP,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// Spawns `command` so that on Linux it is sent `signal` when our process ends.
///
/// The kernel ties that signal to the thread that spawned, and a test's thread ends with the test:
/// so one thread spawns for all, and never ends.
pub(crate) fn spawn(mut command: Command, signal: Signal) -> io::Result<Child> {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || queue.into_iter().for_each(|job| job()));
        jobs
    });

    kernel::end_with_spawner(&mut command, signal.number());
    let (reply, answer) = mpsc::sync_channel(1);
    let job = Box::new(move || {
        // The asker waits for the reply right below.
        let _ = reply.send(command.spawn());
    });
    let gone = |_| io::Error::other("the thread that spawns processes has ended");
    SPAWNER.send(job).map_err(|_| gone(mpsc::RecvError))?;
    answer.recv().map_err(gone)?
}

/// The living processes as pairs of id and parent's id; those that only wait to be buried are left out.
#[cfg(target_os = "linux")]
pub(crate) fn living() -> io::Result<Vec<(u32, u32)>> {
    // Not `ps`: slim container images have none.
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // `pid (any name, with blanks and brackets) state parent ...`
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        let mut tail = tail.split_whitespace();
        let (state, parent) = (tail.next(), tail.next().and_then(|parent| parent.parse().ok()));
        let id = head.split_whitespace().next().and_then(|id| id.parse().ok());
        if let (Some(id), Some(parent), Some(state)) = (id, parent, state)
            && !matches!(state, "Z" | "X")
        {
            found.push((id, parent));
        }
    }
    Ok(found)
}

/// The living processes as pairs of id and parent's id; those that only wait to be buried are left out.
#[cfg(not(target_os = "linux"))]
pub(crate) fn living() -> io::Result<Vec<(u32, u32)>> {
    let listing = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid=,stat="])
        .output()?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&listing.stdout).lines() {
        let mut fields = line.split_whitespace();
        let mut number = || fields.next().and_then(|field| field.parse().ok());
        if let (Some(id), Some(parent)) = (number(), number())
            && !fields.next().is_some_and(|state| state.starts_with('Z'))
        {
            found.push((id, parent));
        }
    }
    Ok(found)
}
