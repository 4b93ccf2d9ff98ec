//! What a package installs beside the program: completions, and a manual with a page for each command.

use std::collections::BTreeSet;

use crate::program::program;

#[test]
fn every_command_has_a_page_and_no_page_tells_what_is_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let written = program(&["man"])
        .arg(folder.path())
        .env("DATABASE_URL", "postgres://from-the-environment")
        .output()
        .unwrap();
    assert!(
        written.status.success(),
        "{}",
        String::from_utf8_lossy(&written.stderr)
    );
    let help = program(&["--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let mut expected: BTreeSet<String> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|command| !command.is_empty() && *command != "help")
        .map(|command| format!("highwater-server-{command}.1"))
        .collect();
    assert!(expected.contains("highwater-server-enable.1"), "{help}");
    expected.extend(["highwater-server.1", "highwater-server-key-new.1"].map(str::to_owned));
    let mut found = BTreeSet::new();
    for file in folder.path().read_dir().unwrap() {
        let file = file.unwrap();
        let page = std::fs::read_to_string(file.path()).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        assert!(!page.contains("from-the-environment"), "{page}");
        found.insert(file.file_name().into_string().unwrap());
    }
    assert_eq!(found, expected);
}

#[test]
fn shells_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let completions = program(&["completions", shell]).output().unwrap();
        assert!(completions.status.success());
        assert!(
            String::from_utf8_lossy(&completions.stdout).contains("enable"),
            "{shell}"
        );
    }
}
