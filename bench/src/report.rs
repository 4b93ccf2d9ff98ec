//! Writes down what came of a run: a Markdown page, and a drawing beside it for each chart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::chart;
use crate::figures::{figure, spread};
use crate::outcome::{Bar, Benchmark, Line, Outcome};

/// The page, and the folder of its drawings.
const PAGE: &str = "benchmarks.md";
const FOLDER: &str = "benchmarks";

const HEAD: &str = "# Benchmarks

How Highwater compares with what one would make by hand, and what it costs. All of it is measured side by side
in one run: whoever is compared takes turns, and a ratio is that of two neighbours. Times depend on the machine
and on what else it does, ratios far less. A number is the median, with the least and the most in brackets.
The program that measures wrote this page; [CONTRIBUTING.md](../CONTRIBUTING.md#benchmarks) tells how to run it.
";

/// A benchmark with what came of it.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pub(crate) benchmark: &'a Benchmark,
    pub(crate) outcome: Outcome,
}

/// Writes page and drawings into the folder `out`.
pub(crate) fn write(out: &Path, facts: &[(&str, String)], measured: &[Measured<'_>]) -> Result<()> {
    let folder = out.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for chart in measured.iter().flat_map(|measured| &measured.outcome.charts) {
        let path = folder.join(format!("{}.svg", chart.name));
        fs::write(&path, chart::svg(chart)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = out.join(PAGE);
    fs::write(&path, page(facts, measured)?).with_context(|| format!("cannot write {}", path.display()))
}

/// The numbers of one benchmark as a Markdown table.
pub(crate) fn table(outcome: &Outcome) -> String {
    let [own, beside] = outcome.heads;
    let paired = outcome.lines.iter().any(|line| line.beside.is_some());
    let barred = outcome.lines.iter().any(|line| line.bar.is_some());
    let mut heads = vec!["what", "unit", own];
    heads.extend(paired.then_some([beside, "ratio"]).into_iter().flatten());
    heads.extend(barred.then_some(["bar", "held"]).into_iter().flatten());
    let mut text = row(&heads);
    text.push_str(&row(&vec!["---"; heads.len()]));
    for line in &outcome.lines {
        let mut fields = vec![line.what.clone(), line.unit.name().to_owned(), spread(&line.own)];
        if paired {
            fields.push(line.beside.as_ref().map(spread).unwrap_or_default());
            fields.push(line.ratio().as_ref().map(spread).unwrap_or_default());
        }
        if barred {
            fields.push(bar(line));
            fields.push(held(line).to_owned());
        }
        text.push_str(&row(&fields));
    }
    text
}

fn page(facts: &[(&str, String)], measured: &[Measured<'_>]) -> Result<String, std::fmt::Error> {
    let mut text = HEAD.to_owned();
    text.push_str("\n## On what\n\n");
    text.push_str(&row(&["what", "value"]));
    text.push_str(&row(&["---", "---"]));
    for (name, value) in facts {
        text.push_str(&row(&[*name, value.as_str()]));
    }
    text.push_str("\n## What must hold\n\n");
    text.push_str(&summary(measured));
    for Measured { benchmark, outcome } in measured {
        write!(text, "\n## {}\n\n", benchmark.name)?;
        writeln!(
            text,
            "- measured: {}\n- against: {}\n- bar: {}\n",
            benchmark.measures, benchmark.against, benchmark.bar
        )?;
        text.push_str(&table(outcome));
        for note in &outcome.notes {
            write!(text, "\n{note}\n")?;
        }
        for chart in &outcome.charts {
            write!(text, "\n![{}]({FOLDER}/{}.svg)\n", chart.title, chart.name)?;
        }
    }
    Ok(text)
}

/// Every line that has a bar.
fn summary(measured: &[Measured<'_>]) -> String {
    let mut text = row(&["benchmark", "what", "measured", "bar", "held"]);
    text.push_str(&row(&["---"; 5]));
    for Measured { benchmark, outcome } in measured {
        for line in outcome.lines.iter().filter(|line| line.bar.is_some()) {
            let number = match line.bar {
                Some(Bar::Ratio(_) | Bar::RatioLeast(_)) => {
                    line.ratio().as_ref().map(spread).unwrap_or_default()
                }
                _ => format!("{} {}", spread(&line.own), line.unit.name()),
            };
            let link = format!("[{0}](#{0})", benchmark.name);
            text.push_str(&row(&[&link, &line.what, &number, &bar(line), held(line)]));
        }
    }
    text
}

fn bar(line: &Line) -> String {
    match line.bar {
        Some(Bar::Ratio(most)) => format!("ratio ≤ {}", figure(most)),
        Some(Bar::RatioLeast(least)) => format!("ratio ≥ {}", figure(least)),
        Some(Bar::Value(most)) => format!("≤ {} {}", figure(most), line.unit.name()),
        None => String::new(),
    }
}

fn held(line: &Line) -> &'static str {
    match line.holds() {
        Some(true) => "yes",
        Some(false) => "**missed**",
        None => "",
    }
}

fn row(fields: &[impl AsRef<str>]) -> String {
    let fields: Vec<&str> = fields.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", fields.join(" | "))
}
