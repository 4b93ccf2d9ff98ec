//! The progress bar on standard error: with an end and the time left where the server's estimate of a
//! first pull gives them, with rows and rate otherwise, and not at all where nobody would see it.

use std::fmt::Write;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_client::{Event, Progress, ResyncReason};
use indicatif::{
    HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

use crate::commands::aside;

/// How often the bar is drawn anew while nothing arrives.
const TICK_MILLISECONDS: u64 = 120;

/// How often it is drawn at most.
const DRAWN_PER_SECOND_MAX: u8 = 10;

/// Shows how a pull comes along.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    drawn: ProgressBar,
    /// Rows of the pages that were applied: what arrives of a page is counted as it is written, and
    /// nothing arrives after the last of it.
    applied: Arc<AtomicU64>,
    quiet: bool,
}

impl Bar {
    /// A bar where standard error is a terminal and `wanted`, and one that stays hidden otherwise.
    /// Where things go wrong, both say so, unless `quiet`.
    pub(crate) fn new(wanted: bool, quiet: bool) -> Self {
        if !(wanted && !quiet && std::io::stderr().is_terminal()) {
            return Self::of(ProgressBar::hidden(), quiet);
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND_MAX);
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style("{spinner} {human_pos} rows  {msg}  {rate}  {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(TICK_MILLISECONDS));
        Self::of(bar, quiet)
    }

    fn of(drawn: ProgressBar, quiet: bool) -> Self {
        let applied = Arc::default();
        Self {
            drawn,
            applied,
            quiet,
        }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        !self.drawn.is_hidden()
    }

    /// Makes known how many rows are expected.
    pub(crate) fn expect(&self, rows: u64) {
        self.drawn.set_style(style(
            "{wide_bar} {human_pos} of about {human_len} rows  {msg}  {rate}  {left}",
        ));
        self.drawn.set_length(rows);
    }

    /// Takes note of what happens during a pull.
    pub(crate) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Progress(Progress { rows, bytes, .. }) => {
                self.at(*rows);
                self.drawn.set_message(HumanBytes(*bytes).to_string());
            }
            Event::SeedDownload { bytes, bytes_total } => {
                let total = bytes_total.map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
                self.drawn
                    .set_message(format!("seed: {}{total}", HumanBytes(*bytes)));
            }
            Event::Applied(page) => {
                let rows = page.rows + page.deleted;
                self.at(self.applied.fetch_add(rows, Ordering::Relaxed) + rows);
                for line in aside(page) {
                    self.say(&line);
                }
            }
            Event::Retrying { error, delay, .. } => {
                let seconds = delay.as_secs_f64();
                self.say(&format!("{error} (trying again in {seconds:.1} s)"));
            }
            Event::Resync { reason, .. } => {
                let why = match reason {
                    Some(ResyncReason::SourceChanged) => "the source was restored or promoted",
                    Some(ResyncReason::ScopeChanged) => "what this caller may see has changed",
                    None => "the cursor can no longer be served",
                };
                self.say(&format!(
                    "{why}; what differs is fetched, or every entity begins anew"
                ));
            }
            Event::SchemaChanged(entity) => {
                self.say(&format!("the columns of {entity} have changed; it begins anew"));
            }
            _ => {}
        }
    }

    /// Takes the seed away, of which no more comes.
    pub(crate) fn without_seed(&self) {
        self.drawn.set_message("");
    }

    fn at(&self, rows: u64) {
        // An estimate that was too low must not show more than all of it.
        if self.drawn.length().is_some_and(|expected| expected < rows) {
            self.drawn.set_length(rows);
        }
        self.drawn.set_position(rows);
    }

    /// Removes the bar, so that what comes next stands on a line of its own.
    pub(crate) fn end(&self) {
        self.drawn.finish_and_clear();
    }

    /// Says something that stays, beside the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.is_shown() {
            self.drawn.println(line);
        } else if !self.quiet {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(std::io::stderr(), "highwater: {line}");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are fixed; a bar without style is still a bar.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .with_key("left", left)
}

/// Rows in a second, without the fractions of one.
fn rate(state: &ProgressState, out: &mut dyn Write) {
    let rows = Duration::try_from_secs_f64(state.per_sec()).map_or(0, |rows| rows.as_secs());
    if rows > 0 {
        // What is drawn is drawn anew at once; there is nobody to tell that it failed.
        let _ = write!(out, "{}/s", HumanCount(rows));
    }
}

/// The time left, once there is ground for saying it: before the first rows there is no rate, and
/// beyond the estimate no end.
fn left(state: &ProgressState, out: &mut dyn Write) {
    if state.pos() > 0 && state.len().is_some_and(|expected| state.pos() < expected) {
        let _ = write!(out, "{:#} left", HumanDuration(state.eta()));
    }
}
