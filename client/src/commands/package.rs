//! `highwater completions` and `highwater man`: what a package installs beside the program.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::print;
use crate::cli::Cli;

/// Prints what the shell is to know of the command line.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "highwater", &mut text);
    print(String::from_utf8(text)?.trim_end())
}

/// Writes a page of the manual for the program and for each of its commands.
pub(crate) fn man(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder))
        .with_context(|| format!("cannot write the manual into {}", folder.display()))
}
