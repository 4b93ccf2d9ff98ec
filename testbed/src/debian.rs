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

use anyhow::{Context, anyhow, ensure};

use crate::{Result, cache};

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
    /// What it may be called besides where it is installed.
    pub(crate) names: &'static [&'static str],
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
        let names: Vec<&OsStr> = self.names.iter().map(OsStr::new).chain([name]).collect();
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(FURTHER_FOLDERS.map(PathBuf::from))
            .flat_map(|folder| {
                names
                    .iter()
                    .map(move |name| folder.join(name))
                    .collect::<Vec<_>>()
            })
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

/// Unpacks the program, and with it all that its package needs and this system lacks.
fn unpack(packages: &[&str], path: &str, aside: &Path, into: &Path) -> Result<()> {
    let mut apt = Apt::new(aside)?;
    for package in packages {
        for file in apt.download(package)? {
            extract(&file, into)?;
        }
        if into.join(path).is_file() {
            break;
        }
    }
    ensure!(into.join(path).is_file(), "none of {packages:?} has {path}");
    ensure!(
        !lacks_libraries(&into.join(path), into)?,
        "{path} needs libraries that its packages do not name"
    );
    Ok(())
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

    /// Fetches a package with all that it needs and this system lacks, and returns their files.
    fn download(&mut self, package: &str) -> Result<Vec<PathBuf>> {
        let first = self.fetch(package);
        if first.is_err() && !self.own_lists {
            // Images of containers come without lists, and old lists name files that are gone.
            self.own_lists = true;
            self.run(&["update"])?;
            self.fetch(package)?;
        } else {
            first?;
        }
        let files = fs::read_dir(self.aside.join("packages"))?.flatten();
        Ok(files.map(|file| file.path()).collect())
    }

    /// Has `apt-get` find out what a package needs, as it would to install it, and fetches that.
    fn fetch(&self, package: &str) -> Result<()> {
        let plan = self.run(&["install", "--simulate", "--no-install-recommends", package])?;
        let mut needed: Vec<&str> = to_install(&plan).collect();
        if needed.is_empty() {
            // It is installed, and is to be unpacked all the same.
            needed.push(package);
        }
        self.run(&[&["download"], needed.as_slice()].concat()).map(drop)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
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
        run(command.arg("--quiet").args(arguments))
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

/// The packages that would be installed, by lines such as `Inst libogg0 (1.3.5-3 Debian:12.15 [amd64])`.
fn to_install(plan: &str) -> impl Iterator<Item = &str> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|line| line.split_whitespace().next())
}

/// The folders below `folder` in which packages put libraries.
fn libraries(folder: &Path) -> Result<Option<OsString>> {
    let mut found = Vec::new();
    for parent in ["lib", "usr/lib"] {
        // Not every package has one.
        let entries = fs::read_dir(folder.join(parent)).into_iter().flatten();
        for entry in entries.flatten() {
            // `x86_64-linux-gnu` and its like; what packages have for themselves lies one folder deeper.
            let below = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let folders = below.map(|entry| entry.path());
            let folders = std::iter::once(entry.path()).chain(folders);
            found.extend(folders.filter(|path| holds_libraries(path)));
        }
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
    fn what_is_to_be_fetched_stands_in_the_plan() {
        let plan = "NOTE: This is only a simulation!\nReading package lists...\n\
                    Inst libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])\nInst nginx [1.0] (1.1 Debian [all])\n\
                    Conf libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(to_install(plan).collect::<Vec<_>>(), ["libogg0", "nginx"]);
    }
}
