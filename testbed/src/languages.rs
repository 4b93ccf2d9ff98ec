//! Programs of other languages, which tests of documents and examples run where they are installed.

use std::process::{Command, Stdio};

/// The variable that has such tests fail where the program is missing.
const VARIABLE: &str = "HIGHWATER_TESTBED_LANGUAGES";

/// Whether `program` is there, and ends well with these arguments. Where it is not, the test is left
/// out, and this says so.
///
/// # Panics
///
/// Where it is not, and `HIGHWATER_TESTBED_LANGUAGES` is 1.
#[expect(clippy::print_stderr, reason = "it is for whoever reads what a test says")]
pub fn has_language(program: &str, probe: &[&str]) -> bool {
    let ran = Command::new(program)
        .args(probe)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if ran.is_ok_and(|status| status.success()) {
        return true;
    }
    let missing = format!("{program} {} does not work here", probe.join(" "));
    let is_needed = std::env::var(VARIABLE).is_ok_and(|value| value == "1");
    assert!(!is_needed, "{missing}");
    eprintln!("left out: {missing}");
    false
}
