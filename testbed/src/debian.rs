//! Programs from the archive of Debian, or of Ubuntu, used without being installed.
//!
//! `apt-get` fetches and checks them, and they are unpacked into the cache. The system stays as it
//! is, and nobody needs to be root. Versions cannot be pinned: the archive keeps the newest only.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, anyhow, bail, ensure};

use crate::{Result, cache};

/// How often to look for libraries that libraries need.
const DEPTH_MAX: u32 = 4;

/// How long one answer of the archive may take. Without a network this is what its absence costs.
const ANSWER_TIME_MAX: &str = "Acquire::http::Timeout=15";

/// In most users' `PATH` there is no folder for the administrator's programs.
const FURTHER_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A program that some tests need, and are left out without.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The packages that have had it, from the newest releases to older ones.
    pub(crate) packages: &'static [&'static str],
    /// Where a package has it.
    pub(crate) path: &'static str,
    /// The variable that has these tests fail where it cannot be had.
    pub(crate) variable: &'static str,
    /// What to do where there is none.
    pub(crate) advice: &'static str,
    /// What came of the search, for the whole process: without a network it takes a while to fail.
    pub(crate) found: OnceLock<Result<Program, String>>,
}

/// A program that was installed or fetched.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    /// Folders of libraries that the system does not have, as `LD_LIBRARY_PATH` takes them.
    libraries: Option<OsString>,
}

impl Wanted {
    /// The installed program, or else one that is fetched. `None` where neither can be had, and nothing demands
    /// it.
    pub(crate) fn find(&self) -> Result<Option<Program>> {
        let found = self.found.get_or_init(|| match self.installed() {
            Some(path) => Ok(Program {
                path,
                libraries: None,
            }),
            None => fetch(self.packages, self.path).map_err(|error| format!("{error:#}")),
        });
        match found {
            Ok(program) => Ok(Some(program.clone())),
            Err(error) if env::var(self.variable).is_ok_and(|value| value == "1") => {
                Err(anyhow!("{error}").context(self.advice))
            }
            Err(_) => Ok(None),
        }
    }

    fn installed(&self) -> Option<PathBuf> {
        let name = Path::new(self.path).file_name()?;
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(FURTHER_FOLDERS.map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }
}

impl Program {
    /// Runs it, with nothing of our environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        let libraries = self.libraries.iter();
        command
            .env_clear()
            .envs(libraries.map(|folders| ("LD_LIBRARY_PATH", folders)));
        command
    }
}

/// The program that a package has at `path`, fetched first where it is not in the cache. It is taken
/// from the first of the packages that has it: which one that is differs by release.
fn fetch(packages: &[&str], path: &str) -> Result<Program> {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    // What is fetched fits this release and no other; the home folder may outlive it.
    let name = format!("{name}-{}-{}", release()?, env::consts::ARCH);
    let folder = cache::kept(&name, |aside, into| unpack(packages, path, aside, into))?;
    Ok(Program {
        path: folder.join(path),
        libraries: libraries(&folder)?,
    })
}

/// Unpacks the program and the libraries that it lacks here.
fn unpack(packages: &[&str], path: &str, aside: &Path, into: &Path) -> Result<()> {
    let mut apt = Apt::new(aside)?;
    let mut unpacked = Vec::new();
    for package in packages {
        let file = apt.download(package)?;
        extract(&file, into)?;
        unpacked.push(file);
        if into.join(path).is_file() {
            break;
        }
    }
    ensure!(into.join(path).is_file(), "none of {packages:?} has {path}");
    for _ in 0..DEPTH_MAX {
        if lacks_libraries(&into.join(path), into)? {
            let mut further = Vec::new();
            for package in needed_libraries(&unpacked)? {
                let file = apt.download(&package)?;
                extract(&file, into)?;
                further.push(file);
            }
            unpacked = further;
        } else {
            return Ok(());
        }
    }
    bail!("{path} needs libraries that its packages do not name")
}

/// `apt-get`, with the package lists of the system, or with some of its own where those do not do.
struct Apt<'a> {
    aside: &'a Path,
    own_lists: bool,
}

impl<'a> Apt<'a> {
    fn new(aside: &'a Path) -> Result<Self> {
        for folder in ["packages", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(aside.join(folder))?;
        }
        Ok(Self {
            aside,
            own_lists: false,
        })
    }

    /// Fetches a package, and returns its file.
    fn download(&mut self, package: &str) -> Result<PathBuf> {
        let first = self.run(&["download", package]);
        if first.is_err() && !self.own_lists {
            // Images of containers come without lists, and old lists name files that are gone.
            self.own_lists = true;
            self.run(&["update"])?;
            self.run(&["download", package])?;
        } else {
            first?;
        }
        let prefix = format!("{package}_");
        let files = fs::read_dir(self.aside.join("packages"))?;
        files
            .flatten()
            .find(|file| file.file_name().to_string_lossy().starts_with(&prefix))
            .map(|file| file.path())
            .with_context(|| format!("apt-get fetched no {package}"))
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.current_dir(self.aside.join("packages"));
        // For root, its unprivileged helper could not write here.
        for option in ["APT::Sandbox::User=root", "Acquire::Retries=1", ANSWER_TIME_MAX] {
            command.args(["-o", option]);
        }
        if self.own_lists {
            for (name, folder) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
                let mut option = OsString::from(format!("{name}="));
                option.push(self.aside.join(folder));
                command.arg("-o").arg(option);
            }
            // What is installed says which architecture this is, among other things.
            command.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        }
        run(command.arg("--quiet").args(arguments)).map(drop)
    }
}

/// Runs a program to its end, and returns what it printed; what it had to complain of is in the error.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ran = command
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(
        ran.status.success(),
        "{program} failed, {}: {}",
        ran.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn extract(file: &Path, into: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(into)).map(drop)
}

/// Whether the loader misses a library of the program's.
fn lacks_libraries(program: &Path, folder: &Path) -> Result<bool> {
    let mut ldd = Command::new("ldd");
    if let Some(libraries) = libraries(folder)? {
        ldd.env("LD_LIBRARY_PATH", libraries);
    }
    Ok(run(ldd.arg(program))?.contains("not found"))
}

/// The packages of libraries that these packages ask for.
fn needed_libraries(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files {
        let depends = run(Command::new("dpkg-deb").arg("--field").arg(file).arg("Depends"))?;
        found.extend(libraries_among(&depends).map(str::to_owned));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The libraries in a list of packages such as `libc6 (>= 2.34), libssl3 | libssl3t64, iproute2`.
fn libraries_among(depends: &str) -> impl Iterator<Item = &str> {
    depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        // The C library belongs to the loader, and every system has both.
        .filter(|name| (name.starts_with("lib") || name.starts_with("zlib")) && *name != "libc6")
}

/// The folders below `folder` in which packages put libraries.
fn libraries(folder: &Path) -> Result<Option<OsString>> {
    let mut found = Vec::new();
    for parent in ["lib", "usr/lib"] {
        // Not every package has one.
        let entries = fs::read_dir(folder.join(parent)).into_iter().flatten();
        // `x86_64-linux-gnu` and its like.
        found.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| holds_libraries(path)),
        );
    }
    if found.is_empty() {
        return Ok(None);
    }
    Ok(Some(env::join_paths(found)?))
}

fn holds_libraries(folder: &Path) -> bool {
    let mut files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.any(|file| {
        Path::new(&file.file_name()).extension() == Some(OsStr::new("so"))
            || file.file_name().to_string_lossy().contains(".so.")
    })
}

/// The release of the system, as `bookworm`.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("this is not Debian or its like")?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.map(|name| name.trim_matches('"').to_owned());
    name.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .context("/etc/os-release names no release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_from_other_packages() {
        let depends = "libc6 (>= 2.34), libssl3 | libssl3t64 (>= 3.0.0),zlib1g (>= 1:1.1.4), iproute2\n";
        assert_eq!(
            libraries_among(depends).collect::<Vec<_>>(),
            ["libssl3", "zlib1g"]
        );
    }
}
