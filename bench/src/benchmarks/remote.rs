//! Pulls over a slow link, where it is bytes that cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use highwater_testbed::{Fault, Proxy};

use super::nothing_new::cursor;
use crate::data::PARTS;
use crate::figures::count;
use crate::highwater::{self, Server};
use crate::measure::{Rounds, Samples, float, rounds};
use crate::outcome::{Benchmark, Chart, Line, Outcome, Unit};
use crate::pages::{Encoding, Form, Reader};
use crate::stage::Stage;

const LINK_BITS_PER_SECOND: u32 = 10_000_000;
/// The link sets the pace, and hardly varies.
const LINK_RUNS_MAX: usize = 3;
const ROWS_DELETED: u64 = 100;
const HEADS: [&str; 2] = ["Highwater", "uncompressed"];

pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "remote",
    measures: "time and bytes of pulls over a link of 10 Mbit/s, and without such a link",
    against: "the same pages without compression",
    bar: "none, it is only shown",
    run: |stage| Box::pin(run(stage)),
};

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// All pages of a pull in one form, one after another, into nothing.
    Raw(Form, Encoding),
    /// The client, as it is.
    Client,
}

const COPY: [Who; 4] = [
    Who::Raw(Form::Copy, Encoding::Identity),
    Who::Raw(Form::Copy, Encoding::Gzip),
    Who::Raw(Form::Copy, Encoding::Zstd),
    Who::Client,
];
const JSON: [Who; 3] = [
    Who::Raw(Form::Json, Encoding::Identity),
    Who::Raw(Form::Json, Encoding::Gzip),
    Who::Raw(Form::Json, Encoding::Zstd),
];

/// A pull that can be repeated: the pages it consists of, and a store that it begins with.
struct Pull {
    name: &'static str,
    /// The units of its times and of its bytes, with how many of each make a second or are a byte.
    time: (Unit, f64),
    size: (Unit, f64),
    paths: Vec<String>,
    store: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    /// Of the bodies; over the link of all that passed it.
    bytes: u64,
}

async fn run(stage: &Stage) -> Result<Outcome> {
    let data = stage.sizes.flights();
    let database = highwater::enabled(stage, data).await?;
    let server = Server::start(stage, &database).await?;
    let rows = database.count(data.table()).await?;
    let (_, store) = highwater::pulled_anew(stage, &server.url, rows).await?;
    let since = cursor(&store)?;
    let changed = database.rows_of(data.change(0)).await?;
    let deleted = database.rows_of(data.delete(PARTS / 2, ROWS_DELETED)).await?;
    let reader = Reader::new(&server.url)?;
    let first = Pull {
        name: "first pull",
        time: (Unit::Seconds, 1.0),
        size: (Unit::Mebibytes, 1024.0 * 1024.0),
        paths: reader.paths(None, None).await?.0,
        store: None,
    };
    let small = Pull {
        name: "small pull",
        time: (Unit::Milliseconds, 1000.0),
        size: (Unit::Kibibytes, 1024.0),
        paths: reader.paths(Some(since), None).await?.0,
        store: Some(store),
    };
    let (mut lines, mut charts) = (Vec::new(), Vec::new());
    for pull in [&first, &small] {
        let link = link(&server).await?;
        let linked = rounds(link_runs(stage), &COPY, async |who, _| {
            let before = link.passed();
            let cost = pull.done(stage, &link.url(), who).await?;
            Ok(Cost {
                bytes: link.passed() - before,
                ..cost
            })
        })
        .await?;
        let everyone = [&COPY[..], &JSON].concat();
        let local = rounds(stage.sizes.pairs, &everyone, async |who, _| {
            // One that is asked the same again keeps pages.
            let server = Server::start(stage, &database).await?;
            pull.done(stage, &server.url, who).await
        })
        .await?;
        lines.extend(pull.lines(&linked, &local));
        charts.extend(pull.charts(&linked, &local));
    }
    Ok(Outcome {
        heads: HEADS,
        lines,
        charts,
        notes: vec![format!(
            "The first pull is of {} flights, the small one of {} changed rows and {deleted} deletions. \
             What is named after an encoding is read into nothing, page by page, without decoding it; the \
             client keeps a store, and asks for no compression, since the link begins on its own \
             machine; of other machines it asks for zstd. Without the link each has a server of its own, since \
             one that is asked the same again keeps pages. Bytes over the link are all that passed it, others \
             those of the bodies. The link has a rate, and no latency.",
            count(rows - deleted),
            count(changed)
        )],
    })
}

/// A link of 10 Mbit/s to a server.
pub(super) async fn link(server: &Server) -> Result<Proxy> {
    let address = server
        .url
        .strip_prefix("http://")
        .context("not a URL of a server")?;
    let link = Proxy::before(address.parse()?).await?;
    link.set(Fault::Throttle(LINK_BITS_PER_SECOND));
    Ok(link)
}

/// How often to measure over the link.
pub(super) fn link_runs(stage: &Stage) -> usize {
    if stage.sizes.quick {
        1
    } else {
        stage.sizes.pairs.min(LINK_RUNS_MAX)
    }
}

impl Pull {
    /// Does the pull once.
    async fn done(&self, stage: &Stage, server: &str, who: Who) -> Result<Cost> {
        let began = Instant::now();
        match who {
            Who::Raw(form, encoding) => {
                let reader = Reader::new(server)?;
                let mut bytes = 0;
                for path in &self.paths {
                    bytes += reader.read(path, form, encoding).await?;
                }
                let seconds = began.elapsed().as_secs_f64();
                Ok(Cost { seconds, bytes })
            }
            Who::Client => {
                let store = stage.store();
                if let Some(from) = &self.store {
                    copy(from, &store)?;
                }
                let pulled = highwater::pulled(stage, server, &store).await?;
                ensure!(pulled.rows > 0, "the client has pulled nothing");
                Stage::remove(&store)?;
                let (seconds, bytes) = (pulled.seconds, pulled.bytes);
                Ok(Cost { seconds, bytes })
            }
        }
    }

    /// Everyone beside those who read the same form without compression.
    fn lines(&self, linked: &Rounds<Who, Cost>, local: &Rounds<Who, Cost>) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut add = |how: &str,
                       unit: Unit,
                       rounds: &Rounds<Who, Cost>,
                       whom: &[Who],
                       number: &dyn Fn(&Cost) -> f64| {
            if let Some((plain, others)) = whom.split_first() {
                for who in others {
                    let what = format!("{}, {how}, {}", self.name, who.name());
                    let (own, beside) = (rounds.of(*who, number), rounds.of(*plain, number));
                    lines.push(Line::pair(what, unit, own, beside));
                }
            }
        };
        let time = |cost: &Cost| self.time_of(cost);
        let size = |cost: &Cost| self.size_of(cost);
        add("10 Mbit/s", self.time.0, linked, &COPY, &time);
        add("local", self.time.0, local, &COPY, &time);
        add("local", self.time.0, local, &JSON, &time);
        add("bytes", self.size.0, linked, &COPY, &size);
        add("bytes", self.size.0, local, &JSON, &size);
        lines
    }

    /// The times over the link, and the bytes.
    fn charts(&self, linked: &Rounds<Who, Cost>, local: &Rounds<Who, Cost>) -> [Chart; 2] {
        let group = |who: &Who, samples: Samples| (who.name(), vec![samples]);
        let name = self.name.replace(' ', "-");
        let times = COPY
            .iter()
            .map(|who| group(who, linked.of(*who, |cost| self.time_of(cost))));
        let copy = COPY
            .iter()
            .map(|who| group(who, linked.of(*who, |cost| self.size_of(cost))));
        let json = JSON
            .iter()
            .map(|who| group(who, local.of(*who, |cost| self.size_of(cost))));
        [
            Chart::of_one(
                &format!("{}-{name}-time", BENCHMARK.name),
                &format!("A {} over 10 Mbit/s", self.name),
                self.time.0,
                times.collect(),
            ),
            Chart::of_one(
                &format!("{}-{name}-bytes", BENCHMARK.name),
                &format!("The bytes of a {}", self.name),
                self.size.0,
                copy.chain(json).collect(),
            ),
        ]
    }

    fn time_of(&self, cost: &Cost) -> f64 {
        cost.seconds * self.time.1
    }

    fn size_of(&self, cost: &Cost) -> f64 {
        float(cost.bytes) / self.size.1
    }
}

impl Who {
    fn name(self) -> String {
        match self {
            Self::Raw(form, encoding) => format!("{} {}", form.name(), encoding.name()),
            Self::Client => "client".to_owned(),
        }
    }
}

/// Copies a store that nobody has open.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut log = from.as_os_str().to_owned();
    log.push("-wal");
    // Who only reads may leave one behind, without anything in it.
    let logged = fs::metadata(log).map_or(0, |log| log.len());
    ensure!(logged == 0, "the store was not closed");
    fs::copy(from, to)?;
    Ok(())
}
