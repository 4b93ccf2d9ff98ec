//! `highwater status --watch`: looks again and again. On a terminal each look takes the place of the
//! last; elsewhere they follow each other, for a pipe or a log.

use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use console::{Term, measure_text_width, truncate_str};

use super::look;
use crate::interrupt;

/// Shows how the store stands until a signal comes, which is how it is meant to end.
///
/// A look that fails is shown like any other and does not end it: the file may come, or be mended.
pub(super) async fn watch(store: &Path, as_text: bool, interval: Duration) -> anyhow::Result<()> {
    let stop = interrupt::token()?;
    let screen = Term::buffered_stdout();
    let mut shown = if as_text && can_redraw(&screen) {
        Shown::InPlace { screen, lines: 0 }
    } else {
        Shown::Below {
            as_text,
            last_error: None,
            first: true,
        }
    };
    loop {
        let looked = look(store, as_text).map_err(|error| error.to_string());
        match shown.show(store, interval, looked) {
            // Whoever closed it early has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write to standard output")?,
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Where a look goes.
enum Shown {
    InPlace {
        screen: Term,
        /// Lines that the last look has taken.
        lines: usize,
    },
    Below {
        as_text: bool,
        /// What was said last, so that it is not said at every look.
        last_error: Option<String>,
        first: bool,
    },
}

impl Shown {
    fn show(&mut self, store: &Path, interval: Duration, looked: Result<String, String>) -> io::Result<()> {
        match self {
            Self::InPlace { screen, lines } => {
                let width = usize::from(screen.size().1);
                // Where a line ends matters little in a table, and all in a message.
                let text = looked.unwrap_or_else(|error| wrapped(&error, width));
                let title = format!(
                    "{}, every {}; Ctrl-C ends it",
                    store.display(),
                    humantime::format_duration(interval)
                );
                screen.clear_last_lines(*lines)?;
                *lines = draw(screen, &title, &text)?;
                screen.flush()
            }
            Self::Below {
                as_text,
                last_error,
                first,
            } => {
                let text = match looked {
                    Ok(text) => text,
                    Err(error) if last_error.as_ref() == Some(&error) => return Ok(()),
                    Err(error) => {
                        // Whoever closed standard error does not want to know.
                        let _ = writeln!(io::stderr(), "highwater: {error}");
                        *last_error = Some(error);
                        return Ok(());
                    }
                };
                *last_error = None;
                let mut out = io::stdout().lock();
                if *as_text && !*first {
                    writeln!(out)?;
                }
                *first = false;
                writeln!(out, "{text}")?;
                out.flush()
            }
        }
    }
}

/// Whether lines can be taken back.
fn can_redraw(screen: &Term) -> bool {
    screen.is_term() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Writes as much as there is room for, and tells how many lines that took. What does not fit is
/// left out, since lines that have scrolled away or wrapped cannot be taken back.
fn draw(screen: &Term, title: &str, text: &str) -> io::Result<usize> {
    let (height, width) = screen.size();
    // The cursor stands on a line of its own.
    let room = usize::from(height).saturating_sub(1).max(1);
    let all: Vec<&str> = [title].into_iter().chain(text.lines()).collect();
    let fits = all.len() <= room;
    let kept = if fits { all.len() } else { room - 1 };
    for line in all.iter().take(kept) {
        screen.write_line(&truncate_str(line, usize::from(width), "…"))?;
    }
    if fits {
        return Ok(kept);
    }
    screen.write_line(&truncate_str(
        &format!("and {} more lines", all.len() - kept),
        usize::from(width),
        "…",
    ))?;
    Ok(kept + 1)
}

/// A message in lines that are no wider than `width`, where its words allow it.
fn wrapped(text: &str, width: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && measure_text_width(&line) + 1 + measure_text_width(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}
