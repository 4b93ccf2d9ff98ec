//! The progress bar on standard error: with a known end on a first pull, with rows and rate
//! otherwise, and not at all where nobody would see it.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use highwater_client::{Event, Progress, ResyncReason};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::user_objects;

/// How often the bar is drawn anew while nothing arrives.
const TICK_MILLISECONDS: u64 = 120;

/// How often it is drawn at most.
const DRAWN_PER_SECOND_MAX: u8 = 10;

/// Shows how a pull comes along.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    quiet: bool,
}

impl Bar {
    /// A bar where standard error is a terminal and `wanted`, and one that stays hidden otherwise.
    /// Where things go wrong, both say so, unless `quiet`.
    pub(crate) fn new(wanted: bool, quiet: bool) -> Self {
        if !(wanted && !quiet && std::io::stderr().is_terminal()) {
            return Self {
                bar: ProgressBar::hidden(),
                quiet,
            };
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND_MAX);
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style("{spinner} {human_pos} rows  {msg}  {per_sec}  {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(TICK_MILLISECONDS));
        Self { bar, quiet }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Makes known how many rows are expected.
    pub(crate) fn expect(&self, rows: u64) {
        self.bar.set_style(style(
            "{wide_bar} {human_pos} of about {human_len} rows  {msg}  {per_sec}  {eta} left",
        ));
        self.bar.set_length(rows);
    }

    /// Takes note of what happens during a pull.
    pub(crate) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Progress(Progress { rows, bytes, .. }) => {
                // An estimate that was too low must not show more than all of it.
                if self.bar.length().is_some_and(|expected| expected < *rows) {
                    self.bar.set_length(*rows);
                }
                self.bar.set_position(*rows);
                self.bar.set_message(HumanBytes(*bytes).to_string());
            }
            Event::Applied(page) => {
                for line in user_objects(page) {
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

    /// Removes the bar, so that what comes next stands on a line of its own.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something that stays, beside the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.is_shown() {
            self.bar.println(line);
        } else if !self.quiet {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(std::io::stderr(), "highwater: {line}");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are fixed; a bar without style is still a bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
