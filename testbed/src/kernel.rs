//! The few calls to the operating system that the standard library does not make safely for us,
//! kept together so that no other file needs `unsafe`.

#![expect(
    unsafe_code,
    reason = "each block is one C call whose arguments are checked beside it"
)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

/// Whether this process is root, which Postgres refuses to be.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends `signal` to the process `pid`.
pub(crate) fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    // Zero and negative numbers mean whole groups, among them our own.
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes two numbers and touches no memory.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many bytes an ordinary user may still write to the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut answer = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte, and the answer has the size that statvfs fills.
    let answer = unsafe {
        if libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        answer.assume_init()
    };
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the widths differ by platform"
    )]
    Ok((answer.f_bavail as u64).saturating_mul(answer.f_frsize as u64))
}

/// A new terminal of a size, as its two ends: what is written to the second is read from the first.
pub(crate) fn open_terminal(lines: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut size = libc::winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the numbers and the size are ours to be read and written, and null says that nothing
    // is asked of the name and the settings. Both ends are new, and nobody else's.
    let (ours, theirs) = unsafe {
        let (name, settings) = (ptr::null_mut(), ptr::null_mut());
        if libc::openpty(&raw mut ours, &raw mut theirs, name, settings, &raw mut size) != 0 {
            return Err(io::Error::last_os_error());
        }
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    // A clone is not passed on to every child that is spawned meanwhile, as these two are.
    Ok((ours.try_clone()?, theirs.try_clone()?))
}

/// How many files a process of ours may have open, where it asks for as many as it may have.
pub(crate) fn open_files_max() -> io::Result<u64> {
    let mut answer = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the answer has the size that getrlimit fills.
    let answer = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, answer.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        answer.assume_init()
    };
    #[allow(clippy::useless_conversion, reason = "the width differs by platform")]
    Ok(answer.rlim_max.into())
}

/// Calls `last_words` when this process ends by returning from `main` or by `exit`.
pub(crate) fn at_exit(last_words: extern "C" fn()) {
    // SAFETY: the function lives as long as the program. Where it cannot be registered, nothing
    // happens at exit, and the next run clears up.
    unsafe { libc::atexit(last_words) };
}

/// Has the kernel send `signal` to the child when the thread that spawns it ends (Linux only), and
/// lets the child hear an interrupt: what a shell starts in the background is made deaf to it, and
/// would pass that on.
///
/// Use it from a thread that ends with the process, or a child dies with some passing thread.
pub(crate) fn end_with_spawner(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the calls beneath
    // are, and nothing allocates.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            end_with(parent, signal)
        });
    }
}

#[cfg(target_os = "linux")]
fn end_with(parent: u32, signal: i32) -> io::Result<()> {
    // SAFETY: both take numbers only and touch no memory.
    let (tied, actual) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid()) };
    if tied != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have ended before the kernel knew of our wish.
    if actual.cast_unsigned() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
fn end_with(_parent: u32, _signal: i32) -> io::Result<()> {
    Ok(())
}
