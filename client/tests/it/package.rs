//! What a package installs beside the program: completions, and a manual with a page for each command.

use std::process::Command;

use highwater_testbed::assert_manual;

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
    let pages = assert_manual(&manual, "highwater", &help, &[], "/from/the/environment");
    assert!(pages.contains("highwater-status.1"), "{help}");
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
