//! What a package installs beside the program: completions, and a manual with a page for each command.

use std::collections::BTreeSet;
use std::process::Command;

use crate::program::{err, highwater, out, run, text};

#[tokio::test]
async fn every_command_has_a_page_and_no_page_tells_what_is_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let manual = folder.path().join("new/man1");
    let written = highwater(&["man", text(&manual)])
        .env("HIGHWATER_STORE", "/from/the/environment")
        .output()
        .await
        .unwrap();
    assert!(written.status.success(), "{}", err(&written));
    let help = out(&run(&["--help"]).await);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let mut expected: BTreeSet<String> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|command| !command.is_empty() && *command != "help")
        .map(|command| format!("highwater-{command}.1"))
        .collect();
    assert!(expected.contains("highwater-status.1"), "{help}");
    expected.insert("highwater.1".to_owned());
    let mut found = BTreeSet::new();
    for file in manual.read_dir().unwrap() {
        let file = file.unwrap();
        let page = std::fs::read_to_string(file.path()).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        assert!(!page.contains("/from/the/environment"), "{page}");
        found.insert(file.file_name().into_string().unwrap());
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_shell_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let completions = run(&["completions", shell]).await;
        assert!(completions.status.success(), "{}", err(&completions));
        assert!(out(&completions).contains("status"), "{shell}");
        std::fs::write(folder.path().join(shell), out(&completions)).unwrap();
    }
    let complete = "source ./bash; COMP_CWORD=$(($# - 1)); COMP_WORDS=(\"$@\")
        _highwater \"$1\" \"${@: -1}\" \"${@: -2:1}\"; echo \"${COMPREPLY[@]}\"";
    for (words, expected) in [
        (&["highwater", "sta"][..], "status"),
        (&["highwater", "status", "--wa"], "--watch"),
    ] {
        let completed = Command::new("bash")
            .current_dir(folder.path())
            .args(["-c", complete, "bash"])
            .args(words)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), expected);
    }
}
