//! The workspace's own programs, built once and found where cargo says it put them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::Result;

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `highwater-server`.
    pub server: PathBuf,
    /// `highwater`, the client.
    pub client: PathBuf,
}

/// Builds the server and the client, with optimisations for `release`, and returns where they are.
///
/// Cargo runs once in a process for each of the two; what it has to say goes to standard error.
pub fn build(release: bool) -> Result<Programs> {
    static DEBUG: Mutex<Option<Programs>> = Mutex::new(None);
    static RELEASE: Mutex<Option<Programs>> = Mutex::new(None);

    let built = if release { &RELEASE } else { &DEBUG };
    // A lock that a panic has poisoned still holds either nothing or the programs.
    let mut built = built.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(programs) = &*built {
        return Ok(programs.clone());
    }
    let programs = run_cargo(release)?;
    Ok(built.insert(programs).clone())
}

fn run_cargo(release: bool) -> Result<Programs> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace is gone")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--locked", "--bins"]);
    cargo.args(["-p", "highwater-server", "-p", "highwater-client"]);
    // Where the programs end up depends on settings and variables; cargo itself knows.
    cargo.arg("--message-format=json-render-diagnostics");
    if release {
        cargo.arg("--release");
    }
    let ran = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        ran.status.success(),
        "cargo could not build the programs, {}",
        ran.status
    );
    let built: Vec<Value> = String::from_utf8_lossy(&ran.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let program = |name: &str| -> Result<PathBuf> {
        let target = built.iter().find(|message| {
            message
                .pointer("/target/name")
                .is_some_and(|target| target == name)
                && message.get("executable").is_some_and(Value::is_string)
        });
        let path = target.and_then(|message| message.get("executable")?.as_str());
        path.map(PathBuf::from)
            .with_context(|| format!("cargo built no program {name}"))
    };
    Ok(Programs {
        server: program("highwater-server")?,
        client: program("highwater")?,
    })
}
