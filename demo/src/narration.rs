//! What the demo says, in numbered steps, as plain lines for a terminal and a pipe alike.

use std::io::{self, Stdout, Write as _};

/// Tells the steps, and knows which one it is at.
#[derive(Debug)]
pub(crate) struct Narration {
    out: Stdout,
    number: u32,
    title: String,
}

impl Narration {
    pub(crate) fn new() -> Self {
        Self {
            out: io::stdout(),
            number: 0,
            title: String::new(),
        }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &str) -> io::Result<()> {
        self.number += 1;
        title.clone_into(&mut self.title);
        self.write(&format!("\n{}. {title}", self.number))
    }

    /// Says something within a step; each line of `text` is indented.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        text.lines()
            .try_for_each(|line| self.write(&format!("   {line}")))
    }

    /// Shows a command line that is about to be run, or that may be tried.
    pub(crate) fn command(&self, line: &str) -> io::Result<()> {
        self.say(&format!("$ {line}"))
    }

    /// Shows a statement that Postgres has run, and what came of it.
    pub(crate) fn sql(&self, statement: &str, outcome: &str) -> io::Result<()> {
        self.say(&format!("sql> {statement};{outcome}"))
    }

    /// Says which step went wrong.
    pub(crate) fn failed(&self) -> String {
        format!("step {} failed ({})", self.number, self.title)
    }

    /// Writes a line at once. Whoever closed standard output early has seen enough; the demo still
    /// ends in order.
    fn write(&self, line: &str) -> io::Result<()> {
        let mut out = self.out.lock();
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// A number as people read it: `27,004`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [0, 999, 1_000, 27_004, 1_234_567].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "27,004", "1,234,567"]);
    }
}
