//! What a package installs beside the program: completions, and a manual with a page for each command.

use highwater_testbed::assert_manual;

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
    let pages = assert_manual(
        folder.path(),
        "highwater-server",
        &help,
        &["key-new"],
        "from-the-environment",
    );
    assert!(pages.contains("highwater-server-enable.1"), "{help}");
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
