//! The manual that a program writes for packages, held against what its help says. Both programs have one.

use std::collections::BTreeSet;
use std::path::Path;

/// Checks the manual in a folder: a page for the program, for each command that `help` lists and for those `within`
/// commands, no other, and in none of them what was `hidden` in the environment. Gives the names of the pages.
///
/// # Panics
///
/// Where it is otherwise, or cannot be read.
pub fn assert_manual(
    folder: &Path,
    program: &str,
    help: &str,
    within: &[&str],
    hidden: &str,
) -> BTreeSet<String> {
    let (_, commands) = help.split_once("Commands:\n").expect("help with commands");
    let expected: BTreeSet<String> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|command| !command.is_empty() && *command != "help")
        .chain(within.iter().copied())
        .map(|command| format!("{program}-{command}.1"))
        .chain([format!("{program}.1")])
        .collect();
    let mut found = BTreeSet::new();
    for file in folder.read_dir().expect("a folder") {
        let file = file.expect("a file").path();
        let page = std::fs::read_to_string(&file).expect("a page");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        assert!(!page.contains(hidden), "{page}");
        let name = file.file_name().expect("a name");
        found.insert(name.to_string_lossy().into_owned());
    }
    assert_eq!(found, expected);
    found
}
